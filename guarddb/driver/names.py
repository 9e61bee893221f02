"""What the session has under a name: SQL-level prepared statements and portals, and the plans behind them.

EXECUTE and FETCH show no statement of their own, so they are judged by what was remembered when the name was
given. A name is known from the moment its statement is sent and confirmed when the server has accepted it; an
error forgets whatever is not confirmed. In a pipeline the next statement is judged before the answer to the
last one has come.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from secrets import token_hex
from types import MappingProxyType
from typing import TYPE_CHECKING

from guarddb.decision.plan import NO_NAMES, SessionNames, StatementPlan

if TYPE_CHECKING:
    from guarddb.decision.plan import TransactionVerb
    from guarddb.driver.plans import JudgedText

#: NAMEDATALEN - 1: the bytes of a name that the server keeps.
_NAME_BYTES = 63


def server_name(name: str, encoding: str) -> str:
    """The name that the server makes of a longer one."""
    text = name.encode(encoding, "replace")
    return name if len(text) <= _NAME_BYTES else text[:_NAME_BYTES].decode(encoding, "ignore")


@dataclass(slots=True, eq=False)
class Remembered:
    """A prepared statement or portal: what opened it, and under which policy and catalog that was judged."""

    judged: JudgedText
    statement: StatementPlan
    context: object
    confirmed: bool = False
    #: rows handed out by FETCH so far; `max_rows` counts per portal, not per FETCH
    delivered: int = 0
    #: what had the name until this was sent; the server may still refuse the new one because of it
    before: Remembered | None = None
    #: which opening of the name this is, whatever it is judged by since
    opening: object = field(default_factory=object)
    #: when it was opened, on the clock of `Names`
    number: int = 0


class Names:
    """The names of one session."""

    __slots__ = (
        "_began",
        "_clock",
        "_committing",
        "_pipeline",
        "_savepoints",
        "_under_way",
        "in_time",
        "portals",
        "prepared",
        "savepoint_open",
        "snapshot",
    )

    def __init__(self) -> None:
        self.prepared: dict[str, Remembered] = {}
        self.portals: dict[str, Remembered] = {}
        #: the same, as the engine takes it
        self.snapshot: SessionNames = NO_NAMES
        #: counts openings of portals; its value when the transaction began, and at each of its savepoints
        self._clock = 0
        self._began = 0
        self._savepoints: list[tuple[str, int]] = []
        #: when the transaction began whose COMMIT is not answered yet: it may still be refused, and is undone then
        self._committing: int | None = None
        #: the clock when the pipeline began
        self._pipeline = 0
        #: some name is not confirmed
        self._under_way = False
        #: the name of guarddb's own prepared question, see `at_once.py`; empty: there is none
        self.in_time = b""
        #: guarddb's own savepoint around a write stands, see `undo.py`
        self.savepoint_open = False

    def note_sent(self, judged: JudgedText, context: object, *, failed: bool = False) -> None:
        """A statement goes to the server: learn or forget names. `failed`: in a transaction that has failed."""
        changed = False
        for statement in judged.plan.statements:
            facts = statement.facts
            verb, name = facts.session_verb, facts.session_name
            if verb in ("prepare", "declare") and name is not None:
                held = self.prepared if verb == "prepare" else self.portals
                # A name in use makes the server refuse the statement.
                before = held.get(name)
                if before is not None and not before.confirmed:
                    before = before.before
                self._clock += 1
                held[name] = Remembered(judged, statement, context, before=before, number=self._clock)
                changed = self._under_way = True
            elif verb in ("deallocate", "close"):
                # Forgotten at once, even if the server should refuse: an unknown name is refused, never
                # trusted.
                held = self.prepared if verb == "deallocate" else self.portals
                if name is None:
                    held.clear()
                    self.in_time = b"" if verb == "deallocate" else self.in_time
                    if facts.operation == "DISCARD":
                        self.portals.clear()
                else:
                    held.pop(name, None)
                changed = True
            if facts.transaction is not None:
                self.note_transaction(facts.transaction, name or "", failed=failed)
        if changed:
            self._publish()

    def new_in_time(self) -> None:
        """A name that no statement of the agent's can guess and put another statement under."""
        self.in_time = f"guarddb_{token_hex(16)}".encode()

    def note_transaction(self, verb: TransactionVerb, name: str = "", *, failed: bool = False) -> None:
        """A statement about the transaction goes to the server, the agent's or the driver's own."""
        if verb in ("commit", "rollback"):
            if verb == "commit" and self._committing is None:
                self._committing = self._began
            self.end_transaction(undone=failed or verb == "rollback")
        elif verb == "savepoint":
            if not failed:
                self._savepoints.append((name, self._clock))
        else:
            marks = [i for i, (each, _) in enumerate(self._savepoints) if each == name]
            if verb == "release":
                del self._savepoints[marks[-1] if marks else 0 :]
            elif verb == "rollback_to":
                self._forget_since(self._savepoints[marks[-1]][1] if marks else self._began)
                del self._savepoints[marks[-1] + 1 if marks else 0 :]

    def confirm(self, judged: JudgedText) -> None:
        """The server has accepted a statement."""
        for statement in judged.plan.statements:
            verb, name = statement.facts.session_verb, statement.facts.session_name
            if statement.facts.transaction == "commit":
                self.committed()
            if verb in ("prepare", "declare") and name is not None:
                found = (self.prepared if verb == "prepare" else self.portals).get(name)
                if found is not None and found.judged is judged:
                    found.confirmed = True
                    found.before = None

    def committed(self) -> None:
        """The server has accepted a COMMIT."""
        self._committing = None

    def fail(self, *, pipeline: bool = False) -> None:
        """The server has refused something: a name that was only on its way means what it meant before.

        In a `pipeline` it is not known which of several openings of a name was refused, and all that the pipeline did in its
        transaction is undone: those names are forgotten.
        """
        committing, self._committing = self._committing, None
        if not (self.prepared or self.portals):
            return
        if committing is not None:
            self._forget_since(committing)
        for held in (self.prepared, self.portals):
            for name, found in [item for item in held.items() if not item[1].confirmed]:
                if found.before is not None and not pipeline:
                    held[name] = found.before
                else:
                    del held[name]
        if pipeline:
            self._forget_since(self._pipeline)
        self._publish()

    def begin_pipeline(self) -> None:
        """A pipeline is about to send its first command."""
        self._pipeline = self._clock

    def settle(self) -> None:
        """All answers have come: what is not confirmed by now (its wait was cancelled) is not known."""
        self._committing = None
        if not self._under_way:
            return
        self._under_way = False
        for held in (self.prepared, self.portals):
            for name in [name for name, found in held.items() if not found.confirmed]:
                del held[name]
        self._publish()

    def end_transaction(self, *, undone: bool = False) -> None:
        """Portals without HOLD are gone with their transaction, and the others where it is `undone`."""
        began = self._began
        gone = [
            n for n, p in self.portals.items() if not p.statement.facts.holds or (undone and p.number > began)
        ]
        for name in gone:
            del self.portals[name]
        self._began = self._clock
        self._savepoints.clear()
        self.savepoint_open = False
        if gone:
            self._publish()

    def _forget_since(self, number: int) -> None:
        gone = [name for name, found in self.portals.items() if found.number > number]
        for name in gone:
            del self.portals[name]
        if gone:
            self._publish()

    def forget(self, *, prepared: str | None = None, portal: str | None = None) -> None:
        """The driver itself closed something."""
        if prepared is not None:
            self.prepared.pop(prepared, None)
        if portal is not None:
            self.portals.pop(portal, None)
        self._publish()

    def forget_prepared(self) -> None:
        """The driver sent DEALLOCATE ALL: the agent's own prepared statements are gone as well."""
        self.in_time = b""
        if self.prepared:
            self.prepared.clear()
            self._publish()

    def open_portal(self, name: str, judged: JudgedText, context: object) -> None:
        """A named cursor of psycopg's was declared."""
        if not judged.plan.statements:
            return
        statement = judged.plan.statements[0]
        self._clock += 1
        self.portals[name] = Remembered(judged, statement, context, confirmed=True, number=self._clock)
        self._publish()

    def replace(self, kind: str, name: str, found: Remembered) -> None:
        """The same text was judged anew."""
        (self.prepared if kind == "execute" else self.portals)[name] = found
        self._publish()

    def _publish(self) -> None:
        self.snapshot = SessionNames(
            MappingProxyType({name: found.statement for name, found in self.prepared.items()}),
            MappingProxyType({name: found.statement for name, found in self.portals.items()}),
        )
