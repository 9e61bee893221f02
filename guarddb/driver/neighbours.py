"""What connections of one process to one database tell each other: that one of them changes the catalog.

What others define is found by looking, every so many milliseconds. Of a connection of the same process it is known: as long as
its definition is on its way to the server, and once more when its transaction is over, whatever ended it, a look is due on
every connection to the database. So an agent with two connections gets no statement in between.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol
from weakref import WeakSet, WeakValueDictionary

from psycopg import pq

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

    from guarddb.driver.freshness import Freshness

ACTIVE = pq.TransactionStatus.ACTIVE
#: In a transaction, and nothing on the way: what it has defined is nobody else's yet.
_WITHIN = (pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR)


class Neighbour(Protocol):
    """What is asked of a session."""

    freshness: Freshness
    pgconn: PGconn


class Neighbours:
    """The connections of the process to one database."""

    def __init__(self) -> None:
        self._all: WeakSet[Neighbour] = WeakSet()
        #: those whose transaction changes the catalog, or did when somebody looked at them last
        self._changing: WeakSet[Neighbour] = WeakSet()
        #: there are any (asked for each statement)
        self.changing = False
        #: of these, those that wait for an answer; libpq does not know yet of what is about to be sent
        self._sending: WeakSet[Neighbour] = WeakSet()
        self._lock = threading.Lock()

    def changes(self, session: Neighbour) -> None:
        """A definition of this connection's goes to the server."""
        with self._lock:
            self._changing.add(session)
            self.changing = True
            self._sending.add(session)
            for each in self._all:
                each.freshness.beside = each.freshness.beside or each is not session
                each.freshness.told()

    def answered(self, session: Neighbour) -> None:
        """The answer has come; its transaction may go on."""
        with self._lock:
            self._sending.discard(session)

    def settle(self, asking: Neighbour) -> None:
        """Have `asking` look, and all others where a transaction that changed the catalog is over."""
        with self._lock:
            over = []
            for each in self._changing:
                status = each.pgconn.transaction_status
                if each is not asking and (status == ACTIVE or each in self._sending):
                    asking.freshness.told()
                elif status != ACTIVE and status not in _WITHIN:
                    over.append(each)
            for each in over:
                self._changing.discard(each)
            self.changing = bool(self._changing)
            for each in self._all if over else ():
                each.freshness.beside = any(other is not each for other in self._changing)
                each.freshness.told()

    def join(self, session: Neighbour) -> None:
        with self._lock:
            self._all.add(session)
            session.freshness.beside = self.changing


_LOCK = threading.Lock()
_DATABASES: WeakValueDictionary[tuple[object, ...], Neighbours] = WeakValueDictionary()


def neighbours_of(session: Neighbour, database: tuple[object, ...]) -> Neighbours:
    """Those to whom a session with this database belongs from now on."""
    with _LOCK:
        found = _DATABASES.get(database)
        if found is None:
            found = _DATABASES[database] = Neighbours()
    found.join(session)
    return found
