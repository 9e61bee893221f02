"""How a text of the agent's is judged on a connection: from the plans that are known, or by the engine.

Nothing here asks the server, counts or sends; see `steps.py` for what comes after.
"""

from __future__ import annotations

import codecs
import logging
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from msgspec import structs

from guarddb.decision.plan import Decision, Plan
from guarddb.driver import operator_log, plans
from guarddb.driver.plans import SHARED, JudgedText
from guarddb.driver.resetting import of_a_pool
from guarddb.driver.withholding import scans
from guarddb.errors import PolicyUnavailable

if TYPE_CHECKING:
    from guarddb.decision.plan import StatementPlan
    from guarddb.driver.names import Remembered
    from guarddb.driver.session import Session

logger = logging.getLogger("guarddb")


def judge(session: Session, query: bytes) -> JudgedText:
    """What to do with a statement of the agent's.

    Raises:
        PolicyViolation: it is refused.
    """
    judged = session.plans.get(query)
    if judged is None:
        judged = _look_up(session, query)
    session.last = judged
    if judged.blocked or session.on_decision is not None:
        report(session, judged)
    return judged


def report(session: Session, judged: JudgedText) -> None:
    """Tell who watches, and raise when it is refused."""
    decision = judged.plan.decision
    if not judged.empty:
        session.tell(decision, judged.text)
    if judged.blocked:
        if session.scoring is not None:
            session.scoring.refused_by_profile(session, judged)
        agent = session.attachment.agent if session.attachment is not None else None
        operator_log.refused(decision, session.policy_name, agent, operator_log.operation_of(judged.plan))
        error = session.violation(decision)
        error._guard_told = True  # type: ignore[attr-defined]
        session.begin_span(judged).end(error=error)
        raise error


def follow(session: Session, query: object) -> None:
    """Put the policy of now in force, before a statement of the agent's: `query`, as the agent gave it.

    Raises:
        PolicyUnavailable: there is none. The statement is refused without being read; who watches is told, as of any refusal.
    """
    try:
        session.follow()
    except PolicyUnavailable as error:
        error.decision = session.under_its_policy(
            error.decision or Decision("block", "policy_unavailable", str(error))
        )
        text = query if isinstance(query, str) else ""
        if isinstance(query, bytes):
            text = plans.decode(query, session.encoding) or ""
        session.last = JudgedText(Plan(error.decision), b"", b"", text, blocked=True)
        error._guard_told = True  # type: ignore[attr-defined]
        session.tell(error.decision, text)
        agent = session.attachment.agent if session.attachment is not None else None
        operator_log.refused(error.decision, session.policy_name, agent)
        session.begin_span(session.last).end(error=error)
        raise


def _look_up(session: Session, query: bytes) -> JudgedText:
    if not isinstance(query, bytes):
        # What psycopg's conversion let through; it would fail a moment later, when it is sent.
        raise TypeError(f"expected bytes, {type(query).__name__} found")
    if session.in_force is None:
        follow(session, query)
    context = session.context
    if context is None:
        refused = plans.refusal("internal_error", "the catalog could not be read")
        return _judged(session, query, refused, "")
    judged = SHARED.get(query, context)
    if judged is None:
        judged = _decide(session, query)
        if judged.uses_session or judged.blocked:
            # A refusal may be about a name that is not known yet, and need not be fast.
            return judged
        if not session.freshness.uncommitted:  # else the catalog is this transaction's alone
            SHARED.put(query, context, judged)
    if len(query) > plans.LONG_TEXT:
        return judged  # a few of these would be all there is room for
    if len(session.plans) >= plans.CONNECTION_PLANS:
        session.plans = {}
    session.plans[query] = judged
    return judged


def _decide(session: Session, query: bytes) -> JudgedText:
    text = plans.decode(query, session.encoding)
    if _is_ambiguous(session.encoding) and not (session.profile and session.profile.forbids_nothing):
        reason = (
            f"the connection's encoding, {session.encoding}, is refused: in it a byte of a character can be a backslash, "
            "so that the server could read another text"
        )
        hint = "Connect with client_encoding=UTF8."
        return _judged(session, query, plans.refusal("statement_not_allowed", reason, hint), "")
    if text is None:
        reason = f"the text is not valid in the connection's encoding, {session.encoding}"
        return _judged(session, query, plans.refusal("parse_error", reason), "")
    plan = _ask(session, text)
    if plan.decision.blocked and (cleaning := of_a_pool(session, text, plan.decision)) is not None:
        session.wall_due = session.wall_due or session.wall is not None
        # It is not the agent's, so it is neither counted against its budgets nor told as something it did.
        return replace(_judged(session, query, cleaning, text), empty=True)
    if plan.uses_session and not plan.decision.blocked:
        plan = _by_names_of_today(session, text, plan)
    return _judged(session, query, plan, text)


#: Client encodings of PostgreSQL's in which a byte of a character can be an ASCII one, by Python's name.
_AMBIGUOUS = frozenset(("shift_jis", "shift_jis_2004", "big5", "gbk", "cp949", "gb18030", "johab"))


@cache
def _is_ambiguous(encoding: str) -> bool:
    try:
        return codecs.lookup(encoding).name in _AMBIGUOUS
    except LookupError:
        return False


