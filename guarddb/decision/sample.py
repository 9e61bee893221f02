"""The text of a trial run that also tells some of the rows that a write changes, as they were and as they would be.

PostgreSQL gives both itself from 18 on (RETURNING OLD and NEW). Before that a query beside the write, which still sees the rows
as they were, finds them by primary key; and where there is none, or the write changes it, an UPDATE joins its own rows as they
were, by their place. MERGE returns rows from 17 on, with what it did; before that nobody can tell which rows it wrote, for what
it would do can be read from its text, but not what triggers and defaults make of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from guarddb.decision.masks.writing import as_printed, mask_expression
from guarddb.decision.on_catalog import CompiledPolicy
from guarddb.sql.catalog import Attribute, Catalog, Relation
from guarddb.sql.names import quote, quote_qualified
from guarddb.sql.rewriting.edits import CLOSE, OPEN, SEMICOLON, TextEdits
from guarddb.sql.rewriting.trees import placeless
from guarddb.tree import Node, decode, parse
from guarddb.vocabulary import MaskKind

#: Rows and columns of a sample, and characters of a value.
ROWS, COLUMNS, CHARACTERS = 5, 40, 1_000

_NAME = "guarddb_sample"
_WRITES = frozenset(("InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"))
_DID = "r.done OPERATOR(pg_catalog.<>)"
#: The major version from which RETURNING knows OLD and NEW.
_OLD_AND_NEW = 18
#: The same for MERGE with a RETURNING.
_MERGE_RETURNS = 17


@dataclass(frozen=True, slots=True)
class SampledColumn:
    """A column of a sample. `keyed`: its values are to be hashed with the key, in the process."""

    name: str
    masked: bool = False
    keyed: bool = False


@dataclass(frozen=True, slots=True)
class SampledStatement:
    """What is sent in the place of one statement.

    Its rows: how many rows were written in all, whether there is an old and a new row, and then for each column the old value,
    the new one, and whether they differ (told of masked columns only).
    """

    sql: str
    table: str = ""
    columns: tuple[SampledColumn, ...] = ()


def sampled(
    text: str, policy: CompiledPolicy, catalog: Catalog, major: int, *, lifted: bool = False
) -> tuple[SampledStatement, ...]:
    """The statements of a text that has passed, those in the form that samples which have one.

    Args:
        text: as it would be sent: with its filters, judged.
        major: the server's version.
        lifted: show what the profile masks.
    """
    encoded = text.encode()
    found = []
    for raw in parse(text, checked=False):
        start, length = raw.get("stmt_location", 0), raw.get("stmt_len", 0)
        part = encoded[start : start + length if length else None].decode()
        found.append(_statement(part, policy, catalog, major, lifted))
    return tuple(found)


def prepared(
    prepare: str, execute: str, policy: CompiledPolicy, catalog: Catalog, major: int, *, lifted: bool = False
) -> tuple[str, SampledStatement] | None:
    """The same for EXECUTE: the PREPARE of another statement, and the EXECUTE of that, which samples; None where none can.

    Args:
        prepare: the PREPARE that the session has sent.
    """
    if len(parse(prepare, checked=False)) != 1:
        return None
    words = TextEdits(prepare)
    named = words._name_end(1)
    begins = words._forward(named, frozenset(("AS",)))
    if begins + 1 >= len(words.names):
        return None
    body = prepare[words.starts[begins + 1] :]
    inner = _statement(body, policy, catalog, major, lifted)
    if not inner.columns:
        return None
    head = prepare[words._end(named) : words.starts[begins + 1]]
    given = TextEdits(execute)
    arguments = execute[given._end(given._name_end(1)) :]
    return (
        f"PREPARE {_NAME}{head}{inner.sql}",
        SampledStatement(f"EXECUTE {_NAME}{arguments}", inner.table, inner.columns),
    )


#: What `prepared` leaves behind, to be sent in any case.
FORGET_PREPARED = f"DEALLOCATE {_NAME}"


def _statement(
    text: str, policy: CompiledPolicy, catalog: Catalog, major: int, lifted: bool
) -> SampledStatement:
    as_it_is = SampledStatement(text)
    ((command, fields),) = parse(text, checked=False)[0]["stmt"].items()
    if command not in _WRITES or (command == "MergeStmt" and major < _MERGE_RETURNS):
        return as_it_is
    target: Node = fields["relation"]
    relation = catalog.resolve(target.get("schemaname"), target["relname"])
    if relation is None:
        return as_it_is
    kinds = {} if lifted else policy.governance(catalog).rules_for(relation).masks
    attributes = _columns(relation, fields)
    key = _key(relation)
    written = {each["ResTarget"].get("name") for each in _targets(fields)}
    body, meant = _without_returning(text, fields), fields
    keeps = bool(key) and not written.intersection(each.name for each in key)
    if major >= _OLD_AND_NEW:
        sides = _new_form(body, attributes)
    elif command == "UpdateStmt" and not keeps:
        joined = _joined_form(body, fields, attributes, relation)
        if joined is None:
            return as_it_is
        sides, meant = joined
    elif not keeps and (command == "MergeStmt" or "onConflictClause" in fields):
        return as_it_is
    else:
        sides = _old_form(body, command, fields, attributes, relation)
    sql = _select(sides, attributes, kinds, policy)
    if not _holds(sql, command, meant):
        return as_it_is
    columns = tuple(
        SampledColumn(a.name, a.name in kinds, kinds.get(a.name) == "hash" and _is_keyed(a, policy))
        for a in attributes
    )
    return SampledStatement(sql, f"{relation.schema}.{relation.name}", columns)


def _targets(fields: Node) -> list[Node]:
    """What UPDATE, ON CONFLICT DO UPDATE or the UPDATEs of a MERGE assign."""
    clauses = [each["MergeWhenClause"] for each in fields.get("mergeWhenClauses", ())]
    if clauses:
        updates = [each for each in clauses if each.get("commandType") == "CMD_UPDATE"]
        return [target for each in updates for target in each.get("targetList", ())]
    found: list[Node] = fields.get("targetList", fields.get("onConflictClause", {}).get("targetList", []))
    return found


def _columns(relation: Relation, fields: Node) -> list[Attribute]:
    """The columns that are shown: of a wide table the key and those that are written first."""
    if len(relation.attributes) <= COLUMNS:
        return list(relation.attributes)
    first = set(relation.primary_key) | {each["ResTarget"].get("name") for each in _targets(fields)}
    chosen = sorted(relation.attributes, key=lambda each: (each.name not in first, each.number))[:COLUMNS]
    return sorted(chosen, key=lambda each: each.number)


def _key(relation: Relation) -> list[Attribute]:
    """The columns of the primary key, where they can be compared by PostgreSQL's own operators."""
    found = [each for each in relation.attributes if each.name in relation.primary_key]
    return found if all(each.base_type.startswith("pg_catalog.") for each in found) else []


