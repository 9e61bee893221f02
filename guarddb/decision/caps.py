"""Caps: how many rows a statement may hand out."""

from __future__ import annotations

from guarddb.decision.compiled import CompiledPolicy
from guarddb.sql.rewrite import Rewriter
from guarddb.sql.statement import Statement

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
    return statement.top.kind in ("select", "setop", "values")


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


def limit_rows(
    statement: Statement, policy: CompiledPolicy, rewriter: Rewriter, *, exact: bool = False
) -> bool:
    """Ask for one row more than may be handed out, so that the driver knows whether there are more.

    `exact`: for no more than may be handed out. False when the text cannot ask for fewer rows.
    """
    top = statement.top
    assert top is not None
    rows = policy.profile.max_rows + (0 if exact or is_exact(statement) else 1)
    first = rewriter.first_token(statement.location, statement.command)
    whole = len(rewriter.statements) == 1 and statement.command != "CopyStmt"
    return rewriter.limit(top.fields, first, rows, whole=whole)
