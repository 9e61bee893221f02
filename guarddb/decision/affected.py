"""How many rows a write may touch, and which writes can be counted at all.

The driver counts by the server's own command tag, behind a savepoint; here is decided what the tag does not tell.
"""

from __future__ import annotations

from guarddb.decision.caps import finds_one_row
from guarddb.decision.case import Case
from guarddb.decision.refusal import Refusal
from guarddb.sql.statement import Query, Statement
from guarddb.tree import Node
from guarddb.vocabulary import WRITE_KINDS

#: Values that are one value whatever happens: anything else in a single-row VALUES may be a function that returns a set.
_PLAIN_VALUES = frozenset(("A_Const", "ParamRef", "SetToDefault", "SQLValueFunction"))


def affected_rows(case: Case) -> Refusal | None:
    """A write whose rows the command tag does not count is refused under `max_affected_rows`.

    >>> import guarddb
    >>> sql = "WITH gone AS (DELETE FROM t WHERE id > 1 RETURNING id) SELECT count(*) FROM gone"  # the tag says SELECT 1
    >>> guarddb.evaluate(sql, {"access_mode": "read_write", "max_affected_rows": 5}).rule
    'max_affected_rows_writable_cte'
    """
    rows = case.policy.profile.max_affected_rows
    statement = case.statement
    if not rows or statement.kinds.isdisjoint(WRITE_KINDS):
        return None
    if any(query.parent is not None for query in _writing(statement)):
        return Refusal(
            "max_affected_rows_writable_cte",
            f"this policy lets one write touch {rows} rows, and the rows of a write inside WITH are not counted",
            "Send the INSERT, UPDATE or DELETE as a statement of its own, with RETURNING where its rows are needed.",
            "max_affected_rows",
        )
    if statement.analyzes or statement.command == "CopyStmt":
        what = "EXPLAIN ANALYZE" if statement.analyzes else "COPY"
        return Refusal(
            "max_affected_rows",
            f"this policy lets one write touch {rows} rows, and those of a write inside {what} are not counted",
            "Use EXPLAIN without ANALYZE."
            if statement.analyzes
            else "Send the write itself, with RETURNING.",
            "max_affected_rows",
        )
    return None


def affected_cap(case: Case) -> int | None:
    """Rows that the statement may touch, to be counted when it has run; None where there is nothing to count."""
    rows = case.policy.profile.max_affected_rows
    statement = case.statement
    if rows and statement.command == "CopyStmt" and statement.fields.get("is_from", False):
        return rows
    if not rows or not runs_a_write(statement):
        return None
    at_most = rows_at_most(statement)
    return None if at_most is not None and at_most <= rows else rows


def runs_a_write(statement: Statement) -> bool:
    """Whether the statement, or what it prepares, writes rows when it runs."""
    if statement.kinds.isdisjoint(WRITE_KINDS):
        return False
    return statement.analyzes or "explain" not in statement.kinds


def waits(case: Case) -> bool:
    """Whether the statement waits for a person: `approval_mode` names its class. Reads and a plain COPY never wait."""
    mode = case.policy.profile.approval_mode
    statement = case.statement
    if mode == "off" or ("explain" in statement.kinds and not statement.analyzes):
        return False
    if mode in ("writes", "all") and not statement.kinds.isdisjoint(WRITE_KINDS):
        return True
    return mode in ("ddl", "all") and "ddl" in statement.kinds


def countable(statement: Statement) -> bool:
    """Whether the command tag tells how many rows the statement touched."""
    return (
        runs_a_write(statement)
        and "ddl" not in statement.kinds
        and not statement.analyzes
        and statement.command != "CopyStmt"
        and all(query.parent is None for query in _writing(statement))
    )


def rows_at_most(statement: Statement) -> int | None:
    """How many rows a write touches at the most, where its text says so: a list of VALUES, a look-up by primary key.

    Rows that triggers, cascades and rules touch are no part of any count.
    """
    writing = _writing(statement)
    if len(writing) != 1:
        return None
    query = writing[0]
    relation = query.target.relation if query.target is not None else None
    if relation is not None and relation.has_rules:
        return None  # what runs in its place is not in this text
    if query.kind == "insert":
        return _rows_of_values(query.fields)
    if query.kind in ("update", "delete") and finds_one_row(statement, query):
        return 1
    return None


def _rows_of_values(fields: Node) -> int | None:
    source = fields.get("selectStmt", {}).get("SelectStmt")
    if source is None:
        return 1  # DEFAULT VALUES
    lists = source.get("valuesLists", ())
    if len(lists) == 1 and not all(map(_is_plain, lists[0]["List"]["items"])):
        return None  # the values of a single row may be functions that return sets, those of several may not
    return len(lists) or None


def _is_plain(value: Node) -> bool:
    while "TypeCast" in value:
        value = value["TypeCast"]["arg"]
    return not _PLAIN_VALUES.isdisjoint(value)


def _writing(statement: Statement) -> list[Query]:
    return [q for q in statement.queries if q.kind in ("insert", "update", "delete", "merge")]
