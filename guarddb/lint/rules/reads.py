"""Queries in a migration: nobody waits for them by themselves, but for a lock that their transaction holds meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from guarddb.facts.functions import builtin
from guarddb.lint.acts import Act, Lock, Said, Target, Work
from guarddb.lint.rules.expressions import conjuncts
from guarddb.lint.script import Script
from guarddb.lint.text import StatementText
from guarddb.sql.names import string_list
from guarddb.tree import Node, SQLSyntaxError, nodes, parse

#: Views on views are followed so far.
_DEEPEST = 10
#: An aggregate that one row of an index answers.
_ENDS = frozenset(("min", "max"))
_EQUAL = frozenset(("=",))
_ORDERED = frozenset(("=", "<", "<=", ">", ">=", "BETWEEN"))


def query(statement: StatementText, script: Script) -> Iterator[Said]:
    """SELECT reads whole tables, unless it finds rows by a key, or stops at the first ones."""
    yield from _acts(statement.fields, script)


def create_as(statement: StatementText, script: Script) -> Iterator[Said]:
    """CREATE TABLE AS and CREATE MATERIALIZED VIEW read others' tables and lock nobody out."""
    if not statement.fields["into"].get("skipData"):
        yield from _acts(statement.fields.get("query", {}), script)


def explain(statement: StatementText, script: Script) -> Iterator[Said]:
    """EXPLAIN ANALYZE runs the query."""
    names = {each["DefElem"]["defname"] for each in statement.fields.get("options", ())}
    if "analyze" in names:
        yield from _acts(statement.fields.get("query", {}), script)


def copy(statement: StatementText, script: Script) -> Iterator[Said]:
    """COPY FROM writes rows, COPY TO reads all of them; nobody waits for either."""
    fields = statement.fields
    relation = fields.get("relation")
    if relation is None:
        yield from _acts(fields.get("query", {}), script)
    elif fields.get("is_from"):
        yield Act(script.target(relation), Lock.ROW_EXCLUSIVE, Work.SCAN, rule="")
    else:
        yield Act(script.target(relation), Lock.ACCESS_SHARE, Work.SCAN, rule="")


@dataclass(slots=True)
class _Item:
    """A table in FROM. `found`: its rows are found by a key."""

    target: Target
    found: bool = False
    #: the first column of an index is compared: it may be few rows or all of them
    by_index: bool = False


def _acts(tree: Node, script: Script) -> Iterator[Act]:
    for target, certain in _read_whole(tree, script, 0):
        yield Act(target, Lock.ACCESS_SHARE, Work.SCAN, rule="", certain=certain)


def _read_whole(tree: Node, script: Script, depth: int) -> Iterator[tuple[Target, bool]]:
    """The tables that a query reads from beginning to end, and whether that is certain."""
    named = {fields["ctename"] for kind, fields in nodes(tree) if kind == "CommonTableExpr"}
    in_exists = {
        id(fields["subselect"]["SelectStmt"])
        for kind, fields in nodes(tree)
        if kind == "SubLink" and fields.get("subLinkType", "EXISTS_SUBLINK") == "EXISTS_SUBLINK"
    }
    for _, select in nodes(tree):
        if "fromClause" not in select or "targetList" not in select:
            continue
        items, conditions = _from(select, named, script)
        for _ in items:
            for each in items.values():
                _find(each, items, conditions, script)
        if len(items) == 1 and _stops_early(select, items, script, exists=id(select) in in_exists):
            continue
        for item in items.values():
            relation = item.target.relation
            if item.found:
                continue
            if relation is not None and relation.kind == "v":
                if depth < _DEEPEST:
                    yield from _behind(item, conditions, script, depth)
            else:
                yield item.target, not item.by_index


def _behind(item: _Item, conditions: list[Node], script: Script, depth: int) -> Iterator[tuple[Target, bool]]:
    """What a view reads whole: not what is found through it by a key."""
    assert item.target.relation is not None
    try:
        tree: Any = parse(item.target.relation.definition or "", checked=False)
    except SQLSyntaxError:
        return
    compared = {name for each in conditions for name in _compared_by_name(each)}
    for target, certain in _read_whole({"statements": tree}, script, depth + 1):
        if not any(key <= compared for key in _keys(target, script)):
            yield target, certain


def _from(select: Node, named: set[str], script: Script) -> tuple[dict[str, _Item], list[Node]]:
    items: dict[str, _Item] = {}
    conditions = list(conjuncts(select["whereClause"])) if "whereClause" in select else []
    stack: list[Any] = list(select["fromClause"])
    while stack:
        ((kind, fields),) = stack.pop().items()
        if kind == "RangeVar":
            if "schemaname" in fields or fields["relname"] not in named:
                alias = fields.get("alias", {}).get("aliasname", fields["relname"])
                items[alias] = _Item(script.target(fields))
        elif kind == "JoinExpr":
            stack += [fields["larg"], fields["rarg"]]
            if "quals" in fields and fields.get("jointype", "JOIN_INNER") == "JOIN_INNER":
                conditions += conjuncts(fields["quals"])
        elif kind == "RangeTableSample":
            stack.append(fields["relation"])
    return items, conditions


