"""Caps: how many rows a statement may hand out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from guarddb.decision.case import Case
from guarddb.decision.on_catalog import CompiledPolicy
from guarddb.decision.refusal import Refusal
from guarddb.facts import functions
from guarddb.sql.keys import constant_tells_apart
from guarddb.sql.names import calls_in, string_list
from guarddb.sql.statement import Query, Statement
from guarddb.tree import Node, below

if TYPE_CHECKING:
    from guarddb.decision.draft import Draft

#: parsenodes.h, CURSOR_OPT_SCROLL
_SCROLL = 0x0002


def wants_limit(statement: Statement, policy: CompiledPolicy) -> bool:
    """Whether the text can ask the server for fewer rows: a query whose rows are the statement's result."""
    if not policy.profile.max_rows:
        return False
    if is_copy_of_table(statement):
        return True
    if statement.top is None:
        return False
    if statement.top.kind not in ("select", "setop", "values"):
        return statement.command == "CopyStmt"  # which cannot be cut, and is refused
    return is_exact(statement) or not (_computes_one_row(statement) or _selects_one_row(statement))


def _computes_one_row(statement: Statement) -> bool:
    """Whether it is SELECT without FROM, or an aggregate of everything: one row whatever there is.

    A LIMIT would tell the planner to look for the first row fast, and a join of many tables is planned the worse for it.
    """
    top = statement.top
    if top is None or top.kind != "select" or "groupClause" in top.fields:
        return False
    if not statement.calls:
        return "fromClause" not in top.fields
    if top.fields.get("fromClause") and not any(
        functions.is_aggregate(call.name) for call in statement.calls
    ):
        return False
    targets = top.fields.get("targetList", ())
    called = calls_in(targets)
    if any(not functions.builtin(name) or functions.returns_set(name) for name in called):
        return False  # more than one row for each
    if not top.fields.get("fromClause"):
        return True
    return any(map(functions.is_aggregate, called)) and any(map(_is_aggregate, targets))


def _is_aggregate(target: Node) -> bool:
    """Whether a target holds an aggregate of its own query, and not only a sub-select's or a window's."""
    return any(
        "over" not in call and functions.is_aggregate(string_list(call["funcname"])[-1])
        for call in below(target, ("FuncCall",), ("SubLink", "over"))
    )


def _selects_one_row(statement: Statement) -> bool:
    """Whether it is a look-up by primary key: columns of one table, each column of the key equal to a constant.

    Such a text is sent without a LIMIT, which it does not need. (A key that is deferred may be there twice for a moment; the
    driver counts rows all the same.)
    """
    top = statement.top
    if top is None or top.kind != "select":
        return False
    tables = top.fields.get("fromClause", ())
    if len(tables) != 1 or "RangeVar" not in tables[0]:
        return False
    if any("ColumnRef" not in target["ResTarget"]["val"] for target in top.fields.get("targetList", ())):
        return False  # a function may return more than one row for each
    return finds_one_row(statement, top)


def finds_one_row(statement: Statement, top: Query) -> bool:
    """Whether the condition of a statement's only query, over one table, names one row at the most by its primary key."""
    if len(statement.queries) > 1 or len(statement.references) != 1:
        return False
    relation = statement.references[0].relation
    if relation is None or relation.kind != "r" or relation.descendants or not relation.primary_key:
        return False
    types = {a.name: a.base_type for a in relation.attributes if a.name in relation.primary_key}
    given: set[str] = set()
    conditions = [top.fields.get("whereClause", {})]
    while conditions:
        condition = conditions.pop()
        both = condition.get("BoolExpr")
        if both is not None and both.get("boolop", "AND_EXPR") == "AND_EXPR":
            conditions += both["args"]
        else:
            given.add(_column_that_equals_a_constant(condition.get("A_Expr", {}), types))
    return given.issuperset(relation.primary_key)


def _column_that_equals_a_constant(comparison: Node, types: Mapping[str, str]) -> str:
    """`id` of `id = 1` and `$1 = t.id`, where only one value of the column's type can; else an empty text."""
    if comparison.get("kind", "AEXPR_OP") != "AEXPR_OP" or string_list(comparison.get("name", ())) != ["="]:
        return ""
    sides = comparison.get("lexpr", {}), comparison.get("rexpr", {})
    for column, constant in (sides, sides[::-1]):
        if "ColumnRef" in column:
            name: str = column["ColumnRef"]["fields"][-1].get("String", {}).get("sval", "")
            if name in types and constant_tells_apart(types[name], constant):
                return name
    return ""


def is_copy_of_table(statement: Statement) -> bool:
    """COPY table TO, which has to become COPY (query) TO for anything to be written into it."""
    fields = statement.fields
    return statement.command == "CopyStmt" and "relation" in fields and not fields.get("is_from", False)


def is_exact(statement: Statement) -> bool:
    """Whether nobody counts the rows that are handed out, so that the text must not ask for one more.

    COPY hands its rows out as they come. A SCROLL cursor hands one row out as often as it is asked for.
    """
    if statement.command == "DeclareCursorStmt":
        top = statement.top
        ties = top is not None and top.fields.get("limitOption") == "LIMIT_OPTION_WITH_TIES"
        return bool(statement.fields.get("options", 0) & _SCROLL) and not ties
    return statement.command == "CopyStmt"


def row_cap(case: Case, draft: Draft) -> Refusal | None:
    """Ask for one row more than may be handed out, so that the driver knows whether there are more.

    Where nobody counts the rows that are handed out, for no more than may be.

    >>> import guarddb
    >>> [guarddb.evaluate(sql, {"max_rows": 5}).rewritten_sql for sql in ("SELECT a FROM t", "SELECT a FROM t LIMIT 3")]
    ['SELECT a FROM t LIMIT 6', 'SELECT a FROM t LIMIT 3']
    """
    statement, policy = case.statement, case.policy
    if not draft.limited:
        return None
    top = statement.top
    assert top is not None
    if top.kind not in ("select", "setop", "values"):
        return Refusal(
            "statement_not_allowed",
            "COPY of what a write returns has no bound on its rows, and this policy sets max_rows",
            "Run the statement with RETURNING by itself.",
            "max_rows",
        )
    rows = policy.profile.max_rows + (0 if draft.exact or is_exact(statement) else 1)
    command = statement.command
    whole = len(draft.rewriter.statements) == 1 and command != "CopyStmt"
    within = draft.rewriter.limit(top.fields, statement.location, command, rows, whole=whole)
    if not within and command == "CopyStmt":
        return Refusal(
            "statement_not_allowed",
            "COPY of a query that FETCHes WITH TIES has no bound on its rows, and this policy sets max_rows",
            "Use LIMIT, or leave out WITH TIES.",
            "max_rows",
        )
    return None
