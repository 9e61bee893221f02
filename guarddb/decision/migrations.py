"""Migration safety: what a definition would do to everybody else, by the lint of migrations."""

from __future__ import annotations

from guarddb.decision.case import Case
from guarddb.decision.refusal import Finding, Refusal
from guarddb.lint.finding import Finding as LintFinding
from guarddb.lint.migrations import lint, lint_parsed
from guarddb.sql.catalog import Catalog
from guarddb.tree import Node

#: Kinds that may lock others out. An agent's own reads and writes are not the lint's business.
_JUDGED = frozenset(("ddl", "other"))
#: What depends on the session, which a decision does not know: its settings.
_NOT_KNOWN_HERE = frozenset(("missing_lock_timeout",))


def migration_safety(
    sql: str, raws: list[Node], cases: tuple[Case, ...]
) -> Refusal | tuple[tuple[Finding, ...], tuple[tuple[str, str], ...]]:
    """The refusal of `migration_safety: block`, or what is to be noted, and what the session is to be warned of.

    Several statements of one text are one transaction for the server, and are judged so.

    >>> from guarddb import evaluate
    >>> evaluate("CREATE INDEX ON orders (total)", {"access_mode": "read_write", "migration_safety": "block"}).hint
    'CREATE INDEX CONCURRENTLY ON orders (total);'
    """
    policy, catalog = cases[0].policy, cases[0].catalog
    mode = policy.profile.migration_safety
    if mode == "off" or not any(case.statement.kinds & _JUDGED for case in cases):
        return (), ()
    found = [
        finding
        for finding in lint_parsed(sql, raws, catalog, in_transaction=len(raws) > 1)
        if finding.rule not in _NOT_KNOWN_HERE
    ]
    if mode == "block":
        for finding in found:
            if finding.severity == "error":
                return Refusal(
                    "migration_block",
                    f"migration blocked: {finding.rule}. {finding.message}",
                    finding.hint,
                    deciding="migration_safety",
                )
    notes = tuple(Finding("migration_block", said(finding)) for finding in found)
    return notes, tuple((finding.rule, said(finding)) for finding in found if finding.severity != "info")


def findings_about(sql: str, catalog: Catalog | None) -> tuple[LintFinding, ...]:
    """What the lint says of a text that is about to be sent, for the person who is asked about it; whatever the policy's
    mode."""
    return tuple(finding for finding in lint(sql, catalog) if finding.rule not in _NOT_KNOWN_HERE)


def said(finding: LintFinding) -> str:
    """A finding in one line: `migration warning: missing_concurrently. CREATE INDEX …`."""
    return f"migration {finding.severity}: {finding.rule}. {finding.message}"
