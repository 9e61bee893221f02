"""Whether names still mean what they meant, in a transaction that sees the catalog of its snapshot.

Under REPEATABLE READ and SERIALIZABLE guarddb reads the catalog as it was when the transaction took its snapshot, while
PostgreSQL looks names up in the newest one. So before a statement runs there, the server is asked what its names mean now
(`to_regclass` looks them up as a statement does), which columns these relations have now, and what a view reads (a plan is made
of its newest definition). It is asked again after each look: a lock on what a name meant keeps nothing from getting before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from guarddb.decision.plan import Decision
from guarddb.driver.asking import Row, ask_gen, ask_within_gen
from guarddb.errors import PolicyViolation, violation
from guarddb.facts.functions import system_relation
from guarddb.sql.names import literal, quote, quote_qualified
from guarddb.tree import below, parse

if TYPE_CHECKING:
    from psycopg.abc import PQGen

    from guarddb.driver.plans import JudgedText
    from guarddb.driver.session import Session
    from guarddb.sql.catalog import Catalog, Relation

#: FirstNormalObjectId: what is below is PostgreSQL's own, and the same in every snapshot.
_USERS_OWN = 16384
_SYSTEM = ("pg_catalog", "information_schema")
#: EXPLAIN (GENERIC_PLAN)
_GENERIC_PLANS_SINCE = 16_00_00
#: The OID of pg_class.
_PG_CLASS = 1259
#: How PostgreSQL names a column that was dropped.
_DROPPED = "........pg.dropped."
#: Asked first, and true: it locks a schema, and with that the server's process takes in what others have changed
#: (LockDatabaseObject calls AcceptInvalidationMessages). `to_regclass` alone answers by what the process has looked up before,
#: and the statement, which locks what it reads, by the newest.
_NEWEST = "(pg_catalog.pg_get_object_address('schema', '{pg_catalog}', '{}')).objid IS NOT NULL"


def names_gen(session: Session, conn: Any, judged: JudgedText) -> PQGen[None]:
    """Ask what the names in a statement mean now.

    Raises:
        PolicyViolation: one of them means something else than in the transaction's snapshot, or a view reads something else.
    """
    catalog = session.catalog
    if catalog is None or judged.sent in session.freshness.verified:
        return
    named = {
        each
        for statement in judged.plan.statements
        for name in statement.facts.relations
        for each in _splits(name)
        if each[0] not in _SYSTEM
    }
    if named:
        views = [r for each in sorted(named) if (r := catalog.relation(*each)) is not None and r.kind == "v"]
        # (What a view reads is named in the text that takes the view's place.)
        read = {each for view in views for each in _reads(catalog, view) if each[0] not in _SYSTEM}
        conditions = [_NEWEST]
        conditions += [_is(quote(name), catalog.resolve(None, name)) for _, name in sorted(named)]
        conditions += [_is(quote_qualified(*each), catalog.relation(*each)) for each in sorted(named | read)]
        items = [" AND ".join(conditions), *map(_readable, views)]
        ((same, *readable),) = yield from _asked_gen(conn, f"SELECT {', '.join(items)}", session)
        moved = same != b"t"
        for view, numbers in () if moved else zip(views, readable, strict=True):
            moved = moved or (yield from _reads_more_gen(session, conn, catalog, view, numbers))
        if moved:
            raise _refused(session)
    session.freshness.verified.add(judged.sent)


def _reads_more_gen(
    session: Session, conn: Any, catalog: Catalog, view: Relation, numbers: bytes | None
) -> PQGen[bool]:
    """Whether a view reads something now that it did not; `numbers`: its columns that the role may read."""
    may_read = (numbers or b"").decode().split(",")
    columns = [quote(a.name) for a in view.attributes if str(a.number) in may_read]
    if not columns:
        return True  # its plan cannot be asked for
    # Planned for any parameters, a plan shows the partitions as well that only its execution would leave out.
    any_parameters = catalog.server_version >= _GENERIC_PLANS_SINCE
    options = f"{'GENERIC_PLAN, ' if any_parameters else ''}VERBOSE, COSTS OFF, FORMAT JSON"
    rows = f"SELECT {', '.join(columns)} FROM {quote_qualified(view.schema, view.name)}"
    plan = yield from _asked_gen(conn, f"EXPLAIN ({options}) {rows}", session)
    scanned = _scanned(json.loads(plan[0][0] or b"[]"))
    return scanned is None or not _is_within(scanned, _reads(catalog, view))


def _asked_gen(conn: Any, question: str, session: Session) -> PQGen[list[Row]]:
    command = question.encode(session.encoding)
    rows: list[Row] = yield from (ask_gen if conn._pipeline is None else ask_within_gen)(conn, command)
    return rows


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Schema and name; either may have a dot in it."""
    parts = name.split(".")
    for place in range(1, len(parts)):
        yield ".".join(parts[:place]), ".".join(parts[place:])


