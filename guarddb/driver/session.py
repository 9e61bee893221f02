"""What guarddb knows about one connection. Until a policy is attached it denies everything.

Everything here is plain computation. What has to ask the server (reading the catalog, holding the settings) is in `watch.py`, as
generators that sync and async connections both drive; how a text is judged is in `judging.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, cast

from msgspec import structs

from guarddb import telemetry
from guarddb.decision.plan import Decision
from guarddb.driver import operator_log, plans
from guarddb.driver.filter_trials import known as filters_known
from guarddb.driver.freshness import Freshness
from guarddb.driver.in_force import policy_in_force
from guarddb.driver.names import Names
from guarddb.driver.neighbours import Neighbours
from guarddb.driver.recording import RecordedSpan, Recorder, takes_records
from guarddb.driver.scoring import Scoring
from guarddb.errors import BudgetExceeded, PolicyUnavailable, PolicyViolation, refusal_message, violation
from guarddb.policy.settings import callers_settings
from guarddb.runtime.keyed_hash import KeyedHash
from guarddb.runtime.policies import StaticPolicy
from guarddb.runtime.policy_source import PolicySourceError
from guarddb.runtime.queued_log import queued
from guarddb.sql.names import quote

if TYPE_CHECKING:
    from weakref import finalize

    from psycopg.pq.abc import PGconn, PGresult

    from guarddb.decision.plan import Plan
    from guarddb.decision.wall_in_force import Wall
    from guarddb.driver.arguments import Attachment, OnDecision
    from guarddb.driver.in_force import PolicyInForce
    from guarddb.driver.names import Remembered
    from guarddb.driver.plans import JudgedText
    from guarddb.driver.row_limit import RowLimit
    from guarddb.policy.profile import PolicyProfile
    from guarddb.sql.catalog import Catalog
    from guarddb.vocabulary import Rule

logger = logging.getLogger("guarddb")


class Session:
    """The guard's side of one connection."""

    __slots__ = (
        "__weakref__",
        "allowance",
        "attachment",
        "began",
        "between_users",
        "catalog",
        "connection_facts",
        "context",
        "copy_ends",
        "database",
        "deferred",
        "discard_branch",
        "encoding",
        "filters_due",
        "fixed",
        "freshness",
        "guarded_gen",
        "held",
        "held_span",
        "in_force",
        "in_many",
        "keyed_hash",
        "last",
        "last_message",
        "limit",
        "lost_message",
        "masked_tables",
        "met_sensitive",
        "names",
        "neighbours",
        "on_decision",
        "origins",
        "outstanding",
        "owed",
        "pgconn",
        "plans",
        "pool",
        "ran_short",
        "recorder",
        "scoring",
        "sensitive",
        "sensitive_now",
        "settling",
        "span",
        "waited",
        "wall",
        "wall_due",
        "wall_roles",
        "wrote",
    )

    def __init__(self, pgconn: PGconn) -> None:
        self.pgconn = pgconn
        self.attachment: Attachment | None = None
        #: what a guarded cursor is about to hand to the connection's wait(), see `adoption.py`
        self.guarded_gen: object = None
        #: None denies
        self.in_force: PolicyInForce | None = None
        #: the policy cannot change under this connection, so it need not be asked for
        self.fixed = False
        #: throws the connection's branch away, once; None without one
        self.discard_branch: finalize[Any, Any] | None = None
        self.on_decision: OnDecision | None = None
        #: settings that the session must have; None is the session's own value, after a policy that asked for another
        self.held: dict[str, str | None] = {}
        #: what the settings that a filter or a hash may follow were when the policy was attached
        self.began: dict[str, str] = {}
        #: made for the first policy with a key, and kept: columns that were hashed then may still arrive
        self.keyed_hash: KeyedHash | None = None

        #: psycopg_pool's pool that the connection is of, and what other pools say, see `resetting.py`
        self.pool: tuple[object] | None = None
        self.between_users = False

        #: writes the decision log, or None
        self.recorder: Recorder | None = None
        #: the action policy, or None
        self.scoring: Scoring | None = None

        self.names = Names()
        #: plans by the agent's bytes; emptied whenever `context` changes
        self.plans: dict[bytes, JudgedText] = {}
        #: what plans hold for: policy, catalog, search path and encoding; None: nothing can be judged
        self.context: tuple[object, ...] | None = None
        self.encoding = "utf-8"
        self.last: JudgedText | None = None
        #: where the store is told later: bytes handed out that it does not know of yet, and what it had left
        self.owed = 0
        self.allowance: int | None = None
        #: something did not fit, so it is asked again with the next statement (a day may have begun anew)
        self.ran_short = False

        self.freshness = Freshness()
        self.catalog: Catalog | None = None
        #: the views of the wall that the profile speaks of, when it is up; and it has to be looked at (again)
        self.wall: Wall | None = None
        self.wall_due = False
        self.wall_roles = ""
        #: the row filters have to be tried on this catalog
        self.filters_due = False
        self.database: tuple[object, ...] = ()
        #: the connections of the process to the same database
        self.neighbours = Neighbours()
        #: the second net: (table OID, attribute number) of every masked column, and the tables alone
        self.origins: Mapping[tuple[int, int], str] = {}
        self.masked_tables: frozenset[int] = frozenset()

        #: how many rows the statement that runs now may touch, where that is counted
        self.limit: RowLimit | None = None
        #: what took so long that it may have waited for a definition: a cursor and its statement, see `waited.py`
        self.waited: tuple[Any, JudgedText] | tuple[()] | None = None
        #: in a pipeline: answers that came late, put aside with their cursors; they are being looked at;
        #: and texts whose effect is not committed yet. See `pipelines.py`.
        self.deferred: list[tuple[Any, list[PGresult], JudgedText, Any, Catalog | None]] = []
        self.settling = False
        self.outstanding: dict[JudgedText, Catalog | None] = {}
        #: within an executemany() that is taken back as a whole
        self.in_many: Literal["", "first", "again"] = ""
        #: a COPY is about to begin whose end will be told
        self.copy_ends = False
        #: the one span of a statement that waits for a person, however often it runs
        self.held_span: telemetry.HeldSpan | None = None

        #: from a statement over masked or filtered rows to its transaction's end: row data is cut out of the server's
        #: messages
        self.sensitive = False
        #: the statement that was sent last is one of them
        self.sensitive_now = False
        #: that was so for some statement of this connection, and what the last exception said
        self.met_sensitive = False
        #: from a write or definition to its transaction's end: what the server then does by itself may be about other tables
        self.wrote = False
        self.last_message = ""
        #: a text and its error, which libpq has forgotten with the end of a pipeline of guarddb's own
        self.lost_message: tuple[JudgedText, bytes] | None = None

        self.connection_facts = telemetry.ConnectionFacts()
        #: of the statement that was sent last, outside a pipeline
        self.span = telemetry.NO_SPAN

    @property
    def profile(self) -> PolicyProfile | None:
        """The profile in force."""
        return self.in_force.profile if self.in_force is not None else None

    @property
    def policy_name(self) -> str | None:
        """Its name."""
        return self.in_force.name if self.in_force is not None else None

    @property
    def observe(self) -> bool:
        """Whether the guard only watches."""
        return self.in_force is not None and self.in_force.observe

    @property
    def kept(self) -> dict[str, str | None]:
        """The settings that have to be set again when something may have changed them: those that are held, and those that a
        filter or a hash of this catalog follows, as the session began."""
        policy = self.in_force
        if policy is None or not policy.restricts or policy.observe or self.catalog is None:
            return self.held
        followed = policy.compiled.policy.governance(self.catalog).settings
        return {**{name: self.began.get(name) for name in followed if "." not in name}, **self.held}

    @property
    def rolls_back(self) -> bool:
        """Whether transactions are rolled back where they would commit."""
        return self.in_force is not None and self.in_force.rolls_back

    @property
    def restricts(self) -> bool:
        """Whether it matters where rows come from."""
        return self.in_force is None or self.in_force.restricts

    # The policy

    def attach(self, attachment: Attachment) -> None:
        """From here on statements are judged."""
        self.attachment = attachment
        if attachment.on_decision is not None and takes_records(attachment.on_decision):
            sink: Any = attachment.on_decision
            self.recorder = Recorder(
                self, queued(sink) if attachment.asynchronous else sink, attachment.agent
            )
        else:
            self.on_decision = attachment.on_decision
        if attachment.scored is not None:
            self.scoring = Scoring(attachment.scored, attachment.agent)
            self.scoring.follow(self)
        self.follow()
        self.fixed = type(attachment.source) is StaticPolicy

    def follow(self) -> None:
        """Put the policy of now in force; a change empties the plans and renews the settings that are held.

        Raises:
            PolicyUnavailable: it cannot be read, or what it needs is not there. What was in force stays.
        """
        attachment = self.attachment
        if attachment is None:
            raise PolicyUnavailable(refusal_message(None, "no policy is attached to this connection"))
        try:
            profile, version = attachment.source.current()
        except PolicySourceError as ex:  # it says itself what is wrong, and has said so in the log
            raise self.deny("policy_unavailable", str(ex)) from None
        except Exception as ex:
            logger.exception("the policy cannot be read; statements are refused")
            reason = f"the policy cannot be read ({type(ex).__name__})"
            raise self.deny("policy_unavailable", reason) from None
        before = self.in_force
        if before is None or profile is not before.profile or version != before.version:
            self._take(policy_in_force(attachment, profile, version))

    def change_settings(self, values: Mapping[str, object]) -> None:
        """Other values for the settings that row filters read, from the next statement on.

        Raises:
            PolicyError: a name or value will not do; nothing has changed then.
            PolicyUnavailable: no policy is attached.
        """
        attachment = self.attachment
        if attachment is None:
            raise PolicyUnavailable(refusal_message(None, "no policy is attached to this connection"))
        settings = callers_settings(values)
        if settings == attachment.settings:
            return
        attachment = replace(attachment, settings=MappingProxyType(settings))
        if (policy := self.in_force) is not None:
            self._take(policy_in_force(attachment, policy.profile, policy.version))
        self.attachment = attachment

    def _take(self, policy: PolicyInForce) -> None:
        if policy.hash_key is not None:
            if self.keyed_hash is None:
                self.keyed_hash = KeyedHash(policy.hash_key)
            else:
                # In place: a cursor that runs the same statement again keeps its loaders.
                self.keyed_hash.take(policy.hash_key)
        self.in_force = policy
        # What an earlier version of the policy set and this one does not goes back to the session's own value.
        path = self.held.get("search_path") if policy.profile.guarddb.wall is not None else None
        self.held = {**dict.fromkeys(self.held), **policy.held}
        if path is not None:  # (without the wall's schema, see walled.py)
            self.held["search_path"] = path
        self.wall_due = self.wall is not None or policy.profile.guarddb.wall is not None
        self.freshness.settings_changed()
        self.renew()

    def renew(self) -> None:
        """Policy, catalog, search path or encoding changed: other plans hold."""
        self.encoding = self.pgconn._encoding
        self.plans = {}
        policy, catalog = self.in_force, self.catalog
        self.context = None
        if policy is not None and policy.forbids_nothing and catalog is None:
            self.context = (policy.compiled.serial, policy.observe, self.database, self.encoding)
        if policy is None or catalog is None:
            return
        try:
            self.origins = {} if policy.observe else plans.masked_origins(policy.compiled.policy, catalog)
            if self.wall is not None:
                # What comes out of the wall's views is masked already.
                self.origins = {o: k for o, k in self.origins.items() if not self._of_the_wall(catalog, o[0])}
            self.masked_tables = frozenset(table for table, _ in self.origins)
            operator_log.unknown_rules(policy.compiled.policy, catalog)
            self.filters_due = not filters_known(self.in_force, self.catalog, self.database)
        except Exception:
            logger.exception("the masked columns could not be listed; statements are refused")
            return
        self.context = (
            policy.compiled.serial,
            policy.observe,
            self.database,
            catalog.version,
            catalog.search_path,
            catalog.temp_schema,
            self.encoding,
            self.wall and self.wall.checksum,
            self.scoring is not None and self.scoring.wants_rows,
        )

    def _of_the_wall(self, catalog: Catalog, oid: int) -> bool:
        relation = catalog.by_oid(oid)
        return relation is not None and self.wall is not None and relation.schema == self.wall.schema

    # Refusals

    def violation(self, decision: Decision) -> PolicyViolation:
        """The error for a decision that blocks."""
        kind = PolicyUnavailable if decision.rule == "policy_unavailable" else PolicyViolation
        return violation(kind, self.policy_name, decision)

    def under_its_policy(self, decision: Decision) -> Decision:
        """A decision made after judging, with the policy that it stands on."""
        policy = self.in_force
        if policy is None or decision.policy_version is not None:
            return decision
        return structs.replace(
            decision, policy_name=policy.name, policy_version=policy.version, policy_id=policy.profile.id
        )

    def deny(self, rule: Rule, reason: str, hint: str | None = None) -> PolicyViolation:
        """The error for something that is refused outside of a statement."""
        return self.violation(self.under_its_policy(Decision("block", rule, reason, hint)))

    def refuse(self, judged: JudgedText, decision: Decision) -> PolicyViolation:
        """The error for a statement that the profile allows and something after it refuses; told to whoever watches."""
        error = self.violation(decision)
        self.tell_refusal(judged, error)
        return error

    def tell_refusal(
        self,
        judged: JudgedText,
        error: PolicyViolation | BudgetExceeded,
        span: telemetry.StatementSpan | None = None,
    ) -> None:
        """A statement that was let pass is refused all the same: log it, tell who watches, and end its span, once.

        `span`: the statement's own, where it is not the one that is open.
        """
        if getattr(error, "_guard_told", False):
            return
        error._guard_told = True  # type: ignore[union-attr]
        if error.decision is not None:
            self.tell(error.decision, judged.text)
            agent = self.attachment.agent if self.attachment is not None else None
            operator_log.refused(
                error.decision, self.policy_name, agent, operator_log.operation_of(judged.plan)
            )
        if span is None:
            span = self.span if self.span.open else self.begin_span(judged)
        span.end(error=error)

    def tell(self, decision: Decision, text: str) -> None:
        """Call on_decision."""
        if self.on_decision is None:
            return
        try:
            cast("Any", self.on_decision)(decision, text)
        except Exception as ex:
            # The callback watches; what it does wrong must change nothing.
            operator_log.once_a_minute("the on_decision callback failed", ex, self.on_decision)

    @property
    def watched(self) -> bool:
        """Whether anybody would take a span."""
        return self.recorder is not None or telemetry.listens()

    def begin_span(self, judged: JudgedText, types: Sequence[int] = ()) -> telemetry.StatementSpan:
        """The span of a statement, for whoever listens. `types`: OIDs of its parameters."""
        span = self.begin_unrecorded_span(judged.plan, judged.text)
        if self.recorder is None or judged.empty:
            return span
        return RecordedSpan(self.recorder, judged, span, types)

    def begin_unrecorded_span(self, plan: Plan, text: str) -> telemetry.StatementSpan:
        """The same without a record in the decision log."""
        policy = self.in_force
        try:
            return telemetry.start(
                self.connection_facts,
                plan,
                policy.name if policy is not None else None,
                policy.version if policy is not None else None,
                text,
                stale=self.attachment is not None and getattr(self.attachment.source, "stale", False),
            )
        except Exception as ex:
            # A span processor or exporter of the application's: what it does wrong must change nothing.
            operator_log.once_a_minute("a span could not be begun", ex)
            return telemetry.NO_SPAN

    def begin_fetch_span(self, portal: Remembered, name: str) -> telemetry.StatementSpan:
        """The span of a named cursor's FETCH, whose text psycopg makes; its decision is that of what it reads."""
        facts = structs.replace(portal.statement.facts, operation="FETCH", returns_rows=True)
        plan = structs.replace(
            portal.judged.plan, statements=(structs.replace(portal.statement, facts=facts),), warnings=()
        )
        return self.begin_unrecorded_span(plan, f"FETCH FROM {quote(name)}")
