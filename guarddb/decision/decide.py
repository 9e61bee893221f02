"""The decision: policy × statement, in the order of the rules.

`RULES` is the policy's order; what is refused is reported by the first rule that refuses. `decide` is the one function behind
the dry evaluation and the live session.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from guarddb.decision.access import access
from guarddb.decision.filters.rule import row_filters
from guarddb.decision.floor import floor
from guarddb.decision.functions import functions
from guarddb.decision.masks.rule import masking
from guarddb.decision.on_catalog import CompiledPolicy
from guarddb.decision.plan import NO_NAMES, Decision, Plan, SessionNames, StatementPlan
from guarddb.decision.refusal import Refusal
from guarddb.decision.relations import relations
from guarddb.decision.writing import SessionState, write_plan
from guarddb.policy.load import load_policy
from guarddb.policy.profile import PolicyProfile
from guarddb.sql.analysis.classify import NotJudged, UnknownName, UnknownNode, read_statement
from guarddb.sql.catalog import Catalog
from guarddb.sql.statement import Statement
from guarddb.tree import Node, SQLSyntaxError, parse
from guarddb.vocabulary import Rule

__all__ = ["RULES", "CompiledPolicy", "compile_policy", "decide", "evaluate"]

logger = logging.getLogger("guarddb")

#: Every rule of this engine, in the order of the policy. Budgets and approvals come after it, in the session.
RULES: tuple[Callable[[Statement, CompiledPolicy, Catalog | None], Refusal | None], ...] = (
    floor,
    access,
    functions,
    relations,
    masking,
    row_filters,
)

#: What a profile that forbids nothing lets through although the engine would refuse it: there is nothing that a
#: text could get around. What guarddb itself cannot carry out, and the server's own files, stay refused.
_PASSED_ON: frozenset[Rule] = frozenset(("parse_error", "statement_not_allowed", "table_not_allowed"))
#: Nothing is known about such a text, so afterwards everything is looked at again.
_UNREAD = StatementPlan("other", frozenset(("other",)), "", returns_rows=True, changes_catalog=True)


def evaluate(
    sql: str,
    policy: PolicyProfile | Mapping[str, Any] | str | os.PathLike[str],
    catalog: Catalog | None = None,
) -> Decision:
    """What would happen to a statement under a policy. Nothing is sent anywhere.

    The live session asks the very same engine, so that with the same catalog this is the live answer. Without a catalog
    it may only be stricter. One difference: a session lets a truly empty text through as the no-op that it is.

    Args:
        sql: one or more statements.
        policy: a profile, the document of one (its `name` may be missing), or a path to one.
        catalog: what the database holds, see `Catalog.from_connection`.

    Raises:
        PolicyError: the policy cannot be read.
    """
    if isinstance(policy, Mapping):
        policy = PolicyProfile.draft(policy)
    profile = load_policy(policy)
    return decide(sql, _compiled(profile), catalog).decision


@lru_cache(maxsize=64)
def _compiled(profile: PolicyProfile) -> CompiledPolicy:
    return compile_policy(profile)


def compile_policy(
    profile: PolicyProfile, settings: Mapping[str, str] | None = None, version: str | None = None
) -> CompiledPolicy:
    """Prepare a profile for judging. `settings` (the caller's) go over the profile's own `guarddb.settings`."""
    return CompiledPolicy(profile, version or profile.version, settings or {})


def decide(sql: str, policy: CompiledPolicy, catalog: Catalog | None, names: SessionNames = NO_NAMES) -> Plan:
    """Judge a text and say how to carry it out. Pure: no I/O, no clock. Never raises.

    Args:
        names: what the session has prepared and declared under a name.
    """
    session = SessionState(names)
    try:
        answer = _decide(sql, policy, catalog, session)
    except RecursionError:
        answer = Refusal(
            "parse_error", "the text nests too deeply to be judged", "Write it with fewer levels."
        )
    except Exception:
        logger.exception("the decision failed; the statement is refused")
        answer = Refusal(
            "internal_error",
            "guarddb could not judge this statement and refuses it; the log has the details",
            "Write the statement in a simpler way.",
        )
    if isinstance(answer, Plan):
        return answer
    # A NUL byte would end the text for the server, but not for the log.
    if policy.profile.forbids_nothing and answer.rule in _PASSED_ON and "\0" not in sql:
        return _passed_on(sql, answer, policy, session)
    decision = Decision(
        "block",
        answer.rule,
        answer.reason,
        answer.hint,
        policy_name=policy.profile.name,
        policy_version=policy.version,
    )
    return Plan(decision, uses_session=session.used)


def _passed_on(sql: str, refusal: Refusal, policy: CompiledPolicy, session: SessionState) -> Plan:
    decision = Decision(
        "allow",
        "ok",
        "this policy forbids nothing, so the text is passed on as it is",
        rewritten_sql=sql,
        notes=(f"any other policy refuses it ({refusal.rule}): {refusal.reason}", *policy.session_notes),
        policy_name=policy.profile.name,
        policy_version=policy.version,
    )
    return Plan(decision, sql, (_UNREAD,), uses_session=session.used)


def _decide(
    sql: str, policy: CompiledPolicy, catalog: Catalog | None, session: SessionState
) -> Plan | Refusal:
    try:
        raws = parse(sql)
    except SQLSyntaxError as ex:
        where = f" at character {ex.position + 1}" if ex.position is not None else ""
        return Refusal(
            "parse_error", f"the text is not a PostgreSQL statement: {ex}{where}", "Correct the syntax."
        )
    if not raws:
        return Refusal("empty", "the text holds no statement", "Send a statement.")
    statements: list[Statement] = []
    for raw in raws:
        found = _judge(raw, policy, catalog, session)
        if isinstance(found, Refusal):
            return found
        statements.append(found)
    if len(statements) > 1 and len({s.kind == "transaction" for s in statements}) > 1:
        return Refusal(
            "statement_not_allowed",
            "a text that mixes transaction control with other statements is refused",
            "Send BEGIN, COMMIT and the like by themselves.",
        )
    if policy.restricts_data and len(statements) > 1:
        refusal = _changes_what_it_reads(statements)
        if refusal is not None:
            return refusal
    return write_plan(sql, raws, statements, policy, catalog, session)


def _changes_what_it_reads(statements: list[Statement]) -> Refusal | None:
    """A definition followed by a statement that may read what it made: that one would be judged by a catalog of before."""
    changed = False
    for statement in statements:
        if changed and any(r.mode != "ddl" for r in statement.references):
            return Refusal(
                "statement_not_allowed",
                "a text that changes the catalog and then reads is refused: the second part cannot be judged yet",
                "Send the statements one by one.",
            )
        changed = changed or not statement.kinds.isdisjoint(("ddl", "other"))
    return None


def _judge(
    raw: Node, policy: CompiledPolicy, catalog: Catalog | None, session: SessionState
) -> Statement | Refusal:
    try:
        statement = read_statement(raw, catalog, session.as_mapping())
    except UnknownNode as ex:
        return Refusal(
            "internal_error",
            f"guarddb does not know this kind of statement or expression ({ex}) and refuses what it cannot judge",
            "Write the statement in another way.",
        )
    except NotJudged as ex:
        return Refusal("statement_not_allowed", str(ex), "Send the statements one by one.")
    except UnknownName as ex:
        what, name = ex.args
        session.used = True
        verb = "PREPARE" if what == "prepared statement" else "DECLARE"
        return Refusal(
            "statement_not_allowed",
            f'{what} "{name}" is not one that this session has made, so what it does cannot be judged',
            f"{verb} it first, in this session.",
        )
    for rule in RULES:
        refusal = rule(statement, policy, catalog)
        if refusal is not None:
            return refusal
    session.announce(statement)
    return statement
