"""When the server is asked whether what is known about a session still holds: what happened on the connection, and how long ago.

Plain computation; what asks is in `watch.py`.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from guarddb.driver.asking import Row
from guarddb.driver.plans import UNSETTLING

if TYPE_CHECKING:
    from guarddb.decision.plan import StatementPlan

#: Seconds between two looks at the session, at least; a slow server is asked less often, see `_COST_SHARE`.
LOOK_EVERY = 0.001
#: A look may take one part in this many of the time, but it is never put off for longer than this many seconds.
_COST_SHARE = 60
LOOK_AT_LEAST_EVERY = 0.05
#: The same in a pipeline that has answers to come.
PIPELINE_AT_LEAST_EVERY = 1.0
#: Seconds between two fingerprints while others write all the time, at the most.
FINGERPRINT_AT_LEAST_EVERY = 0.05
#: The same where the database announces its changes: only what no event trigger fires for is left to find.
ANNOUNCED_FINGERPRINT_EVERY = 1.0
#: After this many seconds without a look the next one asks for everything.
_FORGET_AFTER = 0.1
#: Before any perf_counter(), which may begin with the machine.
_NEVER = float("-inf")
#: Statements after which a session may not hear what it listened for.
_ENDS_LISTENING = frozenset({"UNLISTEN", "DISCARD"})
_NO_SNAPSHOT_OPERATIONS = frozenset({"SET", "RESET", "SHOW", "LOCK", "LISTEN", "UNLISTEN", "NOTIFY"})


class Freshness:
    """May the server be asked now, and must it be? What happens on the connection is told by the verbs."""

    __slots__ = (
        "_announced_at",
        "_cost",
        "_fingerprint_at",
        "_looked_at",
        "_seen",
        "_told_at",
        "_unchanged",
        "announces",
        "behind",
        "beside",
        "check_at",
        "due",
        "fixed",
        "fixed_at_first",
        "hears",
        "isolation_due",
        "listen_due",
        "overdue_at",
        "rest_at",
        "settings_due",
        "stale",
        "streamed",
        "uncommitted",
        "untouched",
        "verified",
    )

    def __init__(self) -> None:
        #: something wants to be looked at before the next statement
        self.due = True
        #: perf_counter() from which on the catalog is looked at again
        self.check_at = 0.0
        #: perf_counter() from which on it is too long since a look to take the answer to a statement as it is, see `waited.py`
        self.overdue_at = 0.0
        #: another connection of the process is in a transaction that defines something
        self.beside = False
        #: the catalog must be looked at before anything is judged
        self.stale = True
        #: in a transaction that changed the catalog, or may have
        self.uncommitted = False
        #: in a transaction that has no snapshot yet
        self.untouched = False
        #: the transaction sees all through one snapshot, or may; what a transaction is when nobody says; and that has to be asked
        self.fixed = False
        self.fixed_at_first = False
        self.isolation_due = True
        #: the last look was through the snapshot of a transaction
        self.behind = False
        #: texts whose names were found to mean the same since the last look, see `fixed_snapshot.py`
        self.verified: set[bytes] = set()
        #: the settings that guarddb holds must be set (again)
        self.settings_due = False
        #: a stream() has been, and no pipeline since
        self.streamed = False
        #: the database has the table of `announced.py`; this session hears its notifications; and it has to LISTEN (again)
        self.announces = False
        self.hears = False
        self.listen_due = False
        #: perf_counter() from which on a catalog that was read in parts is read again
        self.rest_at = 0.0
        # the last look: when it was, what was seen, when the fingerprint is asked for again, and how often it was the same
        self._looked_at = _NEVER
        self._seen: Row | None = None
        self._fingerprint_at = 0.0
        self._unchanged = 0
        #: seconds that a look takes, by the best of the recent ones
        self._cost = 0.0
        #: perf_counter() until which what the database announces is enough
        self._announced_at = 0.0
        #: when a notification came last
        self._told_at = 0.0

    def sent(self, statement: StatementPlan) -> None:
        """A statement with effects goes to the server. Whether it succeeds does not matter: look again."""
        facts = statement.facts
        if statement.handling.changes_catalog or not facts.kinds.isdisjoint(UNSETTLING):
            self.stale = self.uncommitted = True
            if "set" in facts.kinds or "other" in facts.kinds:
                self.settings_due = True
        if statement.handling.changes_settings:
            self.settings_due = True
        if facts.transaction is not None or "set" in facts.kinds or statement.handling.changes_settings:
            # (What a statement says of the isolation level is not read: it is asked for, and until then the worst is supposed.)
            self.isolation_due = self.fixed = True
            self.verified.clear()
        if facts.transaction == "begin":
            self.untouched = True
        elif facts.transaction is None and facts.operation.partition(" ")[0] not in _NO_SNAPSHOT_OPERATIONS:
            self.untouched = False
        if self.hears and facts.operation.partition(" ")[0] in _ENDS_LISTENING:
            self.listen_due = True
        self.due = True

    def told(self) -> None:
        """A notification, or a neighbour, says that the catalog has changed."""
        self._told_at = perf_counter()  # (first: another thread's `looked` sees one or the other)
        self.check_at = self.overdue_at = 0.0

    def has_table(self, *, announces: bool) -> None:
        """Another catalog is in force, which has the table of `announced.py` or not."""
        if announces and not self.announces:
            self.listen_due = self.due = True
        self.announces = announces
        self.hears = self.hears and announces

    def began(self, command: bytes) -> None:
        """The driver began a transaction."""
        self.untouched = self.due = True
        self.fixed = b"COMMITTED" not in command if b"ISOLATION" in command else self.fixed_at_first
        self.verified.clear()

    def isolation_is(self, level: bytes | None, *, idle: bool) -> None:
        """What the server says of the transaction it is in, or (`idle`) of any that it begins."""
        self.fixed = level not in (b"read committed", b"read uncommitted")
        self.isolation_due = False
        self.behind = self.fixed and not idle
        if idle:
            self.fixed_at_first = self.fixed

    def ended(self) -> None:
        """There is no transaction."""
        self.untouched = False
        self.verified.clear()
        if self.behind:
            self.isolation_due, self._fingerprint_at = (
                True,
                0.0,
            )  # what was seen says nothing of the newest catalog

    def streams(self) -> None:
        """A stream() was sent: libpq keeps its mode of handing out rows for the first command of the next pipeline."""
        self.streamed = self.due = True

    def settings_changed(self) -> None:
        """Other settings are to be held from now on."""
        self.settings_due = self.due = True

    def failed(self) -> None:
        """A question was interrupted or refused: nothing is known for certain."""
        self.stale = self.due = True
        self._seen = None

    def contradicted(self) -> None:
        """The server found other names than the catalog has: the next statement is not judged before a look."""
        self.due = True
        self.check_at = self.overdue_at = 0.0
        self._looked_at = _NEVER
        self._seen = None

    def quiet(self) -> None:
        """The server is never asked."""
        self.stale = self.due = self.settings_due = False
        self.check_at = self.overdue_at = float("inf")

    def refreshed(self, *, idle: bool, more: bool) -> None:
        """All that was due has been seen to. In a transaction what it changed itself is looked at again."""
        if idle:
            self.uncommitted = False
        self.stale = self.uncommitted
        self.due = (
            self.stale or self.settings_due or self.listen_due or self.isolation_due or self.behind or more
        )

    # A look: what it saw decides what else is asked. What it saw is noted last, when all that follows from it is done.

    def others_looked(self, when: float) -> bool:
        """Whether another connection's look, which found the same catalog, will do for this one; `when`: when that was."""
        now = perf_counter()
        if when < self._told_at or now - when > LOOK_EVERY or now - self._looked_at > LOOK_AT_LEAST_EVERY:
            return False
        self.check_at = when + self._wait()
        self.verified.clear()
        return True

    def says_unchanged(self, seen: Row, started: float) -> bool | None:
        """Whether what a look saw is enough to know that the catalog is the same. None: it is, but what was seen is not noted."""
        now = perf_counter()
        if now - self._looked_at > _FORGET_AFTER:
            self._unchanged = 0
        before = self._seen
        cost = now - started
        self._cost = min(cost, self._cost * 1.1 or cost)
        if self.stale or before is None:
            return False
        if seen[:2] == before[:2]:
            return True
        if seen[2] is not None and seen[1:] == before[1:] and started < self._announced_at:
            return True
        announced_something = seen[2] is not None and before[2] is not None and seen[2] != before[2]
        quiet = not announced_something and self._told_at < self._looked_at
        if seen[1] == before[1] and started < self._fingerprint_at and quiet:
            # Others commit all the time; whether it was DDL is asked less and less often while it was not.
            return None
        return False

    def overdue(self) -> bool:
        """Whether it is too long since a look, although looking holds up a pipeline."""
        return perf_counter() >= self.overdue_at

    def looked(self, seen: Row | None, started: float, *, same_catalog: bool = True) -> None:
        """A look is at its end, and what followed from it too."""
        self.verified.clear()
        self._looked_at = started
        if seen is not None:
            before = self._seen
            if seen[2] is None and before is not None and same_catalog:
                # Not asked in a transaction: what was announced before is all that led to this catalog.
                seen = (*seen[:2], before[2])
            self._seen = seen
        self.check_at = perf_counter() + self._wait()
        self.overdue_at = started + max(
            LOOK_AT_LEAST_EVERY, min(PIPELINE_AT_LEAST_EVERY, self._cost * _COST_SHARE)
        )
        if self._told_at >= started:
            self.check_at = self.overdue_at = 0.0  # of what was told meanwhile nothing may have been seen
        elif self.beside:
            self.overdue_at = 0.0  # as long as that goes on, any statement may wait for it

    def _wait(self) -> float:
        return min(LOOK_AT_LEAST_EVERY, max(LOOK_EVERY, self._cost * _COST_SHARE))

    def fingerprint_is(self, *, the_same: bool, started: float) -> None:
        now = perf_counter()
        self._announced_at = started + ANNOUNCED_FINGERPRINT_EVERY
        if the_same:
            self._unchanged += 1
            wait = min((now - started) * 2.0 ** min(self._unchanged, 20), FINGERPRINT_AT_LEAST_EVERY)
            self._fingerprint_at = now + wait
        else:
            self._unchanged = 0
            self._fingerprint_at = 0.0
