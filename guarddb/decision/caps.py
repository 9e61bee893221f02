"""Caps: how many rows a statement may hand out."""

from __future__ import annotations

from guarddb.decision.compiled import CompiledPolicy
from guarddb.sql.rewrite import Rewriter
from guarddb.sql.statement import Statement


def wants_limit(statement: Statement, policy: CompiledPolicy) -> bool:
    """Whether the text can ask the server for fewer rows: a query whose rows are the statement's result."""
    if not policy.profile.max_rows or statement.top is None:
        return False
    return statement.top.kind in ("select", "setop", "values")


def limit_rows(statement: Statement, policy: CompiledPolicy, rewriter: Rewriter) -> None:
    """Ask for one row more than may be handed out, so that the driver knows whether there are more.

    COPY hands its rows out as they come, with nobody to count them: it asks for no more than may be handed out.
    """
    top = statement.top
    assert top is not None
    rows = policy.profile.max_rows + (0 if statement.command == "CopyStmt" else 1)
    first = rewriter.first_token(statement.location, statement.command)
    whole = len(rewriter.statements) == 1 and statement.command != "CopyStmt"
    rewriter.limit(top.fields, first, rows, whole=whole)