def _is_keyed(attribute: Attribute, policy: CompiledPolicy) -> bool:
    """Whether the hash of a column is made in the process: the key never enters the SQL."""
    return policy.profile.guarddb.hash_key_env is not None and attribute.base_type != "pg_catalog.bytea"


def _without_returning(text: str, fields: Node) -> str:
    """The statement up to its RETURNING, which is its last clause."""
    words = TextEdits(text)
    end = len(words.names)
    while end and words.names[end - 1] == SEMICOLON:
        end -= 1
    returned: Sequence[Any] = fields.get("returningClause", {}).get("exprs", ())
    if returned:
        first = words.at(returned[0]["ResTarget"]["location"])
        depth = 0
        for position in range(first):
            name = words.names[position]
            depth += (name == OPEN) - (name == CLOSE)
            if depth == 0 and name == "RETURNING":
                end = position
    return text[: words._end(end - 1)]


@dataclass(frozen=True, slots=True)
class _Sides:
    """Both sides of each row, as `o0`, `n0` … with `has_old` and `has_new`: the write in WITH, and what is read of it."""

    written: str
    rows: str


def _new_form(body: str, attributes: Sequence[Attribute]) -> _Sides:
    """RETURNING both rows. (A whole row that is not there is NULL, which IS DISTINCT FROM tells from a row of NULLs.)"""
    shown = [
        "guarddb_old IS DISTINCT FROM NULL AS has_old",
        "guarddb_new IS DISTINCT FROM NULL AS has_new",
    ]
    for i, attribute in enumerate(attributes):
        name = quote(attribute.name)
        shown.append(f"guarddb_old.{name} AS o{i}, guarddb_new.{name} AS n{i}")
    returning = f"RETURNING WITH (OLD AS guarddb_old, NEW AS guarddb_new) {', '.join(shown)}"
    return _Sides(f"{body}\n{returning}", f"{_NAME} LIMIT {ROWS}")


