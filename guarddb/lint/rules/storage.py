"""Statements that write a table's file anew: CLUSTER, VACUUM FULL, REFRESH, SET LOGGED, tablespaces, access methods."""

from __future__ import annotations

from collections.abc import Iterator

from guarddb.lint.acts import Act, Lock, Remark, Said, Work
from guarddb.lint.rules.command import Command
from guarddb.lint.rules.hints import script_of
from guarddb.lint.script import Script
from guarddb.lint.text import StatementText


def cluster(statement: StatementText, script: Script) -> Iterator[Said]:
    """CLUSTER writes the table anew in the order of an index."""
    relation = statement.fields.get("relation")
    if relation is None:
        yield Remark(
            "error",
            "table_rewrite",
            "CLUSTER of every clustered table: an ACCESS EXCLUSIVE lock on each blocks reads and writes while PostgreSQL "
            "rewrites it",
        )
        return
    target = script.target(relation)
    for each in (target, *script.children(target)):
        yield Act(
            each, Lock.ACCESS_EXCLUSIVE, Work.REWRITE, "table_rewrite", "CLUSTER, for which pg_repack is the online way",
            implied=each.key != target.key,
        )  # fmt: skip


def vacuum(statement: StatementText, script: Script) -> Iterator[Said]:
    """VACUUM runs beside others; VACUUM FULL writes the table anew."""
    fields = statement.fields
    options = {
        o["DefElem"]["defname"]: o["DefElem"].get("arg") for o in fields.get("options", ()) if "DefElem" in o
    }
    relations = [
        each["VacuumRelation"]["relation"]
        for each in fields.get("rels", ())
        if "relation" in each["VacuumRelation"]
    ]
    targets = [script.target(relation) for relation in relations]
    if "full" not in options or _is_off(options["full"]):
        for target in targets:
            yield Act(target, Lock.SHARE_UPDATE_EXCLUSIVE, Work.SCAN, momentary=True)
        return
    names = ", ".join(target.sql for target in targets)
    plain = script_of([f"VACUUM (ANALYZE){' ' + names if names else ''}"])
    if not targets:
        yield Remark(
            "error",
            "table_rewrite",
            "VACUUM FULL of the whole database: an ACCESS EXCLUSIVE lock on each table blocks reads and writes while "
            "PostgreSQL "
            "rewrites it",
            plain,
            fixes=True,
        )
    for target in targets:
        for each in (target, *script.children(target)):
            why = "VACUUM FULL, for which pg_repack is the online way"
            implied = each.key != target.key
            yield Act(each, Lock.ACCESS_EXCLUSIVE, Work.REWRITE, "table_rewrite", why, plain, implied=implied)


def _is_off(argument: object) -> bool:
    text = str(argument).lower()
    return argument is not None and (
        "'false'" in text or "'off'" in text or "'boolval': {}" in text or "'ival': {}" in text
    )


def refresh(statement: StatementText, script: Script) -> Iterator[Said]:
    """REFRESH keeps readers out for as long as the view's query takes; CONCURRENTLY does not, given a unique index."""
    fields = statement.fields
    target = script.target(fields["relation"])
    if fields.get("concurrent"):
        yield Act(target, Lock.EXCLUSIVE, momentary=True)
        return
    if fields.get("skipData"):
        yield Act(target, Lock.ACCESS_EXCLUSIVE, why="REFRESH … WITH NO DATA")
        return
    safe = statement.insert_after("VIEW", text="CONCURRENTLY")
    unique = target.relation is None or any(index.unique for index in target.relation.indexes)
    hint = safe and script_of(
        [*([] if unique else ["-- needs a UNIQUE index over columns of the view first"]), safe]
    )
    yield Act(
        target, Lock.ACCESS_EXCLUSIVE, Work.REWRITE, "missing_concurrently",
        "REFRESH MATERIALIZED VIEW without CONCURRENTLY (which runs the view's query meanwhile)", hint,
    )  # fmt: skip


def persistence(command: Command, script: Script) -> Iterator[Said]:
    """SET LOGGED and UNLOGGED write the table anew, unless it is so already."""
    target = command.target
    wanted = "p" if command.verb == "AT_SetLogged" else "u"
    already = target.relation is not None and target.relation.persistence == wanted
    yield Act(target, Lock.ACCESS_EXCLUSIVE, None if already else Work.REWRITE, "table_rewrite", command.text)


def tablespace(command: Command, script: Script) -> Iterator[Said]:
    """SET TABLESPACE copies the table's file. (Whether it is there already, the catalog does not tell.)"""
    target = command.target
    partitioned = target.relation is not None and target.relation.kind == "p"
    work = None if partitioned else Work.REWRITE
    yield Act(target, Lock.ACCESS_EXCLUSIVE, work, "table_rewrite", f"{command.text}, which copies it")


def access_method(command: Command, script: Script) -> Iterator[Said]:
    """SET ACCESS METHOD writes the table anew, unless it has it already (heap, most likely)."""
    name = command.node.get("name")
    work = None if name in ("heap", None) else Work.REWRITE
    yield Act(command.target, Lock.ACCESS_EXCLUSIVE, work, "table_rewrite", command.text)
