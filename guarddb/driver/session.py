"""What guarddb knows about one connection, and how a text is judged on it.

Everything here is plain computation. What has to ask the server (reading the catalog, setting the walls) is
in `freshness.py`, as generators that sync and async connections both drive.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from psycopg import pq

from guarddb import telemetry
from guarddb.decision.plan import Decision, Plan
from guarddb.driver import plans
from guarddb.driver.names import Names
from guarddb.driver.plans import SHARED, Compiled, Judged
from guarddb.driver.settings import Attachment, OnDecision
from guarddb.driver.views import KeyedHash
from guarddb.errors import BudgetExceeded, PolicyUnavailable, PolicyViolation, refusal_message, violation
from guarddb.runtime.budgets import RULES, Budget, BudgetLimits, Overrun, open_store
from guarddb.runtime.policies import StaticPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg.pq.abc import PGconn

    from guarddb.driver.names import Remembered
    from guarddb.policy.profile import PolicyProfile
    from guarddb.sql.catalog import Catalog
    from guarddb.vocabulary import Rule

logger = logging.getLogger("guarddb")

INERROR = pq.TransactionStatus.INERROR


class Session:
    """The guard's side of one connection. Until a policy is attached it denies everything."""

    # More attributes than CPython keeps in place for an object with a __dict__ (30).
    __slots__ = (
        "_spend_bytes",
        "_spend_query",
        "attachment",
        "attention",
        "began",
        "budget",
        "catalog",
        "check_at",
        "compiled",
        "context",
        "counts",
        "database",
        "dirty",
        "egress",
        "encoding",
        "facts",
        "fixed",
        "keyed",
        "keyed_hash",
        "last",
        "last_message",
        "masked_tables",
        "met_sensitive",
        "names",
        "observe",
        "on_decision",
        "origins",
        "pgconn",
        "plans",
        "policy_name",
        "prepaid",
        "profile",
        "sensitive",
        "span",
        "stale",
        "streamed",
        "version",
        "walls",
        "walls_due",
    )

    def __init__(self, pgconn: PGconn) -> None:
        self.pgconn = pgconn
        self.attachment: Attachment | None = None
        self.profile: PolicyProfile | None = None
        self.version: str | None = None
        self.policy_name: str | None = None
        self.compiled: Compiled | None = None
        self.observe = False
        self.on_decision: OnDecision | None = None
        self.names = Names()
        #: plans by the agent's bytes; emptied whenever `context` changes
        self.plans: dict[bytes, Judged] = {}
        self.context: tuple[object, ...] | None = None
        self.encoding = "utf-8"
        self.last: Judged | None = None

        self.catalog: Catalog | None = None
        self.database: tuple[object, ...] = ()
        #: the second net: (table OID, attribute number) of every masked column, and the tables alone
        self.origins: Mapping[tuple[int, int], str] = {}
        self.masked_tables: frozenset[int] = frozenset()

        #: the settings that hold the walls, and whether they must be set (again)
        self.walls: dict[str, str | None] = {}
        self.walls_due = False
        #: the catalog must be read again before anything is judged
        self.stale = True
        #: in a transaction that changed the catalog, or may have
        self.dirty = False
        #: in a transaction that has not seen a statement of the agent's yet
        self.began = False
        #: the policy cannot change under this connection, so it need not be asked for
        self.fixed = False
        #: a stream() has been, and no pipeline since
        self.streamed = False
        #: the text of a statement that is counted already and is about to be sent
        self.prepaid: bytes | None = None
        #: something of the above wants to be looked at before the next statement
        self.attention = True
        #: perf_counter() from which on the catalog is checked again
        self.check_at = 0.0

        #: from a statement over masked or filtered rows to its transaction's end: row data is cut out of the server's
        #: messages
        self.sensitive = False
        #: that was so for some statement of this connection, and what the last exception said
        self.met_sensitive = False
        self.last_message = ""
        self.budget: Budget | None = None
        self._spend_query: Callable[[], None]
        self._spend_bytes: Callable[[int], None]
        self.counts = False
        self.egress = False
        self.keyed_hash: KeyedHash | None = None
        #: there was a key at some time, so that columns to be hashed may still arrive
        self.keyed = False
        self.facts = telemetry.ConnectionFacts()
        #: of the statement that was sent last, outside a pipeline
        self.span = telemetry.NO_SPAN

    @property
    def restricts(self) -> bool:
        """Whether it matters where rows come from: the policy closes, masks, filters or caps something."""
        profile, compiled = self.profile, self.compiled
        if profile is None or compiled is None:
            return True
        return compiled.policy.restricts_data or profile.max_rows > 0

    # The policy

    def attach(self, attachment: Attachment) -> None:
        """From here on statements are judged."""
        self.attachment = attachment
        self.observe = attachment.observe
        self.on_decision = attachment.on_decision
        self.follow()
        self.fixed = type(attachment.source) is StaticPolicy

    def follow(self) -> None:
        """Take the policy that is in force now; a change empties the plans and renews the walls.

        Raises:
            PolicyUnavailable: it cannot be read.
        """
        attachment = self.attachment
        if attachment is None:
            raise PolicyUnavailable(refusal_message(None, "no policy is attached to this connection"))
        try:
            profile, version = attachment.source.current()
        except Exception as ex:
            logger.exception("the policy cannot be read; statements are refused")
            name = self.policy_name
            reason = f"the policy cannot be read ({type(ex).__name__})"
            raise PolicyUnavailable(refusal_message(name, reason)) from None
        if profile is not self.profile or version != self.version:
            self._adopt(profile, version)

    def _adopt(self, profile: PolicyProfile, version: str) -> None:
        assert self.attachment is not None
        settings = {**profile.guarddb.settings, **self.attachment.settings}
        self.compiled = plans.compiled(profile, version, settings)
        self.profile, self.version, self.policy_name = profile, version, profile.name
        if (variable := profile.guarddb.hash_key_env) is not None:
            key = os.environ.get(variable)
            if not key:
                self.keyed_hash = None
                self.profile = None  # asked again for the next statement: the key may be there by then
                reason = f"the environment variable {variable}, which holds the key of its hashes, is not set"
                raise PolicyUnavailable(refusal_message(profile.name, reason))
            self.keyed = True
            if self.keyed_hash is None:
                self.keyed_hash = KeyedHash(key.encode())
            else:
                # In place: a cursor that runs the same statement again keeps its loaders.
                self.keyed_hash.take(key.encode())
        else:
            self.keyed_hash = None
        limits = BudgetLimits(
            profile.budget_queries_per_hour, profile.budget_queries_per_day, profile.egress_bytes_per_day
        )
        self.counts = bool(limits.queries_per_hour or limits.queries_per_day)
        self.egress = bool(limits.egress_bytes_per_day) and not self.observe
        # One agent has one budget in each policy, whatever version of it is in force.
        owner = getattr(profile, "id", None) or profile.name
        store = self.attachment.store or open_store()
        self.budget = budget = Budget(store, _budget_key(owner, self.attachment.agent), limits)
        self._spend_query, self._spend_bytes = budget.charge_query, budget.charge_bytes
        walls = _walls(profile, settings) if not self.observe else {}
        # What an earlier version of the policy set and this one does not goes back to the session's own
        # value.
        self.walls = {**dict.fromkeys(self.walls), **walls}
        self.walls_due = self.attention = True
        self.renew()

    def renew(self) -> None:
        """Policy, catalog, search path or encoding changed: other plans hold."""
        self.encoding = self.pgconn._encoding
        self.plans = {}
        if self.compiled is None or self.catalog is None:
            self.context = None
            return
        catalog = self.catalog
        self.context = (
            self.compiled.serial,
            self.observe,
            self.database,
            catalog.version,
            catalog.search_path,
            catalog.temp_schema,
            self.encoding,
        )
        try:
            self.origins = {} if self.observe else plans.masked_origins(self.compiled.policy, catalog)
            self.masked_tables = frozenset(table for table, _ in self.origins)
        except Exception:
            logger.exception("the masked columns could not be listed; statements are refused")
            self.context = None

    # Judging

    def judge(self, query: bytes) -> Judged:
        """What to do with a statement of the agent's.

        Raises:
            PolicyViolation: it is refused.
        """
        judged = self.plans.get(query)
        if judged is None:
            judged = self._look_up(query)
        self.last = judged
        if judged.blocked or self.on_decision is not None:
            self.report(judged)
        return judged

    def peek(self, query: bytes) -> Judged:
        """The same, told to nobody yet."""
        return self.plans.get(query) or self._look_up(query)

    def _look_up(self, query: bytes) -> Judged:
        if not isinstance(query, bytes):
            # What psycopg's conversion let through; it would fail a moment later, when it is sent.
            raise TypeError(f"expected bytes, {type(query).__name__} found")
        if self.attachment is None or self.profile is None:
            self.follow()
        context = self.context
        if context is None:
            return self._judged(query, plans.refusal("internal_error", "the catalog could not be read"), "")
        judged = SHARED.get(query, context)
        if judged is None:
            judged = self._decide(query)
            if judged.uses_session or judged.blocked:
                # A refusal may be about a name that is not known yet, and need not be fast.
                return judged
            if not self.dirty:  # a catalog that is not committed is this transaction's alone
                SHARED.put(query, context, judged)
        if len(self.plans) >= plans.CONNECTION_PLANS:
            self.plans = {}
        self.plans[query] = judged
        return judged

    def _decide(self, query: bytes) -> Judged:
        assert self.compiled is not None
        text = plans.decode(query, self.encoding)
        if text is None:
            reason = f"the text is not valid in the connection's encoding, {self.encoding}"
            return self._judged(query, plans.refusal("parse_error", reason), "")
        plan = plans.ask(text, self.compiled.policy, self.catalog, self.names.snapshot)
        if plan.uses_session and not plan.decision.blocked:
            plan = self._by_names_of_today(text, plan)
        return self._judged(query, plan, text)

    def _judged(self, query: bytes, plan: Plan, text: str) -> Judged:
        decision = plan.decision
        session = plan.uses_session
        if decision.blocked and decision.rule == "empty":
            # Pools and ORMs ping with it, and nothing in it can do anything (spec 2).
            plan = Plan(Decision("allow", "ok", "the text holds no statement"))
            return Judged(plan, query, query, text, empty=True)
        effects = any(plans.has_effects(statement) for statement in plan.statements)
        if self.observe:
            return Judged(plan, query, query, text, effects=effects, uses_session=session)
        if decision.blocked:
            return Judged(plan, query, b"", text, blocked=True, uses_session=session)
        sent = query
        if plan.sql != text:
            try:
                sent = plan.sql.encode(self.encoding)
            except UnicodeError:
                sent = b""
            if not sent:
                reason = "the rewritten text cannot be sent in the connection's encoding"
                return Judged(plans.refusal("internal_error", reason), query, b"", text, blocked=True)
        inspect = (
            self.egress
            or bool(self.origins)
            or self.keyed
            or any(s.row_cap is not None or s.hidden_returning or s.keyed_hashes for s in plan.statements)
        )
        return Judged(
            plan,
            query,
            sent,
            text,
            plan.statements,
            inspect=inspect,
            effects=effects,
            sensitive=any(statement.sensitive for statement in plan.statements),
            uses_session=session,
        )

    def _by_names_of_today(self, text: str, plan: Plan) -> Plan:
        """EXECUTE and FETCH hold only while the remembered text would be sent as it was."""
        assert self.compiled is not None
        for statement in plan.statements:
            verb, name = statement.session_verb, statement.session_name
            if verb not in ("execute", "fetch", "move") or name is None:
                continue
            found = (self.names.prepared if verb == "execute" else self.names.portals).get(name)
            if found is None or found.context == self.context:
                continue
            refused = self.rejudge(verb, name, found)
            if refused is not None:
                return refused
            plan = plans.ask(text, self.compiled.policy, self.catalog, self.names.snapshot)
        return plan

    def rejudge(self, verb: str, name: str, found: Remembered) -> Plan | None:
        """Judge what stands behind a name by the policy and catalog of now; the refusal, or None."""
        again = self._decide(found.judged.original)
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
        fresh = replace(found, judged=again, statement=statement, context=self.context)
        self.names.replace(verb, name, fresh)
        return None

    def report(self, judged: Judged) -> None:
        """Tell who watches, and raise when it is refused."""
        decision = judged.plan.decision
        if self.on_decision is not None and not judged.empty:
            try:
                self.on_decision(decision, judged.text)
            except Exception:
                # The callback watches; what it does wrong must change nothing.
                logger.exception("the on_decision callback failed")
        if judged.blocked:
            error = self.violation(decision)
            span = telemetry.start(self.facts, judged.plan, self.policy_name, self.version, judged.text)
            span.end(error=error)
            raise error

    def violation(self, decision: Decision) -> PolicyViolation:
        """The error for a decision that blocks."""
        kind = PolicyUnavailable if decision.rule == "policy_unavailable" else PolicyViolation
        return violation(kind, self.policy_name, decision)

    def deny(self, rule: Rule, reason: str, hint: str | None = None) -> PolicyViolation:
        """The error for something that is refused outside of a statement."""
        return self.violation(Decision("block", rule, reason, hint))

    # Around a statement

    def charge(self, judged: Judged) -> None:
        """Count a statement against the budgets.

        Raises:
            BudgetExceeded: it would be one too many.
            PolicyUnavailable: the store does not answer.
        """
        if judged.empty:
            return
        try:
            self._spend_query()
        except Exception as ex:
            error = self._no_budget(ex, judged.plan.decision)
        else:
            return
        if error is not None:
            plan = judged.plan
            telemetry.start(self.facts, plan, self.policy_name, self.version, judged.text).end(error=error)
            raise error

    def charge_bytes(self, amount: int) -> None:
        """Count bytes that are about to be handed out. Raises as `charge` does."""
        try:
            self._spend_bytes(amount)
        except Exception as ex:
            error = self._no_budget(ex, None)
        else:
            return
        if error is not None:
            raise error

    def _no_budget(
        self, why: Exception, decision: Decision | None
    ) -> BudgetExceeded | PolicyUnavailable | None:
        if not isinstance(why, Overrun):
            logger.error("the budget store does not answer", exc_info=why)
        if self.observe:
            return None
        if isinstance(why, Overrun):
            message = refusal_message(self.policy_name, why.reason)
            return BudgetExceeded(message, decision, rule=RULES[why.counter], resets_at=why.resets_at)
        reason = f"the budget store does not answer ({type(why).__name__})"
        return PolicyUnavailable(refusal_message(self.policy_name, reason))

    def note_sent(self, judged: Judged) -> None:
        """A statement with effects goes to the server. Whether it succeeds does not matter: look again."""
        failed = self.pgconn.transaction_status == INERROR
        self.names.note_sent(judged, self.context, failed=failed)
        for statement in judged.plan.statements:
            if statement.changes_catalog or not statement.kinds.isdisjoint(plans._UNSETTLING):
                self.stale = self.dirty = True
                if "set" in statement.kinds or "other" in statement.kinds:
                    self.walls_due = True
            if statement.transaction == "begin":
                self.began = True
            elif statement.transaction != "set":
                self.began = False
        self.attention = True

    def fail(self, *, pipeline: bool) -> None:
        """The server refused something."""
        self.names.fail(pipeline=pipeline)


def _budget_key(owner: str, agent: str | None) -> str:
    """Who a budget is counted for; no two pairs share one."""
    return f"{quote(owner, safe='')}/{quote(agent or '', safe='')}"


def _walls(profile: PolicyProfile, settings: Mapping[str, str]) -> dict[str, str | None]:
    walls: dict[str, str | None] = {
        # The engine reads strings as PostgreSQL does with this on (the default); a role or database may say
        # otherwise.
        "standard_conforming_strings": "on",
    }
    if profile.access_mode == "read_only":
        walls["default_transaction_read_only"] = "on"
    if profile.statement_timeout_ms:
        walls["statement_timeout"] = str(profile.statement_timeout_ms)
    # Only names with a dot are settings of the application; PostgreSQL's own are not the caller's to give.
    walls.update({name: value for name, value in settings.items() if "." in name})
    return walls
