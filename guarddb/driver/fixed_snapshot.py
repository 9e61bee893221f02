"""Whether names still mean what they meant, in a transaction that sees the catalog of its snapshot.

Under REPEATABLE READ and SERIALIZABLE guarddb reads the catalog as it was when the transaction took its snapshot, while
PostgreSQL looks names up in the newest one. So before a statement runs there, the server is asked what its names mean now
(`to_regclass` looks them up as a statement does), and what a view reads (a plan is made of its newest definition). Once a
statement has run, the transaction's locks keep it so.
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
    names = {
        each
        for statement in judged.plan.statements
        for name in statement.facts.relations
        for each in _splits(name)
        if each[0] not in _SYSTEM
    }
    if names:
        views = [r for each in names if (r := catalog.relation(*each)) is not None and r.kind == "v"]
        same = (_means_the_same(catalog, *each) for each in sorted(names))
        conditions = " AND ".join((_NEWEST, *same, *map(_may_read, views)))
        moved = (yield from _asked_gen(conn, f"SELECT {conditions}", session)) != [(b"t",)]
        for view in () if moved else views:
            rows = f"SELECT * FROM {quote_qualified(view.schema, view.name)}"
            plan = yield from _asked_gen(conn, f"EXPLAIN (VERBOSE, COSTS OFF, FORMAT JSON) {rows}", session)
            moved = moved or not _is_within(_scanned(json.loads(plan[0][0] or b"[]")), _reads(catalog, view))
        if moved:
            raise _refused(session)
    session.freshness.verified.add(judged.sent)


def _asked_gen(conn: Any, question: str, session: Session) -> PQGen[list[Row]]:
    command = question.encode(session.encoding)
    rows: list[Row] = yield from (ask_gen if conn._pipeline is None else ask_within_gen)(conn, command)
    return rows


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Schema and name; either may have a dot in it."""
    parts = name.split(".")
    for place in range(1, len(parts)):
        yield ".".join(parts[:place]), ".".join(parts[place:])


def _means_the_same(catalog: Catalog, schema: str, name: str) -> str:
    """With its schema, and as the search path finds it. (What is gone is PostgreSQL's to say.)"""
    known, found = catalog.relation(schema, name), catalog.resolve(None, name)
    return f"{_is(quote_qualified(schema, name), known)} AND {_is(quote(name), found)}"


def _is(name: str, relation: Relation | None) -> str:
    oid = f"coalesce(pg_catalog.to_regclass({literal(name)})::pg_catalog.oid::pg_catalog.int8, 0)"
    same = f"{oid} OPERATOR(pg_catalog.<) {_USERS_OWN}"
    return same if relation is None else f"({same} OR {oid} OPERATOR(pg_catalog.=) {relation.oid})"


def _may_read(view: Relation) -> str:
    """Whether the role may read all of a view, so that its plan can be asked for."""
    return f"coalesce(pg_catalog.has_table_privilege({view.oid}::pg_catalog.oid, 'SELECT'), false)"


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


def _scanned(plan: Any) -> set[tuple[str, str]]:
    """The relations that a plan scans."""
    found: set[tuple[str, str]] = set()
    stack: list[Any] = [plan]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
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
