"""The guarded cursors: psycopg's own, with hooks where sync and async share their generators.

A guarded class is composed on demand over any cursor class (`guarded(cls)`), a foreign one included, and adds
no attribute to it: see `views.Results` for where the state is.
"""

from __future__ import annotations

from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import psycopg as _psycopg
from psycopg import pq
from psycopg._cursor_base import BaseCursor
from psycopg._server_cursor_base import ServerCursorMixin
from psycopg.adapt import Transformer
from psycopg.generators import execute

from guarddb.driver import ahead, at_once, many, steps, taking_back
from guarddb.driver.announced import hear
from guarddb.driver.judging import follow
from guarddb.driver.query import COMPOSED, guarded_query
from guarddb.driver.views import CommandView, MeteredTransformer, Results
from guarddb.errors import PolicyViolation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from psycopg._queries import PostgresQuery
    from psycopg.abc import Params, PQGen, Query
    from psycopg.pq.abc import PGresult

    from guarddb.decision.plan import Decision
    from guarddb.driver.scanning import ContentReport
    from guarddb.driver.session import Session
    from guarddb.risk.scoring import RiskResult


TEXT = pq.Format.TEXT
BINARY = pq.Format.BINARY
TUPLES_OK = int(pq.ExecStatus.TUPLES_OK)

#: Methods of psycopg's that every statement passes, as `_psycopgs_…` on a guarded class.
_OFTEN = (
    "_reset",
    "_execute_gen",
    "_maybe_prepare_gen",
    "_execute_send",
    "_set_results",
    "_select_current_result",
    "_make_row_maker",
)

if TYPE_CHECKING:

    class _Cursor(BaseCursor[Any, Any]):
        _psycopgs_reset = BaseCursor._reset
        _psycopgs_execute_gen = BaseCursor._execute_gen
        _psycopgs_maybe_prepare_gen = BaseCursor._maybe_prepare_gen
        _psycopgs_execute_send = BaseCursor._execute_send
        _psycopgs_set_results = BaseCursor._set_results
        _psycopgs_select_current_result = BaseCursor._select_current_result
        _psycopgs_make_row_maker = BaseCursor._make_row_maker

else:
    # Not a cursor itself: then CPython takes the other base, the cursor class, for the layout of a composed
    # class, and an object of that class can become one of the composed one, whether it has a __dict__ or not.
    _Cursor = object