def _ask(session: Session, text: str) -> Plan:
    assert session.in_force is not None
    return plans.ask(
        text, session.in_force.compiled.policy, session.catalog, session.names.snapshot, session.wall
    )


def _judged(session: Session, query: bytes, plan: Plan, text: str) -> JudgedText:
    decision = plan.decision
    uses_session = plan.uses_session
    if decision.blocked and decision.rule == "empty":
        # Pools and ORMs ping with it, and nothing in it can do anything.
        plan = Plan(Decision("allow", "ok", "the text holds no statement"))
        return JudgedText(plan, query, query, text, empty=True)
    effects = any(plans.has_effects(statement) for statement in plan.statements)
    if session.observe:
        return JudgedText(plan, query, query, text, effects=effects, uses_session=uses_session)
    if decision.blocked:
        return JudgedText(plan, query, b"", text, blocked=True, uses_session=uses_session)
    sent = query
    if plan.sql != text:
        try:
            sent = plan.sql.encode(session.encoding)
        except UnicodeError:
            sent = b""
        if not sent:
            reason = "the rewritten text cannot be sent in the connection's encoding"
            return JudgedText(plans.refusal("internal_error", reason), query, b"", text, blocked=True)
    policy = session.in_force
    statements = plan.statements
    ends = (
        policy is not None and policy.rolls_back and any(s.facts.transaction == "commit" for s in statements)
    )
    if ends:
        if len(statements) > 1:
            reason = "a COMMIT beside other statements is refused where every transaction is rolled back"
            refused = plans.refusal("statement_not_allowed", reason, "send the COMMIT by itself")
            return JudgedText(refused, query, b"", text, blocked=True)
        facts = structs.replace(statements[0].facts, transaction="rollback")
        sent = b"ROLLBACK AND CHAIN" if facts.chains else b"ROLLBACK"
        plan = structs.replace(plan, statements=(structs.replace(statements[0], facts=facts),))
    now = plans.carried_out(statements)
    caps = [s.handling.affected_cap for s in now if s.handling.affected_cap is not None]
    affected_cap = min(caps, default=None)
    waits = any(s.handling.waits for s in now)
    checks_rows = any(s.handling.checks_rows for s in now)
    undone = policy is not None and policy.rolls_back and any(plans.is_undone(s) for s in now)
    rechecked = any(_is_rechecked(session, s) for s in now)
    inspect = (
        policy is None
        or policy.egress
        or bool(session.origins)
        or session.keyed_hash is not None
        or scans(session)
        or any(plans.wants_a_look(statement) for statement in plan.statements)
    )
    copies = any(statement.facts.operation == "COPY" for statement in statements)
    surrounded = affected_cap is not None or waits or checks_rows or undone or ends or rechecked
    takes = (
        policy is not None and policy.restricts and any(plans.takes(statement) for statement in statements)
    )
    return JudgedText(
        plan,
        query,
        sent,
        text,
        plan.statements,
        takes=takes,
        inspect=inspect,
        effects=effects,
        sensitive=any(statement.handling.sensitive for statement in plan.statements),
        writes=not all(statement.facts.kinds <= plans.READING for statement in plan.statements),
        surrounded=surrounded,
        apart=surrounded or takes or copies,
        affected_cap=affected_cap,
        waits=waits,
        countable=waits and all(s.handling.countable for s in now if s.handling.waits),
        checks_rows=checks_rows,
        undone=undone,
        rechecked=rechecked,
        ends=ends,
        uses_session=uses_session,
        copies=copies,
    )


_WRITES = frozenset({"insert", "update", "delete"})


def _is_rechecked(session: Session, statement: StatementPlan) -> bool:
    """Whether a write may have to be undone for what it turns out to do, or to return."""
    if statement.facts.kinds.isdisjoint(_WRITES) or statement.facts.kind == "explain":
        return False
    if session.scoring is not None and session.scoring.wants_rows:
        return True
    policy = session.in_force
    blocks = policy is not None and policy.profile.content_scan_mode == "block"
    return blocks and statement.facts.returns_rows


def _by_names_of_today(session: Session, text: str, plan: Plan) -> Plan:
    """EXECUTE and FETCH hold only while the remembered text would be sent as it was."""
    for statement in plan.statements:
        verb, name = statement.facts.session_verb, statement.facts.session_name
        if verb not in ("execute", "fetch", "move") or name is None:
            continue
        found = (session.names.prepared if verb == "execute" else session.names.portals).get(name)
        if found is None or found.context == session.context:
            continue
        refused = rejudge(session, verb, name, found)
        if refused is not None:
            return refused
        plan = _ask(session, text)
    return plan


def rejudge(session: Session, verb: str, name: str, found: Remembered) -> Plan | None:
    """Judge what stands behind a name by the policy and catalog of now; the refusal, or None."""
    again = _decide(session, found.judged.original)
    if again.blocked:
        return again.plan
    if again.sent != found.judged.sent:
        what, how = ("statement", "PREPARE") if verb == "execute" else ("cursor", "DECLARE")
        return plans.refusal(
            "statement_not_allowed",
            f'the policy changed since the {what} "{name}" was opened, and treats it otherwise now',
            f"close it and {how} it again",
        )
    statement = again.plan.statements[0] if again.plan.statements else found.statement
    fresh = replace(found, judged=again, statement=statement, context=session.context)
    session.names.replace(verb, name, fresh)
    return None
