"""The statement hook: psycopg's query classes, judged at the end of every conversion.

Whatever the agent passes (str, bytes, Composed, a template string, raw `$1`, client-bound values), at the end
of `convert()` and of every `dump()` it is bytes in `self.query`, and those bytes are what libpq sends.
Hooking only `convert()` is a hole: `ClientCursor.executemany` renders every row after the first in `dump()`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from psycopg import RawCursor
from psycopg._queries import PostgresClientQuery, PostgresQuery

from guarddb.driver.judging import follow, judge

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg.abc import Params

    from guarddb.driver.plans import JudgedText
    from guarddb.driver.session import Session


class QueryMixin(PostgresQuery):
    """Judges what a query class made, and puts the text to send in its place."""

    __slots__ = ()

    # In the composed class's slots (see `guarded_query`).
    judged: JudgedText | None
    #: it has been through all that comes before sending; each sending takes that away again
    passed: bool
    #: the types of the parameters it was sent with last, by its name (see `many.py`); None: it was not
    sent_with: tuple[int, ...] | None
    _psycopgs_dump: Callable[[Params | None], None]

    def dump(self, vars: Params | None) -> None:
        self._psycopgs_dump(vars)
        judged = getattr(self, "judged", None)
        session: Session = self._tx.connection._guard  # type: ignore[union-attr]
        query = self.query
        if judged is not None:
            if query is judged.sent:
                query = judged.original
            if not session.fixed:
                self.judge()
                return
        # As `judge` would find it, without a call for each statement.
        judged = session.plans.get(query)
        if judged is None or session.on_decision is not None:
            self.judge()
            return
        session.last = self.judged = judged
        self.query = judged.sent
        self.passed = False

    def judge(self) -> None:
        """Judge what is in `query` now. Raises PolicyViolation when it is refused."""
        judged = getattr(self, "judged", None)
        query = self.query
        if judged is not None and query is judged.sent:
            # Only the parameters are new. Judged again all the same (the policy may have changed since), and
            # by the agent's own text: what is sent already holds masks and filters.
            query = judged.original
        session: Session = self._tx.connection._guard  # type: ignore[union-attr]
        if judged is not None and not session.fixed:
            follow(session, query)  # between two sets of parameters of executemany()
        judged = session.plans.get(query)
        if judged is None or session.on_decision is not None:
            judged = judge(session, query)
        else:
            session.last = judged
        self.judged = judged
        self.query = judged.sent
        self.passed = False


COMPOSED: dict[type[PostgresQuery], type[QueryMixin]] = {}


def guarded_query(cls: type[PostgresQuery]) -> type[QueryMixin]:
    """`cls` with the hook; the class itself when it has it already."""
    found = COMPOSED.get(cls)
    if found is None:
        if issubclass(cls, QueryMixin):
            found = cls
        else:
            slots = {
                "__slots__": ("judged", "passed", "sent_with"),
                "__module__": cls.__module__,
                "_psycopgs_dump": cls.dump,
            }
            found = cast("type[QueryMixin]", type(cls.__name__, (QueryMixin, cls), slots))
        COMPOSED[cls] = found
    return found


# (The raw one's module depends on psycopg's version.)
for _class in (PostgresQuery, PostgresClientQuery, RawCursor._query_cls):
    guarded_query(_class)