class CursorMixin(_Cursor):
    """What every guarded cursor has, sync or async, client or server."""

    __slots__ = ()

    #: it reads a portal, and its FETCHes are guarded
    _guard_has_portal = False
    #: nobody has put anything in the place of what psycopg does to send a prepared statement, see `many.py`
    _guard_sends_by_name = False

    if not TYPE_CHECKING:

        def __init_subclass__(cls, **options: Any) -> None:
            # What super() would find, found once: looking for it takes as long as the rest of a hook.
            super().__init_subclass__(**options)
            place = cls.__mro__.index(CursorMixin)
            before, behind = cls.__mro__[:place], cls.__mro__[place + 1 :]
            if any(base.__module__.partition(".")[0] == "psycopg" for base in before):
                raise TypeError(f"{cls.__qualname__}: guarddb's class must stand before psycopg's")
            if issubclass(cls, ServerCursorMixin) and not cls._guard_has_portal:
                raise TypeError(f"{cls.__qualname__}: a server cursor needs guarddb's server cursor class")
            for name in _OFTEN:
                for base in behind:
                    if name in vars(base):
                        setattr(cls, f"_psycopgs{name}", vars(base)[name])
                        break
            psycopgs = getattr(cls, "_get_prepared", None) is BaseCursor._get_prepared
            cls._guard_sends_by_name = psycopgs and all(
                getattr(cls, name) is getattr(CursorMixin, name)
                and next(vars(base)[name] for base in behind if name in vars(base)) is vars(BaseCursor)[name]
                for name in ("_maybe_prepare_gen", "_send_query_prepared")
            )

    def __repr__(self) -> str:
        # Whoever looks for psycopg's name in it (a log filter, a test) finds it.
        return super().__repr__().replace("<guarddb.", "<guarddb:psycopg.", 1)

    @property
    def decision(self) -> Decision | None:
        """The decision about the last statement; None before the first."""
        results = self._results
        if not isinstance(results, Results):
            return None
        judged = results.judged
        return results.decision or (judged.plan.decision if judged is not None else None)

    @property
    def risk(self) -> RiskResult | None:
        """What the action policy of the connection makes of the last statement; None without one."""
        results = self._results
        return results.risk if isinstance(results, Results) else None

    @property
    def content(self) -> ContentReport | None:
        """What `content_scan_mode` has found in what was handed out of the current result; None where nothing is scanned."""
        results = self._results
        return results.content if isinstance(results, Results) else None

    @property
    def truncated(self) -> bool:
        """Whether `max_rows` cut the current result."""
        results = self._results
        return isinstance(results, Results) and results.truncated

    @property
    def _guard(self) -> Session:
        session: Session = self._conn._guard
        return session

    def _guard_results(self) -> Results:
        results = self._results
        if not isinstance(results, Results):
            # A foreign cursor adopted after its first statement, or a generator of psycopg's that put a plain
            # list.
            results = Results(results)
            self._results = results
        return results

    def _reset(self, reset_query: bool = True) -> None:
        before = getattr(self, "_results", None)
        self._psycopgs_reset(reset_query)
        self._results = results = Results()
        if type(before) is Results and (before.pending or not reset_query):
            # Sent in a pipeline by this cursor, not answered yet.
            results.pending = before.pending
            if not reset_query:  # closed: what was decided may still be asked
                results.judged, results.decision = before.judged, before.decision
                results.risk = before.risk
                results.truncated = before.truncated

    # The statement: the policy and the catalog are made current, then it is converted and judged, and only
    # then is a transaction begun for it. Nothing of a refused statement is sent, BEGIN included.
    #
    def _execute_gen(
        self,
        query: Query,
        params: Params | None = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> PQGen[None]:
        gen = self._psycopgs_execute_gen(query, params, prepare=prepare, binary=binary)
        self._conn._guard.guarded_gen = gen
        return gen

    # What is on the path of every statement is plain functions that give back a generator, psycopg's own where
    # that will do: another generator around it would be resumed with it at each step.

    def _start_query(self, query: Query | None = None) -> PQGen[None]:
        # psycopg's own, but for the BEGIN, which comes when the statement has been judged.
        if self._closed:
            raise closed_error()
        before = self._results
        if type(before) is Results and before.ahead is not None:
            return steps.NOTHING_TO_WAIT_FOR  # started, judged and all by `ahead.ahead_gen`
        self._reset()
        if not self._last_query or (self._last_query is not query):
            self._last_query = None
            self._tx = Transformer(self)
        else:
            tx: Any = self._tx
            if type(tx) is MeteredTransformer:
                self._tx = tx.real
        conn = self._conn
        session: Session = conn._guard
        if not session.fixed:
            try:
                follow(session, query)
            except PolicyViolation:
                self._guard_results().judged = session.last
                raise
        if session.scoring is not None:
            session.scoring.follow(session)
        freshness = session.freshness
        if freshness.hears:
            hear(session.pgconn)
        if freshness.due or perf_counter() >= freshness.check_at:
            refresh: PQGen[None] = conn._guard_refresh_gen(query if query is not None else "")
            return refresh
        return steps.NOTHING_TO_WAIT_FOR

    def _convert_query(self, query: Query, params: Params | None = None) -> PostgresQuery:
        results = self._results
        if type(results) is Results and results.ahead is not None:
            ready, results.ahead = results.ahead, None
            return ready
        cls = self._query_cls
        pgq = (COMPOSED.get(cls) or guarded_query(cls))(self._tx)
        pgq.judged = pgq.sent_with = None
        try:
            pgq.convert(query, params)
            # A query class is free to end its convert() without dump(), as template strings do.
            if pgq.judged is None:
                pgq.judge()
        except PolicyViolation:
            self._guard_results().judged = self._guard.last
            raise
        return pgq

    def _guard_begin_gen(self) -> PQGen[None]:
        begin: PQGen[None] = self._conn._guard_begin_gen()
        return begin

    def _maybe_prepare_gen(
        self, pgq: PostgresQuery, *, prepare: bool | None = None, binary: bool | None = None
    ) -> PQGen[None]:
        judged: Any = getattr(pgq, "judged", None)
        apart = judged is not None and judged.apart
        if apart and judged.copies:
            raise steps.no_method_for_copy()
        if self._execmany_returning is not None:
            return many.row_gen(self, pgq, prepare=prepare, binary=binary)
        if apart:
            if judged.surrounded:
                run = partial(at_once.sent_gen, self, pgq, prepare=prepare, binary=binary)
                return taking_back.carried_gen(self, pgq, run)
            if at_once.commits(self, judged):
                before = steps.before(self, pgq)
                gen = at_once.sent_gen(self, pgq, prepare=prepare, binary=binary)
                return (
                    gen if before is None else steps.one_after_the_other_gen(self._conn._guard, before, gen)
                )
        before = steps.before(self, pgq)
        if before is not None:
            gen = self._psycopgs_maybe_prepare_gen(pgq, prepare=prepare, binary=binary)
            return steps.one_after_the_other_gen(self._conn._guard, before, gen)
        if self._guard_sends_by_name and prepare is not False:
            conn: Any = self._conn
            prepared = conn._prepared
            key = (pgq.query, pgq.types)
            name = prepared._names.get(key)
            if name is not None and conn._pipeline is None and prepared.prepare_threshold is not None:
                # Where psycopg's way would end as well; it takes as long as all that guarddb does before.
                prepared._names.move_to_end(key)
                return self._guard_by_name_gen(name, pgq, binary)
        return self._psycopgs_maybe_prepare_gen(pgq, prepare=prepare, binary=binary)

    def _guard_by_name_gen(self, name: bytes, pgq: PostgresQuery, binary: bool | None) -> PQGen[None]:
        """Send a statement that the server has prepared already, and take its results."""
        steps.approve(self, pgq)
        shown_format = self.format if binary is None else BINARY if binary else TEXT
        pgconn = self._pgconn
        pgconn.send_query_prepared(name, pgq.params, param_formats=pgq.formats, result_format=shown_format)
        results = yield from execute(pgconn)
        if len(results) != 1 or results[0].status != TUPLES_OK:
            self._check_results(results)
        self._set_results(results)

    def _execute_send(
        self, query: PostgresQuery, *, force_extended: bool = False, binary: bool | None = None
    ) -> None:
        steps.approve(self, query)
        self._psycopgs_execute_send(query, force_extended=force_extended, binary=binary)

    def _send_prepare(self, name: bytes, query: PostgresQuery) -> None:
        steps.approve_preparing(self, query)
        super()._send_prepare(name, query)

    def _send_query_prepared(self, name: bytes, pgq: PostgresQuery, *, binary: bool | None = None) -> None:
        steps.approve(self, pgq)
        super()._send_query_prepared(name, pgq, binary=binary)

    # The results

    def _raise_for_result(self, result: PGresult) -> Any:
        span = steps.failed(self)
        try:
            super()._raise_for_result(result)
        except _psycopg.Error as ex:
            refused = steps.refused_by_the_server(self, ex, span)
            if refused is None:
                span.end(error=ex)
                raise
        raise refused

    _set_results = steps.after

    def _select_current_result(self, i: int, format: pq.Format | None = None) -> None:
        tx: Any = self._tx
        if type(tx) is MeteredTransformer:
            self._tx = tx.real
        results: Any = self._results
        inspect = type(results) is Results and results.inspect
        if inspect:
            results.due = (i, format)
        try:
            self._psycopgs_select_current_result(i, format)
        except BaseException:
            if inspect and results.due is not None:
                self.pgresult = None  # nobody has inspected it
            raise
        if inspect and results.due is not None:
            # A subclass makes its rows in its own way.
            self._make_row_maker()

    def _make_row_maker(self) -> Any:
        # The last that psycopg does with a result, and the first that somebody else sees of it: a row factory.
        results = self._results
        if type(results) is Results and results.inspect and self.pgresult is not None:
            if results.due is not None:
                steps.inspect(self, results, *results.due)
                results.due = None
            elif not results:
                steps.inspect_for_row_factory(self, results, self.pgresult)
        return self._psycopgs_make_row_maker()

    def _executemany_gen_pipeline(
        self, query: Query, params_seq: Iterable[Params], returning: bool
    ) -> PQGen[None]:
        return many.many_gen(self, super()._executemany_gen_pipeline, query, params_seq, returning)

    def _executemany_gen_no_pipeline(
        self, query: Query, params_seq: Iterable[Params], returning: bool
    ) -> PQGen[None]:
        return many.many_gen(self, super()._executemany_gen_no_pipeline, query, params_seq, returning)

    # stream() and copy() convert and send in one go, so the steps before come before psycopg's generator

    def _stream_send_gen(
        self, query: Query, params: Params | None = None, *, binary: bool | None = None, size: int
    ) -> PQGen[None]:
        if (yield from ahead.stream_ahead_gen(self, query, params, binary=binary, size=size)):
            return
        yield from super()._stream_send_gen(query, params, binary=binary, size=size)
        steps.streams(self)

    def _stream_fetchone_gen(self, first: bool) -> PQGen[PGresult | None]:
        results = self._results
        if type(results) is Results and results.whole:
            return self.pgresult if first and self.pgresult is not None and self.pgresult.ntuples else None
        try:
            result = yield from super()._stream_fetchone_gen(first)
        except BaseException as ex:
            if isinstance(ex, _psycopg.ProgrammingError):
                steps.done_all_the_same(self, ex)
            if type(results) is Results and results.undo is not None:
                yield from ahead.stream_failed_gen(self, results, ex)
            raise
        if type(results) is not Results:
            return result
        if first and results.statements and results.statements[0].handling.hidden_returning:
            if result is not None:
                yield from self._guard_drain_gen()
                self.pgresult = cast("PGresult", CommandView(result))
            raise _psycopg.ProgrammingError("the operation in stream() didn't produce a result")
        if results.undo is not None and (result is None or results.counted):
            yield from ahead.stream_checked_gen(self, results, result)
        if result is not None and results.inspect:
            shown = steps.inspect_chunk(self, results, result, first=first)
            if results.truncated:
                # Read to its end, and not cancelled as psycopg does with a stream that somebody leaves: a write must
                # not be undone because some of what it returns is not shown.
                view = self.pgresult
                more = yield from self._guard_drain_gen()
                if results.undo is not None:
                    yield from ahead.stream_cut_gen(self, results, results.streamed + result.ntuples + more)
                self.pgresult = view
                self._tx.set_pgresult(result, set_loaders=False)
            result = shown
        steps.streamed(results, result)
        return result

    def _guard_drain_gen(self) -> PQGen[int]:
        """Read a stream() to its end; the number of rows."""
        rows = 0
        while (result := (yield from super()._stream_fetchone_gen(first=False))) is not None:
            rows += result.ntuples
        return rows

    def _start_copy_gen(self, statement: Query, params: Params | None = None) -> PQGen[None]:
        if not self._conn._pipeline:
            yield from ahead.copy_ahead_gen(self, statement, params)
        results = self._guard_results()
        try:
            yield from super()._start_copy_gen(statement, params)
        except GeneratorExit:
            raise
        except BaseException as ex:
            if isinstance(ex, _psycopg.ProgrammingError):
                steps.done_all_the_same(self, ex)
            yield from ahead.copy_not_begun_gen(self, results, ex)
            raise


def closed_error() -> _psycopg.Error:
    """As psycopg words it."""
    return _psycopg.InterfaceError("the cursor is closed")