def _old_form(
    body: str, command: str, fields: Node, attributes: Sequence[Attribute], relation: Relation
) -> _Sides:
    """RETURNING the one row that there is, and the other one by its key, from the snapshot that has not seen the write."""
    target: Node = fields["relation"]
    row = quote(target.get("alias", {}).get("aliasname") or target["relname"])
    key = _key(relation)
    returned = [f"{row}.{quote(a.name)} AS r{i}" for i, a in enumerate(attributes)]
    returned += [f"{row}.{quote(a.name)} AS k{i}" for i, a in enumerate(key)]
    if command == "MergeStmt":
        returned.append("merge_action() AS done")
    source = f"(SELECT * FROM {_NAME} LIMIT {ROWS}) AS r"
    numbers = range(len(attributes))
    if command == "DeleteStmt" or (command == "InsertStmt" and "onConflictClause" not in fields):
        old = (
            "true AS has_old, false AS has_new"
            if command == "DeleteStmt"
            else "false AS has_old, true AS has_new"
        )
        both = [old, *(f"r.r{i} AS o{i}, r.r{i} AS n{i}" for i in numbers)]
    else:
        same = " AND ".join(f"b.{quote(a.name)} OPERATOR(pg_catalog.=) r.k{i}" for i, a in enumerate(key))
        join = "JOIN" if command == "UpdateStmt" else "LEFT JOIN"
        source += f" {join} {quote_qualified(relation.schema, relation.name)} AS b ON {same}"
        was, is_there = f"b.{quote(key[0].name)} IS NOT NULL", "true"
        before = [f"b.{quote(a.name)}" for a in attributes]
        if command == "MergeStmt":
            # (What is added may have the key of what goes; of what goes, the row as it was is returned.)
            was, is_there = f"{_DID} 'INSERT'", f"{_DID} 'DELETE'"
            before = [f"CASE WHEN {is_there} THEN {name} ELSE r.r{i} END" for i, name in enumerate(before)]
            source += f" WHERE NOT ({_DID} 'DELETE' AND {_DID} 'INSERT' AND b.{quote(key[0].name)} IS NULL)"
        both = [f"{was} AS has_old, {is_there} AS has_new"]
        both += [f"{name} AS o{i}, r.r{i} AS n{i}" for i, name in enumerate(before)]
    return _Sides(
        f"{body}\nRETURNING {', '.join(returned)}", f"(SELECT {', '.join(both)} FROM {source}) AS s"
    )


