"""What an act is worth: from locks and work to findings, in one place for all families.

`error`: a lock that others wait for is held while there is work that grows with the table; data is destroyed; the statement
cannot run as
it is written. `warning`: a strong lock for a moment only, but something is missing that keeps the moment short, or clients
break. `info`: the
table is so small that it does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from guarddb.lint.acts import Act, Lock, Remark, Said, Work
from guarddb.lint.finding import Finding, Severity
from guarddb.lint.script import Script
from guarddb.lint.sizes import size_of
from guarddb.lint.text import StatementText

#: The work that a message names first.
_WORST = (Work.REWRITE, Work.INDEX, Work.FOREIGN_KEY, Work.SCAN)


def findings_of(said: Iterable[Said], statement: StatementText, script: Script) -> Iterator[Finding]:
    """The findings of one statement by itself."""
    acts: dict[tuple[str, str], Act] = {}
    for each in said:
        if isinstance(each, Remark):
            if (finding := _remarked(each, statement, script)) is not None:
                yield finding
        elif each.rule and stands_in_the_way(each) and not script.is_new(each.target):
            # One finding for a rule: a statement that rewrites a table and scans its child says so once.
            key = (each.rule, "" if each.implied else each.target.sql)
            if key not in acts or _rank(each) < _rank(acts[key]):
                acts[key] = each
    reported = {act.rule for act in acts.values() if not act.implied}
    for act in acts.values():
        if not (act.implied and act.rule in reported):
            yield _judged(act, statement, script)


def stands_in_the_way(act: Act) -> bool:
    """Whether others wait while the work is done."""
    if act.work is None or act.momentary:
        return False
    if act.target.relation is not None and act.target.relation.kind == "m":
        return act.lock.blocks_reads  # nobody else writes to a materialised view
    return act.lock.blocks_writes


def is_strong(act: Act) -> bool:
    """Whether it is a lock that ordinary statements wait for, be it for a moment."""
    return act.lock.blocks_writes and not act.momentary


def _rank(act: Act) -> int:
    return _WORST.index(act.work) if act.work is not None else len(_WORST)


def _judged(act: Act, statement: StatementText, script: Script) -> Finding:
    size = size_of(act.target, script)
    severity: Severity = "error" if act.certain else "warning"
    assert act.work is not None
    estimate = size.shown(act.work)
    if size.tiny:
        severity = "info"
    during = f" ({estimate})" if estimate else ""
    blocked = "reads" if act.target.relation is not None and act.target.relation.kind == "m" else None
    message = (
        f"{act.why}: an {act.lock.sql} lock on {act.target.sql} blocks {blocked or act.lock.blocked} while "
        f"{act.work.value}{during}"
    ).replace(": an SHARE", ": a SHARE")
    if not act.certain:
        message += "; whether it has to depends on what only the catalog tells"
    if severity == "info":
        message += "; the table is so small that nobody notices"
    return Finding(severity, act.rule, message, statement.text, act.safe)


def _remarked(remark: Remark, statement: StatementText, script: Script) -> Finding | None:
    severity = remark.severity
    if remark.target is not None:
        if script.is_new(remark.target):
            return None
        if remark.loses and size_of(remark.target, script).empty:
            return Finding(
                "warning",
                remark.rule,
                f"{remark.message}; by PostgreSQL's estimate the table is empty",
                statement.text,
                remark.hint,
            )
    return Finding(severity, remark.rule, remark.message, statement.text, remark.hint)


def strongest(acts: Iterable[Act]) -> dict[tuple[str, str], tuple[Lock, frozenset[Work]]]:
    """For each relation the strongest lock and all work, as a server can be asked for them."""
    found: dict[tuple[str, str], tuple[Lock, frozenset[Work]]] = {}
    for act in acts:
        lock, work = found.get(act.target.key, (act.lock, frozenset()))
        found[act.target.key] = (
            max(lock, act.lock),
            work | ({act.work} if act.work is not None else frozenset()),
        )
    return found