def _is(name: str, relation: Relation | None) -> str:
    """Whether a name means this relation, with the columns that are known. (What is gone is PostgreSQL's to say.)"""
    oid = f"coalesce(pg_catalog.to_regclass({literal(name)})::pg_catalog.oid::pg_catalog.int8, 0)"
    same = f"{oid} OPERATOR(pg_catalog.<) {_USERS_OWN}"
    if relation is None:
        return same
    return f"({same} OR {oid} OPERATOR(pg_catalog.=) {relation.oid} AND {_has_its_columns(relation)})"


def _has_its_columns(relation: Relation) -> str:
    """Whether the newest columns are those that are known, by number and name.

    (How many there have been, those that were dropped included, is asked of the snapshot.)
    """
    oid = f"{relation.oid}::pg_catalog.oid"
    known = ", ".join(
        literal(f"{a.number} {a.name}") for a in relation.attributes if not a.name.startswith(_DROPPED)
    )
    return (
        f"ARRAY(SELECT pg_catalog.concat(n, ' ', a.object_names[3]) FROM pg_catalog.generate_series(1, (SELECT "
        f"c.relnatts OPERATOR(pg_catalog.+) 1 FROM pg_catalog.pg_class AS c WHERE c.oid OPERATOR(pg_catalog.=) {oid})) AS n, "
        f"pg_catalog.pg_identify_object_as_address({_PG_CLASS}::pg_catalog.oid, {oid}, n) AS a "
        f"WHERE a.object_names[3] IS NOT NULL AND NOT pg_catalog.starts_with(a.object_names[3], {literal(_DROPPED)}) ORDER BY n)"
        f" OPERATOR(pg_catalog.=) ARRAY[{known}]::pg_catalog.text[]"
    )


def _readable(view: Relation) -> str:
    """The numbers of the columns that the role may read."""
    highest = max((a.number for a in view.attributes), default=0)
    return (
        f"pg_catalog.array_to_string(ARRAY(SELECT n FROM pg_catalog.generate_series(1, {highest}) AS n WHERE "
        f"pg_catalog.has_column_privilege({view.oid}::pg_catalog.oid, n::pg_catalog.int2, 'SELECT')), ',')"
    )


def _reads(catalog: Catalog, view: Relation) -> set[tuple[str, str]]:
    """What a view reads by the definitions that are known, through other views, with partitions and children."""
    found: set[tuple[str, str]] = set()
    seen: set[int] = set()
    stack = [view]
    while stack:
        relation = stack.pop()
        if relation.oid in seen:
            continue
        seen.add(relation.oid)
        found.add((relation.schema, relation.name))
        stack += [r for oid in relation.descendants if (r := catalog.by_oid(oid)) is not None]
        if relation.kind != "v" or not relation.definition:
            continue
        for range_var in below(parse(relation.definition), ("RangeVar",)):
            schema, name = range_var.get("schemaname"), range_var["relname"]
            other = catalog.relation(schema, name) if schema is not None else None
            if other is not None:
                stack.append(other)
            elif schema is not None:
                found.add((schema, name))
            elif system_relation(None, name) is not None:
                found.add(
                    ("pg_catalog", name)
                )  # (Definitions are read with that as the path; a WITH query has no schema either.)
    return found


def _is_within(scanned: set[tuple[str, str]], read: set[tuple[str, str]]) -> bool:
    own = any(schema in _SYSTEM for schema, _ in read)  # (PostgreSQL's own views read others of its own.)
    return all(each in read or (own and each[0] in _SYSTEM) for each in scanned)


def _scanned(plan: Any) -> set[tuple[str, str]] | None:
    """The relations that a plan scans. None: it leaves some out that another execution might scan."""
    found: set[tuple[str, str]] = set()
    stack: list[Any] = [plan]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if item.get("Subplans Removed"):
                return None
            if "Relation Name" in item:
                found.add((item.get("Schema", ""), item["Relation Name"]))
            stack += item.values()
        elif isinstance(item, list):
            stack += item
    return found


def _refused(session: Session) -> PolicyViolation:
    reason = "a name in it means something else by now than in the snapshot of this transaction, by which statements are judged"
    decision = Decision("block", "statement_not_allowed", reason, "End the transaction and begin another.")
    return violation(PolicyViolation, session.policy_name, session.under_its_policy(decision))
