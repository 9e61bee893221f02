"""The guard of named cursors, over psycopg's server cursors: their DECLARE, FETCH and MOVE are generators of psycopg's own."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import psycopg as _psycopg

from guarddb.driver import ahead, steps, waited
from guarddb.driver.announced import hear
from guarddb.driver.cursor import CursorMixin, closed_error
from guarddb.driver.judging import follow, rejudge
from guarddb.driver.names import server_name
from guarddb.telemetry import listens

if TYPE_CHECKING:
    from psycopg.abc import Params, PQGen, Query

    from guarddb.driver.names import Remembered
    from guarddb.driver.session import Session


class ServerCursorGuard(CursorMixin):
    """A named cursor. Its FETCH shows no statement: the portal's plan is kept by name."""

    __slots__ = ()

    _guard_has_portal = True

    def _declare_gen(
        self, query: Query, params: Params | None = None, binary: bool | None = None
    ) -> PQGen[None]:
        yield from ahead.ahead_gen(self, cast("Any", self)._make_declare_statement(query), params)
        yield from super()._declare_gen(query, params, binary)  # type: ignore[misc]
        yield from waited.declared_gen(self)

    def _guard_begin_gen(self) -> PQGen[None]:
        server = cast("Any", self)
        if server._described and server._withhold:
            # As psycopg does first of all; behind the BEGIN it would close within the new transaction.
            yield from self._close_gen()
        # A portal without hold went with its transaction. psycopg sees that too, but after the BEGIN.
        server._described = False
        yield from super()._guard_begin_gen()

    @property
    def _guard_name(self) -> str:
        return server_name(cast("Any", self)._name, self._guard.encoding)

    def _describe_gen(self) -> PQGen[None]:
        session = self._guard
        server = cast("Any", self)
        name = self._guard_name
        before = self._guard_results()
        judged = before.judged
        portal = session.names.portals.get(name)
        if judged is not None and (portal is None or portal.judged is not judged):
            session.names.open_portal(name, judged, session.context)
            portal = session.names.portals.get(name)
        yield from super()._describe_gen()  # type: ignore[misc]
        # psycopg put a plain list of the description's result in its place.
        self._results = mine = steps.declared(self, before, portal, self._results)
        if mine.inspect:
            steps.inspect(self, mine, 0, server._format)

    def _guard_portal_gen(self) -> PQGen[Remembered | None]:
        """The portal that FETCH or MOVE is about, judged by the policy of now."""
        if self._closed:
            raise closed_error()
        conn = self._conn
        session: Session = conn._guard
        follow(session, "")
        freshness = session.freshness
        if freshness.hears:
            hear(session.pgconn)
        if freshness.due or perf_counter() >= freshness.check_at:
            yield from conn._guard_refresh_gen("")
        name = self._guard_name
        portal = session.names.portals.get(name)
        if session.observe:
            return portal
        mine = self._guard_results()
        if portal is None:
            if not session.restricts:
                return None
            if mine.judged is not None:
                # This cursor opened it, and it went with its transaction: the server would say the same. It is
                # not asked, for somebody else may have given the name to another portal since.
                raise _psycopg.errors.InvalidCursorName(f'cursor "{name}" does not exist')
            raise session.deny(
                "statement_not_allowed",
                f'nothing is known about what the cursor "{name}" reads',
                "open it with execute() or DECLARE on this connection",
            )
        if portal.context != session.context:
            refused = rejudge(session, "fetch", name, portal)
            if refused is not None:
                raise session.violation(refused.decision)
            portal = session.names.portals[name]
        if mine.portal is not None and mine.portal.opening is not portal.opening:
            # The name is another portal's by now, of other columns perhaps.
            cast("Any", self)._described = False
        if portal.judged.sensitive:
            session.sensitive = session.sensitive_now = session.met_sensitive = True
        return portal

    def _fetch_gen(self, num: int | None) -> PQGen[list[Any]]:
        server = cast("Any", self)
        portal = yield from self._guard_portal_gen()
        if not server._described:
            yield from self._conn._guard_begin_gen()
            yield from self._start_query()
            yield from self._describe_gen()
        if portal is None or not listens():
            return (yield from self._guard_fetch_gen(portal, num))
        span = self._guard.begin_fetch_span(portal, self._guard_name)
        try:
            rows: list[Any] = yield from self._guard_fetch_gen(portal, num)
        except BaseException as ex:
            span.end(error=ex)
            raise
        span.end(rows=len(rows), truncated=self.truncated)
        return rows

    def _guard_fetch_gen(self, portal: Remembered | None, num: int | None) -> PQGen[list[Any]]:
        if self._guard.observe:
            rows: list[Any] = yield from super()._fetch_gen(num)  # type: ignore[misc]
            return rows
        cap = portal.statement.handling.row_cap if portal is not None else None
        left = None
        if portal is not None and cap is not None:
            left = max(0, cap - portal.delivered)
            if not left and self.truncated:
                return []
            if num is None or num > left:
                num = left + 1  # one more than is handed out tells whether there is more
        transformer = self._tx
        self._tx = fetched = cast("Any", steps.inspect_fetch(self, portal, left))
        try:
            rows = yield from super()._fetch_gen(num)  # type: ignore[misc]
        finally:
            self._tx = transformer
        steps.fetched(self, portal, fetched, len(rows))
        return rows

    def _scroll_gen(self, value: int, mode: str) -> PQGen[None]:
        yield from self._guard_portal_gen()
        yield from super()._scroll_gen(value, mode)  # type: ignore[misc]

    def _close_gen(self) -> PQGen[None]:
        yield from super()._close_gen()  # type: ignore[misc]
        self._guard.names.forget(portal=self._guard_name)
