"""Changes of a refused statement that could make it pass, one for each kind of refusal.

They work on pglast's nodes, which can be printed again. Nothing here needs to be right: what comes out is judged like
any other text, and only what passes is shown to anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import copy
from dataclasses import dataclass
from typing import Any

from guarddb.facts.functions import is_aggregate
from guarddb.vocabulary import MaskKind


@dataclass(frozen=True, slots=True)
class Concern:
    """What the edits have to know of the statement.

    Attributes:
        masks: names of masked columns of the touched relations -> the strictest kind.
        aliases: names by which relations with masked columns are reached.
        read_only: the profile lets nothing be written.
    """

    masks: dict[str, MaskKind]
    aliases: frozenset[str]
    read_only: bool


def _fields(ref: Any) -> list[str]:
    return [getattr(field, "sval", "*") for field in ref.fields or ()]


def _walk(node: Any) -> Iterator[Any]:
    """Every pglast node below one, itself first, without recursion."""
    from pglast.ast import Node

    stack = [node]
    while stack:
        item = stack.pop()
        if isinstance(item, tuple | list):
            stack.extend(reversed(item))
        elif isinstance(item, Node):
            yield item
            stack.extend(getattr(item, name) for name in item)


def _of(node: Any, name: str) -> Iterator[Any]:
    return (each for each in _walk(node) if type(each).__name__ == name)


def _uses_mask(node: Any, concern: Concern) -> bool:
    """Whether an expression names a masked column, or a whole row with one."""
    for ref in _of(node, "ColumnRef"):
        names = _fields(ref)
        if names[-1] in concern.masks or names[-1] in concern.aliases:
            return True
    return False


def _kind(node: Any, concern: Concern) -> MaskKind | None:
    kinds = [concern.masks[n] for ref in _of(node, "ColumnRef") if (n := _fields(ref)[-1]) in concern.masks]
    return "null" if "null" in kinds else kinds[0] if kinds else None


def unmask_targets(statement: Any, concern: Concern) -> bool:
    """Outputs that compute on a masked column: count(x) → count(*), a row as JSON → its columns, else the column or nothing."""
    from pglast import ast

    changed = False
    for select in _of(statement, "SelectStmt"):
        if not select.targetList:
            continue
        kept: list[Any] = []
        grouped = bool(select.groupClause) or any(
            is_aggregate(_name(call)) for target in select.targetList for call in _of(target, "FuncCall")
        )
        for target in select.targetList:
            value = target.val
            bare = type(value).__name__ == "ColumnRef"
            if (
                value is None
                or not _uses_mask(value, concern)
                or (bare and _fields(value)[-1] not in concern.aliases)
            ):
                kept.append(target)
                continue
            changed = True
            call = value if type(value).__name__ == "FuncCall" else None
            if call is not None and _name(call) == "count" and not call.agg_distinct:
                kept.append(ast.ResTarget(name=target.name, val=_count_star()))
                continue
            row = next((r for r in _of(value, "ColumnRef") if _fields(r)[-1] in concern.aliases), None)
            if row is not None:
                star = ast.ColumnRef(fields=(*row.fields, ast.A_Star()))
                kept.append(ast.ResTarget(val=star))
                continue
            if grouped or _kind(value, concern) == "null":
                continue
            for ref in _of(value, "ColumnRef"):
                if _fields(ref)[-1] in concern.masks:
                    name = target.name if target.name != _fields(ref)[-1] else None
                    kept.append(ast.ResTarget(name=name, val=ref))
                    break
        if not changed:
            continue
        if len(kept) < len(select.targetList):
            select.sortClause = _without_positions(select.sortClause)
        if not kept:
            kept = [ast.ResTarget(val=_count_star())]
            select.sortClause = None
        select.targetList = tuple(kept)
    return changed


def _name(call: Any) -> str:
    return str(call.funcname[-1].sval)


def _count_star() -> Any:
    from pglast import ast, enums

    return ast.FuncCall(
        funcname=(ast.String(sval="count"),),
        agg_star=True,
        funcformat=enums.CoercionForm.COERCE_EXPLICIT_CALL,
    )


def _without_positions(clause: Any) -> Any:
    kept = tuple(s for s in clause or () if type(s.node).__name__ != "A_Const")
    return kept or None


def drop_conditions(statement: Any, concern: Concern) -> bool:
    """Conditions, sorts and groups by a masked column are left out; DISTINCT and UNION over one become ALL."""
    from pglast import ast, enums

    changed = False
    for select in _of(statement, "SelectStmt"):
        for clause in ("whereClause", "havingClause"):
            before = getattr(select, clause)
            if before is not None and (after := _conjuncts_without(before, concern)) is not before:
                setattr(select, clause, after)
                changed = True
        if select.sortClause and any(_uses_mask(s, concern) for s in select.sortClause):
            select.sortClause = tuple(s for s in select.sortClause if not _uses_mask(s, concern)) or None
            changed = True
        if select.groupClause and any(_uses_mask(g, concern) for g in select.groupClause):
            select.groupClause = tuple(g for g in select.groupClause if not _uses_mask(g, concern)) or None
            kept = tuple(
                t
                for t in select.targetList
                if not (type(t.val).__name__ == "ColumnRef" and _fields(t.val)[-1] in concern.masks)
            )
            select.targetList = kept or (ast.ResTarget(val=_count_star()),)
            select.sortClause = _without_positions(select.sortClause)
            changed = True
        elif select.groupClause and any(type(g).__name__ == "A_Const" for g in select.groupClause):
            masked = {
                i
                for i, t in enumerate(select.targetList or (), start=1)
                if type(t.val).__name__ == "ColumnRef" and _fields(t.val)[-1] in concern.masks
            }
            if masked:
                select.groupClause = None
                select.targetList = tuple(
                    t for i, t in enumerate(select.targetList, start=1) if i not in masked
                ) or (ast.ResTarget(val=_count_star()),)
                select.sortClause = None
                changed = True
        if select.distinctClause and any(_uses_mask(t.val, concern) for t in select.targetList or ()):
            select.distinctClause = None
            changed = True
        if select.op != enums.SetOperation.SETOP_NONE and not select.all:
            if select.op == enums.SetOperation.SETOP_UNION:
                select.all = True
                changed = True
    for window in _of(statement, "WindowDef"):
        for clause in ("partitionClause", "orderClause"):
            before = getattr(window, clause)
            if before and any(_uses_mask(each, concern) for each in before):
                setattr(window, clause, tuple(e for e in before if not _uses_mask(e, concern)) or None)
                changed = True
    return changed


def _conjuncts_without(condition: Any, concern: Concern) -> Any:
    from pglast import enums

    if not _uses_mask(condition, concern):
        return condition
    if type(condition).__name__ == "BoolExpr" and condition.boolop == enums.BoolExprType.AND_EXPR:
        kept = tuple(c for c in condition.args if not _uses_mask(c, concern))
        if len(kept) > 1:
            condition.args = kept
            return copy(condition)  # another object, so that the caller sees the change
        return kept[0] if kept else None
    return None


def drop_alias_columns(statement: Any, concern: Concern) -> bool:
    """`FROM t AS a(x, y)` → `FROM t AS a`."""
    changed = False
    for item in _of(statement, "RangeVar"):
        if item.alias is not None and item.alias.colnames:
            item.alias.colnames = None
            changed = True
    return changed


def drop_locking(statement: Any, concern: Concern) -> bool:
    """Without FOR UPDATE and FOR SHARE."""
    changed = False
    for select in _of(statement, "SelectStmt"):
        if select.lockingClause:
            select.lockingClause = None
            changed = True
    return changed


def drop_conflict(statement: Any, concern: Concern) -> bool:
    """INSERT without ON CONFLICT."""
    changed = False
    for insert in _of(statement, "InsertStmt"):
        if insert.onConflictClause is not None:
            insert.onConflictClause = None
            changed = True
    return changed


def drop_calls(names: Iterable[str]) -> Callable[[Any, Concern], bool]:
    """Outputs that call one of these functions: their number of rows instead where they ask for a size, else left out."""
    refused = frozenset(names)

    def edit(statement: Any, concern: Concern) -> bool:
        from pglast import ast

        changed = False
        for select in _of(statement, "SelectStmt"):
            if not select.targetList:
                continue
            kept = [t for t in select.targetList if not any(_name(c) in refused for c in _of(t, "FuncCall"))]
            if len(kept) == len(select.targetList):
                continue
            about = _named_relation(select.targetList, refused)
            changed = True
            if about is not None and not select.fromClause:
                select.fromClause = (about,)
                kept.append(ast.ResTarget(val=_count_star()))
            if not kept:
                return False
            select.targetList = tuple(kept)
            select.sortClause = _without_positions(select.sortClause)
            if select.sortClause and any(
                _name(c) in refused for s in select.sortClause for c in _of(s, "FuncCall")
            ):
                select.sortClause = None
        return changed

    return edit


def _named_relation(targets: Any, refused: frozenset[str]) -> Any:
    from pglast import ast

    for call in _of(targets, "FuncCall"):
        if _name(call) not in refused or "size" not in _name(call):
            continue
        for const in _of(call.args, "A_Const"):
            text = getattr(const.val, "sval", None)
            if text:
                schema, _, name = str(text).replace('"', "").rpartition(".")
                return ast.RangeVar(schemaname=schema or None, relname=name, inh=True, relpersistence="p")
    return None


def read_instead(statement: Any, concern: Concern) -> Any:
    """The rows that a write is about, as a SELECT; None where it has none."""
    from pglast import ast, enums

    kind = type(statement).__name__
    if kind == "CopyStmt" and not statement.is_from:
        return statement.query or _rows_of(statement.relation, statement.attlist)
    if kind not in ("UpdateStmt", "DeleteStmt") or statement.withClause is not None:
        return None
    items = [
        statement.relation,
        *((statement.fromClause if kind == "UpdateStmt" else statement.usingClause) or ()),
    ]
    where = statement.whereClause
    if where is None:
        targets: tuple[Any, ...] = (ast.ResTarget(val=_count_star()),)
    else:
        name = statement.relation.alias.aliasname if statement.relation.alias else statement.relation.relname
        fields = (ast.A_Star(),) if len(items) == 1 else (ast.String(sval=name), ast.A_Star())
        targets = (ast.ResTarget(val=ast.ColumnRef(fields=fields)),)
    return ast.SelectStmt(
        targetList=targets,
        fromClause=tuple(items),
        whereClause=where,
        limitOption=enums.LimitOption.LIMIT_OPTION_DEFAULT,
        op=enums.SetOperation.SETOP_NONE,
        groupDistinct=False,
        all=False,
    )


def _rows_of(relation: Any, columns: Any) -> Any:
    from pglast import ast, enums

    fields: list[Any] = [ast.String(sval=each.sval) for each in columns or ()] or [ast.A_Star()]
    return ast.SelectStmt(
        targetList=tuple(ast.ResTarget(val=ast.ColumnRef(fields=(field,))) for field in fields),
        fromClause=(relation,),
        limitOption=enums.LimitOption.LIMIT_OPTION_DEFAULT,
        op=enums.SetOperation.SETOP_NONE,
        groupDistinct=False,
        all=False,
    )


def rename_relation(
    schema: str | None, name: str, other_schema: str, other: str
) -> Callable[[Any, Concern], bool]:
    """Every mention of one relation becomes another; its old name stays as the alias."""

    def edit(statement: Any, concern: Concern) -> bool:
        from pglast import ast

        changed = False
        for item in _of(statement, "RangeVar"):
            if item.relname == name and (item.schemaname or None) in (schema, None):
                if item.alias is None and name != other and _qualifies(statement, name):
                    item.alias = ast.Alias(aliasname=name)
                item.schemaname, item.relname = other_schema, other
                changed = True
        return changed

    return edit


def _qualifies(statement: Any, name: str) -> bool:
    return any(len(names := _fields(ref)) > 1 and names[-2] == name for ref in _of(statement, "ColumnRef"))


def open_columns(closed: frozenset[str], others: tuple[str, ...]) -> Callable[[Any, Concern], bool]:
    """A system relation without its closed columns; a star becomes the others by name."""

    def edit(statement: Any, concern: Concern) -> bool:
        from pglast import ast

        shut = Concern(dict.fromkeys(closed, "null"), frozenset(), concern.read_only)
        changed = drop_conditions(statement, shut)
        for select in _of(statement, "SelectStmt"):
            kept: list[Any] = []
            for target in select.targetList or ():
                value = target.val
                if type(value).__name__ == "ColumnRef" and _fields(value)[-1] == "*":
                    kept += [
                        ast.ResTarget(val=ast.ColumnRef(fields=(*value.fields[:-1], ast.String(sval=c))))
                        for c in others
                    ]
                    changed = True
                elif _uses_mask(value, shut):
                    changed = True
                else:
                    kept.append(target)
            if kept:
                select.targetList = tuple(kept)
        return changed

    return edit