def _keys(target: Target, script: Script) -> list[frozenset[str]]:
    relation = target.relation
    keys = [frozenset(columns) for columns in script.table(target).keys.values()]
    if relation is None:
        return keys or [frozenset(("id",))]  # as everybody calls it
    keys.append(frozenset(relation.primary_key))
    keys += [frozenset(index.columns) for index in relation.indexes if index.unique]
    return [key for key in keys if key]


def _find(item: _Item, items: dict[str, _Item], conditions: list[Node], script: Script) -> None:
    """Note whether the conditions find rows of a table by a key, with what is known of the other tables."""
    compared = {name for each in conditions for name in _compared(each, item, items, script, _EQUAL)}
    item.found = item.found or any(key <= compared for key in _keys(item.target, script))
    within = {name for each in conditions for name in _compared(each, item, items, script, _ORDERED)}
    item.by_index = bool(within & _leading(item.target, script))


def _leading(target: Target, script: Script) -> set[str]:
    """The first columns of a table's indexes."""
    table = script.table(target)
    relation = target.relation
    primary = relation.primary_key if relation is not None else ()
    found = {columns[0] for columns in (primary, *table.indexes.values(), *table.keys.values()) if columns}
    return found or ({"id"} if relation is None else set())


def _compared(
    condition: Node, item: _Item, items: dict[str, _Item], script: Script, operators: frozenset[str]
) -> Iterator[str]:
    """The columns of a table that are compared with what is known before it is read."""
    for column, other in _comparison(condition, operators):
        name = _column(column, item, items, script)
        if name is not None and all(
            _is_known(fields, items, script) for kind, fields in nodes(other) if kind == "ColumnRef"
        ):
            yield name


def _compared_by_name(condition: Node) -> Iterator[str]:
    for column, other in _comparison(condition, _EQUAL):
        if not any(kind == "ColumnRef" for kind, _ in nodes(other)):
            yield column["ColumnRef"]["fields"][-1].get("String", {}).get("sval", "")


def _comparison(condition: Node, operators: frozenset[str]) -> Iterator[tuple[Node, Any]]:
    """Of `column = x`, `x = column` and `column IN (x, y)` the column, and the rest."""
    fields = condition.get("A_Expr", {})
    if (fields.get("name") or [{}])[-1].get("String", {}).get("sval") not in operators:
        return
    left, right = fields.get("lexpr", {}), fields.get("rexpr", {})
    if fields.get("kind") in ("AEXPR_OP", "AEXPR_IN", "AEXPR_BETWEEN") and "ColumnRef" in left:
        yield left, right
    if fields.get("kind") == "AEXPR_OP" and "ColumnRef" in right:
        yield right, left


def _column(node: Node, item: _Item, items: dict[str, _Item], script: Script) -> str | None:
    """The name of a column reference, when it is one of this table."""
    owner, name = _owner(node["ColumnRef"], items, script)
    return name if owner is item else None


def _is_known(fields: Node, items: dict[str, _Item], script: Script) -> bool:
    """Whether a column is one of a table whose rows are found by then, or of a query further out."""
    owner, _ = _owner(fields, items, script)
    return owner is None or owner.found


def _owner(fields: Node, items: dict[str, _Item], script: Script) -> tuple[_Item | None, str]:
    names = [each.get("String", {}).get("sval", "*") for each in fields["fields"]]
    if len(names) > 1:
        return items.get(names[-2]), names[-1]
    if len(items) == 1:
        return next(iter(items.values())), names[0]
    having = [each for each in items.values() if names[0] in script.table(each.target).columns]
    return (having[0] if len(having) == 1 else None), names[0]


def _stops_early(select: Node, items: dict[str, _Item], script: Script, *, exists: bool) -> bool:
    """Whether the first rows are enough, or one end of an index."""
    if select.keys() & {"whereClause", "groupClause", "distinctClause", "havingClause", "windowClause"}:
        return False
    calls = [fields for kind, fields in nodes(select["targetList"]) if kind == "FuncCall"]
    aggregates = [call for call in calls if _aggregates(call)]
    if not aggregates:
        return exists or ("limitCount" in select and "sortClause" not in select)
    (item,) = items.values()
    return all(_is_an_end(call, item.target, script) for call in aggregates)


def _aggregates(call: Node) -> bool:
    return call.get("agg_star", False) or any(
        overload.kind in "aw" for overload in builtin(string_list(call["funcname"])[-1])
    )


def _is_an_end(call: Node, target: Target, script: Script) -> bool:
    arguments = call.get("args", ())
    if string_list(call["funcname"])[-1] not in _ENDS or len(arguments) != 1 or "agg_filter" in call:
        return False
    fields = arguments[0].get("ColumnRef", {}).get("fields", ())
    name = fields[-1].get("String", {}).get("sval") if fields else None
    return name in _leading(target, script)