def _joined_form(
    body: str, fields: Node, attributes: Sequence[Attribute], relation: Relation
) -> tuple[_Sides, Node] | None:
    """An UPDATE that joins each of its rows as it was, found by its place, under names that are in nobody's way.

    Also what that write is meant to be; None where there is no such form.
    """
    condition = fields.get("whereClause")
    if relation.kind not in ("r", "p") or (condition is not None and "CurrentOfExpr" in condition):
        return None
    target: Node = fields["relation"]
    row = quote(target.get("alias", {}).get("aliasname") or target["relname"])
    places = [f"{name} AS {_NAME}_{name}" for name in ("ctid", "tableoid")]
    olds = [f"{quote(a.name)} AS {_NAME}_{i}" for i, a in enumerate(attributes)]
    table = quote_qualified(relation.schema, relation.name)
    item = f"(SELECT {', '.join([*places, *olds])} FROM {table}) AS {_NAME}"
    same = " AND ".join(
        f"{row}.{name} OPERATOR(pg_catalog.=) {_NAME}.{_NAME}_{name}" for name in ("ctid", "tableoid")
    )
    words = TextEdits(body)
    begins = words._forward(words._forward(-1, frozenset(("UPDATE",))), frozenset(("SET",)))
    where = words._forward(begins, frozenset(("WHERE",)))
    listed = words._forward(begins, frozenset(("FROM",))) < where
    head, tail = body[: words._end(where - 1)], body[words._end(where) :] if condition is not None else ""
    both = [f"{_NAME}.{_NAME}_{i} AS o{i}, {row}.{quote(a.name)} AS n{i}" for i, a in enumerate(attributes)]
    written = (
        f"{head}\n{',' if listed else 'FROM'} {item} WHERE {same}{f' AND ({tail})' if tail else ''}\n"
        f"RETURNING true AS has_old, true AS has_new, {', '.join(both)}"
    )
    added = parse(f"SELECT FROM {item} WHERE {same}", checked=False)[0]["stmt"]["SelectStmt"]
    both_conditions = [*added["whereClause"]["BoolExpr"]["args"], *([condition] if condition else [])]
    meant = {
        **fields,
        "fromClause": [*fields.get("fromClause", ()), *added["fromClause"]],
        "whereClause": {"BoolExpr": {**added["whereClause"]["BoolExpr"], "args": both_conditions}},
    }
    return _Sides(written, f"{_NAME} LIMIT {ROWS}"), meant


def _select(
    sides: _Sides, attributes: Sequence[Attribute], kinds: Mapping[str, MaskKind], policy: CompiledPolicy
) -> str:
    shown = [f"(SELECT pg_catalog.count(*) FROM {_NAME})", "has_old", "has_new"]
    for i, attribute in enumerate(attributes):
        kind = kinds.get(attribute.name)
        printed = [as_printed(f"{side}{i}", attribute.base_type) for side in "on"]
        for side, text in zip("on", printed, strict=True):
            if kind is None:
                shown.append(f'pg_catalog."left"({text}, {CHARACTERS + 1})')
            elif kind == "hash" and _is_keyed(attribute, policy):
                shown.append(text)
            else:
                present = None if policy.profile.guarddb.redact_nulls else f"{side}{i}"
                mask = mask_expression(kind, f"{side}{i}", attribute, present=present)
                shown.append(f"({mask})::pg_catalog.text")
        shown.append("NULL" if kind is None else f"{printed[0]} IS DISTINCT FROM {printed[1]}")
    return f"WITH {_NAME} AS (\n{sides.written}) SELECT {', '.join(shown)} FROM {sides.rows}"


def _holds(sql: str, command: str, fields: Node) -> bool:
    """Whether the text is one query over the very write that it was made of."""
    (raw,) = parse(sql, checked=False)
    query = raw["stmt"].get("SelectStmt", {})
    (cte,) = query["withClause"]["ctes"]
    ((found, inner),) = cte["CommonTableExpr"]["ctequery"].items()
    return bool(found == command and _meaning(inner) == _meaning(fields))


def _meaning(fields: Node) -> Any:
    """A write without its RETURNING and without places."""
    write = {name: value for name, value in fields.items() if name != "returningClause"}
    return decode(placeless(msgspec.json.encode(write).decode()))
