"""A pool cleans a session between two users of it: `DISCARD ALL` and its like, in the application's reset callback.

To an agent they are refused, for they take down what the policy has set on the session. The pool's callback is the application's,
and speaks while nobody has the connection; without it the pool would throw every connection away. What it resets is put up
again before the next statement is judged: the settings, LISTEN, what is known of the catalog and the wall. Prepared
statements and portals are forgotten here as they are by the server and by psycopg.

psycopg_pool's callback runs in one of the pool's own workers, where no agent's statement ever is; other pools say so by
`between_users`.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from guarddb.decision.plan import Decision, Facts, Handling, Plan, StatementPlan
from guarddb.sql.names import string_list
from guarddb.tree import SQLSyntaxError, parse

if TYPE_CHECKING:
    from guarddb.driver.session import Session
    from guarddb.tree import Node
    from guarddb.vocabulary import Rule

#: Rules that refuse a cleaning statement of an agent's. Anything else (a budget, an unreadable text) holds for a pool as well.
_REFUSE_CLEANING: Final[frozenset[Rule]] = frozenset(
    (
        "protected_setting",
        "role_change",
        "destructive_ddl",
        "forbidden_function",
        "read_only",
        "statement_denied",
        "statement_not_allowed",
    )
)
_ROLES: Final = ("session_authorization", "role")
_HANDLING: Final = Handling(
    row_cap=None,
    hidden_returning=False,
    keyed_hashes=(),
    output_kinds={},
    sensitive=False,
    changes_catalog=False,
    changes_settings=False,
    checks_rows=False,
    affected_cap=None,
    waits=False,
    countable=False,
    masked=(),
    predicates=(),
)


def of_a_pool(session: Session, text: str, refused: Decision) -> Plan | None:
    """The plan of a text that a pool cleans the session with; None for every other text, and every other caller.

    Args:
        refused: what the policy answers to an agent.
    """
    if refused.rule not in _REFUSE_CLEANING or len(text) > 1_000:
        return None
    try:
        statements = [_cleaning(*next(iter(raw["stmt"].items()))) for raw in parse(text)]
    except SQLSyntaxError:
        return None
    plans = tuple(each for each in statements if each is not None)
    if len(plans) < len(statements) or not plans or not _between_users(session):
        return None
    decision = Decision(
        "allow",
        "ok",
        "a pool cleans the session; what the policy sets on it is set again",
        rewritten_sql=text,
        policy_name=refused.policy_name,
        policy_version=refused.policy_version,
        policy_id=refused.policy_id,
    )
    return Plan(
        decision, text, plans, uses_session=True
    )  # (not to be kept for an agent who sends the same text)


def _cleaning(command: str, fields: Node) -> StatementPlan | None:
    """A statement that only resets the session, or None.

    >>> [_cleaning(*next(iter(raw["stmt"].items()))) is not None for raw in parse("RESET ALL; SET ROLE x; CLOSE ALL; SELECT 1")]
    [True, False, True, False]
    """
    kind = fields.get("kind")
    if command == "DiscardStmt":
        everything = fields.get("target", "DISCARD_ALL") == "DISCARD_ALL"
        return _plan("DISCARD", "deallocate" if everything else None)
    if command == "VariableSetStmt":
        roles = fields.get("name") in _ROLES and kind in ("VAR_SET_DEFAULT", "VAR_RESET")
        return _plan("RESET") if kind == "VAR_RESET_ALL" or roles else None
    if command == "DeallocateStmt":
        return _plan("DEALLOCATE", "deallocate") if fields.get("isall") else None
    if command == "ClosePortalStmt":
        return _plan("CLOSE", "close") if "portalname" not in fields else None
    if command == "UnlistenStmt":
        return _plan("UNLISTEN") if "conditionname" not in fields else None
    if command == "SelectStmt" and set(fields) <= {"targetList", "limitOption", "op"}:
        (target, *more) = fields.get("targetList", ({},))
        call = target.get("ResTarget", {}).get("val", {}).get("FuncCall", {})
        named = string_list(call.get("funcname", ()))
        if not more and not call.get("args") and named[-1:] == ["pg_advisory_unlock_all"]:
            return _plan("SELECT") if named[:-1] in ([], ["pg_catalog"]) else None
    return None


def _plan(operation: str, verb: str | None = None) -> StatementPlan:
    facts = Facts(
        kind="other",
        kinds=frozenset(("other",)),
        operation=operation,
        relations=(),
        returns_rows=operation == "SELECT",
        transaction=None,
        session_verb=verb,  # type: ignore[arg-type]
        session_name=None,
        holds=False,
        chains=False,
    )
    return StatementPlan(facts, _HANDLING)


def _between_users(session: Session) -> bool:
    """Whether the pool has the connection, and not somebody who uses it. SQL cannot bring that about."""
    if session.between_users:
        return True
    workers = getattr(session.pool[0], "_workers", ()) if session.pool is not None else ()
    if not workers:
        return False
    speaking: list[object] = [threading.current_thread()]
    with suppress(RuntimeError):  # where no event loop runs
        speaking.append(asyncio.current_task())
    return any(worker is each for worker in workers for each in speaking)
