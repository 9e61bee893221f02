"""Plans by exact text: the engine is asked once for each text, policy, catalog and search path.

The hot path of a statement is one lookup in the connection's own dict of plans. Behind it is a bounded cache
for the whole process, so that a pool's connections and short-lived ones share what was decided.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache

from guarddb.decision import decide as engine
from guarddb.decision.masks import rule as masking
from guarddb.decision.plan import Decision, Plan, StatementPlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from guarddb.decision.on_catalog import CompiledPolicy
    from guarddb.decision.plan import SessionNames
    from guarddb.decision.wall_in_force import Wall
    from guarddb.policy.profile import PolicyProfile
    from guarddb.sql.catalog import Catalog

logger = logging.getLogger("guarddb")

#: Bytes of plans that are kept in the process, about; plans that one connection keeps at hand, and of how long a text.
PLANS_BYTES = 16 * 1024 * 1024
CONNECTION_PLANS = 512
LONG_TEXT = 8_192

#: Kinds after which the session's settings, search path or names may be others (SET; CALL and DISCARD are
#: `other`).
UNSETTLING = frozenset({"set", "other", "ddl"})
#: Kinds of statements after which the server does nothing of its own.
READING = frozenset({"select", "show"})


@dataclass(slots=True, eq=False)
class JudgedText:
    """A text, the engine's answer, and what the driver asks of it on every run, worked out once.

    Attributes:
        original: the agent's bytes; `sent` are those that go to the server (the same object when nothing
        changed). statements: how each result is handled; empty where results pass as they are (observing,
        empty text). inspect: results need a look: a cap, a hidden RETURNING, hashes, or a policy with masks
        or egress budget. effects: changes what the session knows: catalog, names, transaction or settings.
    """

    plan: Plan
    original: bytes
    sent: bytes
    text: str
    statements: tuple[StatementPlan, ...] = ()
    blocked: bool = False
    empty: bool = False
    inspect: bool = False
    effects: bool = False
    sensitive: bool = False
    #: does something else than to read
    writes: bool = False
    #: by what it reads, or in what it names: in autocommit it is committed only if it has met what it was judged by
    takes: bool = False
    #: it is sent in a way that can be taken back, for one of the reasons that follow
    surrounded: bool = False
    affected_cap: int | None = None
    waits: bool = False
    countable: bool = False
    checks_rows: bool = False
    #: in autocommit it runs in a transaction that is rolled back
    undone: bool = False
    #: it is judged once more by what it did: the rows it wrote, the text it returns
    rechecked: bool = False
    #: it would commit, and rolls back instead
    ends: bool = False
    #: it is surrounded, takes, or copies
    apart: bool = False
    #: part of no cache: the answer depends on the session's own names
    uses_session: bool = False
    #: it is for copy() and no other method
    copies: bool = False

    @property
    def only_rechecked(self) -> bool:
        """Whether there is no other reason for taking it back: stream() and COPY, which hand out as they go, do without."""
        others = self.affected_cap is not None or self.waits or self.checks_rows or self.undone or self.ends
        return self.rechecked and not others


def has_effects(statement: StatementPlan) -> bool:
    """Whether the session must take note of a statement that was sent."""
    return (
        statement.handling.changes_catalog
        or statement.handling.changes_settings
        or statement.facts.transaction is not None
        or statement.facts.session_verb is not None
        or not statement.facts.kinds.isdisjoint(UNSETTLING)
    )


def wants_a_look(statement: StatementPlan) -> bool:
    """Whether the result of a statement is not simply shown as it comes."""
    handling = statement.handling
    return handling.row_cap is not None or handling.hidden_returning or bool(handling.keyed_hashes)


_WRITES = frozenset({"insert", "update", "delete"})
#: Definitions that take rows of what they name.
FILLS = frozenset({"CREATE TABLE AS", "SELECT INTO", "CREATE MATERIALIZED VIEW"})


def takes(statement: StatementPlan) -> bool:
    """Whether what a statement finds behind names is what it leaves in the database, or where."""
    facts = statement.facts
    if facts.session_verb in _ABOUT_NAMES:
        return False
    return facts.operation in FILLS if facts.kind == "ddl" else not facts.kinds.isdisjoint(_WRITES)


#: Statements that only give a name to something, or take it away.
_ABOUT_NAMES = frozenset({"prepare", "declare", "deallocate", "close"})


def carried_out(statements: tuple[StatementPlan, ...]) -> tuple[StatementPlan, ...]:
    """Those that do now what their handling is about: a PREPARE does it when it is EXECUTEd."""
    return tuple(each for each in statements if each.facts.session_verb not in _ABOUT_NAMES)


def is_undone(statement: StatementPlan) -> bool:
    """Whether, in `write_mode: rollback`, it needs a transaction around it in autocommit: it may do something that lasts."""
    facts = statement.facts
    return (facts.session_verb is None and facts.kind not in ("set", "show", "transaction")) or (
        facts.session_verb == "execute"
    )


def _weight(judged: JudgedText) -> int:
    """About the bytes that a plan takes: the text as the agent wrote it, as bytes and as text, and as it is sent."""
    return 2_048 + 4 * len(judged.original) + len(judged.sent)


class PlanCache:
    """A bounded, thread-safe cache of `JudgedText` by (text, context)."""

    def __init__(self, size: int = PLANS_BYTES) -> None:
        self._plans: LRUCache[tuple[bytes, object], JudgedText] = LRUCache(size, getsizeof=_weight)
        self._lock = threading.Lock()

    def get(self, text: bytes, context: object) -> JudgedText | None:
        with self._lock:
            return self._plans.get((text, context))

    def put(self, text: bytes, context: object, judged: JudgedText) -> None:
        with self._lock, suppress(ValueError):  # one that is too large for the whole cache
            self._plans[text, context] = judged


SHARED = PlanCache()


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """A compiled policy and a number that no other one in this process ever has: plans are filed under it."""

    policy: CompiledPolicy
    serial: int


_serials = count(1)
_compiled: LRUCache[tuple[str, str, tuple[tuple[str, str], ...]], Compiled] = LRUCache(128)
_compiled_lock = threading.Lock()


def compiled(profile: PolicyProfile, version: str, settings: Mapping[str, str]) -> Compiled:
    """The compiled policy, shared by every connection with the same profile, version and settings.

    Filed under the profile's content: two profiles that only share a name and a version must never share
    plans.
    """
    key = (profile.model_dump_json(), version, tuple(sorted(settings.items())))
    with _compiled_lock:
        found = _compiled.get(key)
        if found is None:
            policy = engine.compile_policy(profile, settings, version)
            found = _compiled[key] = Compiled(policy, next(_serials))
        return found


def decode(query: bytes, encoding: str) -> str | None:
    """The text the server will read, or None when these bytes are not one.

    The bytes must come back from the text unchanged: a codec that maps two byte sequences to one character
    would let the server read another text than the engine.
    """
    try:
        text = query.decode(encoding)
        return text if encoding == "utf-8" or text.encode(encoding) == query else None
    except (UnicodeError, LookupError):
        return None


def ask(
    text: str, policy: CompiledPolicy, catalog: Catalog | None, names: SessionNames, wall: Wall | None
) -> Plan:
    """The engine's answer; an exception in it is a refusal, never a permit."""
    try:
        if wall is not None:
            return engine.decide(text, policy, catalog, names, wall)
        return engine.decide(text, policy, catalog, names)
    except TimeoutError:  # a time limit of the program's own: the engine waits for nothing
        raise
    except Exception:
        logger.exception("the engine failed on a statement; it was refused")
        return refusal("internal_error", "an internal error of guarddb; it was logged")


def refusal(rule: Any, reason: str, hint: str | None = None) -> Plan:
    """A plan that refuses."""
    return Plan(Decision("block", rule, reason, hint))


def masked_origins(policy: CompiledPolicy, catalog: Catalog | None) -> Mapping[tuple[int, int], str]:
    """Which (table OID, attribute number) carry a mask: the second net, independent of any analysis."""
    if catalog is None or not policy.profile.masking_rules:
        return {}
    return masking.origin_masks(policy, catalog)
