"""A migration rewritten into its safe form: the same result, step by step, while others go on."""

from __future__ import annotations

from dataclasses import dataclass

from guarddb.lint.acts import Act, Remark
from guarddb.lint.finding import Finding
from guarddb.lint.judging import stands_in_the_way
from guarddb.lint.migrations import LOCK_TIMEOUT, Step, lint, walk
from guarddb.lint.script import Script
from guarddb.lint.sizes import size_of
from guarddb.lint.text import StatementText
from guarddb.sql.catalog import Catalog

_APART = "-- each statement by itself: what is slow must not hold the locks of what is quick"


@dataclass(frozen=True, slots=True)
class Fixed:
    """The rewritten script, and the findings that are left in it."""

    sql: str
    left: tuple[Finding, ...]


def fix(
    sql: str,
    catalog: Catalog | None = None,
    *,
    in_transaction: bool = False,
    server_version: int | None = None,
) -> Fixed:
    """Rewrite what has a safe form: CONCURRENTLY, NOT VALID and VALIDATE, CHECK before SET NOT NULL, batches, lock_timeout.

    What destroys data, and what has no safe form, is left as it is and told in `left`. The statements of a transaction that
    has to be
    taken apart are not undone together any more.

    Raises:
        SQLSyntaxError: the script does not parse.
    """
    options = {"in_transaction": in_transaction, "server_version": server_version}
    steps = list(walk(sql, catalog, **options))  # type: ignore[arg-type]
    needs_timeout = any(finding.rule == "missing_lock_timeout" for step in steps for finding in step.findings)
    apart = _taken_apart(steps)
    again = list(walk(apart, catalog, server_version=server_version))
    lines = [f"SET lock_timeout = '{LOCK_TIMEOUT}';"] if needs_timeout else []
    lines += [_safe_form(step, catalog) or f"{step.statement.text};" for step in again]
    text = "\n".join(lines) + "\n"
    if _APART in apart:
        text = f"{_APART}\n{text}"
    return Fixed(text, tuple(lint(text, catalog, server_version=server_version)))


def _is_bad(step: Step) -> bool:
    return any(finding.severity == "error" for finding in step.findings)


def _taken_apart(steps: list[Step]) -> str:
    """The script with transactions opened up that hold what has to be slow, and with one command for each ALTER TABLE that is
    bad."""
    lines: list[str] = []
    block: list[Step] = []
    opening: Step | None = None
    apart = False
    for step in steps:
        kind = step.statement.fields.get("kind", "") if step.statement.kind == "TransactionStmt" else None
        if kind in ("TRANS_STMT_BEGIN", "TRANS_STMT_START") or (kind == "" and opening is None):
            opening, block = step, []
        elif kind == "TRANS_STMT_COMMIT":
            bad = any(_is_bad(each) for each in block)
            apart = apart or bad
            if opening is not None and not bad:
                lines.append(f"{opening.statement.text};")
            for each in block:
                lines += _single_commands(each)
            if opening is not None and not bad:
                lines.append(f"{step.statement.text};")
            opening, block = None, []
        elif opening is not None:
            block.append(step)
        else:
            lines += _single_commands(step)
            apart = apart or (step.in_transaction and _is_bad(step))
    if opening is not None:
        lines.append(f"{opening.statement.text};")
    for each in block:
        lines += _single_commands(each)
    if apart:
        lines.insert(0, _APART)
    return "\n".join(lines)


def _single_commands(step: Step) -> list[str]:
    statement = step.statement
    if statement.kind != "AlterTableStmt" or not _is_bad(step) or len(statement.commands) < 2:
        return [f"{statement.text};"]
    return [f"{head_of(statement)} {command};" for command in statement.commands]


def head_of(statement: StatementText) -> str:
    """`ALTER TABLE ONLY orders`."""
    return statement.text[: statement.text.index(statement.commands[0])].rstrip()


def _safe_form(step: Step, catalog: Catalog | None) -> str | None:
    script = Script(catalog, None)
    found = {finding.rule for finding in step.findings if finding.severity != "info"}
    for said in step.said:
        if isinstance(said, Remark):
            if said.fixes and said.hint is not None and said.rule in found:
                return said.hint
        elif said.safe is not None and said.rule in found and _worth_it(said, script):
            return said.safe
    return None


def _worth_it(act: Act, script: Script) -> bool:
    return stands_in_the_way(act) and not size_of(act.target, script).tiny
