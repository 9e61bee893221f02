"""The guarded connections: psycopg's own, with the policy attached when they connect.

Sync and async share everything but the waiting: what has to ask the server is a generator here, driven by
either.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing, closing, suppress
from dataclasses import replace
from types import MethodType
from typing import TYPE_CHECKING, Any, Generic, Literal, cast, overload

import psycopg as _psycopg
from psycopg import ConnectionInfo, Notify, errors as e, pq
from psycopg._connection_base import BaseConnection
from psycopg.rows import Row
from psycopg.sql import Composable

from guarddb import telemetry
from guarddb.driver import pipelines, sandbox
from guarddb.driver.adoption import taken_in
from guarddb.driver.arguments import ARGUMENTS, Attachment
from guarddb.driver.asking import ask_gen
from guarddb.driver.cursors import guarded
from guarddb.driver.cut_off import cancel_running
from guarddb.driver.faults import translated
from guarddb.driver.loaders import register_loaders
from guarddb.driver.messages import GuardedInfo, handle_notices, heard
from guarddb.driver.neighbours import neighbours_of
from guarddb.driver.session import Session
from guarddb.driver.settings import hold_gen
from guarddb.driver.undo import check_gen, settled_gen
from guarddb.driver.waited import Prepared
from guarddb.driver.waits import Asking
from guarddb.driver.walled import wall_gen
from guarddb.driver.watch import contradicts, refresh_gen
from guarddb.errors import BudgetExceeded, PolicyViolation
from guarddb.facts.settings import FOLLOWED
from guarddb.policy.load import is_url
from guarddb.runtime.policies import waits
from guarddb.runtime.policy_source import FollowedPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping
    from typing import Self

    from psycopg._connection_base import CursorRow
    from psycopg.abc import Params, PQGen, Query, QueryNoTemplate
    from psycopg.pq.abc import PGconn, PGresult
    from psycopg.rows import AsyncRowFactory, RowFactory

    from guarddb.decision.plan import TransactionVerb
    from guarddb.driver.arguments import OnDecision
    from guarddb.driver.cursors import AsyncCursor, AsyncServerCursor, Cursor, ServerCursor
    from guarddb.policy.profile import PolicyProfile
    from guarddb.runtime.branches import Branch
    from guarddb.runtime.budgets import BudgetStore, Remaining
    from guarddb.sql.catalog import Catalog

TEXT = pq.Format.TEXT
INERROR = pq.TransactionStatus.INERROR
IDLE = pq.TransactionStatus.IDLE

#: What tells a server from another one that stands at its address later, and a database from one that had its name.
_FOLLOWED = sorted(FOLLOWED)
#: Which server it is; and how the session began, see `settings.followed()`.
_WHICH_SERVER = (
    "SELECT pg_catalog.pg_postmaster_start_time(), oid, "
    + ", ".join(f"pg_catalog.current_setting('{name}', true)" for name in _FOLLOWED)
    + " FROM pg_catalog.pg_database WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database()"
).encode()

#: What psycopg's transaction() blocks send.
_SAVEPOINT = re.compile(rb'(SAVEPOINT|RELEASE|ROLLBACK TO) "((?:[^"]|"")*)"')
_SAVEPOINT_VERBS: dict[bytes, TransactionVerb] = {
    b"SAVEPOINT": "savepoint",
    b"RELEASE": "release",
    b"ROLLBACK TO": "rollback_to",
}

#: psycopg's own default: seconds between two looks for a Ctrl-C
_WAIT_INTERVAL = 0.1


#: psycopg's own, without what others may put in their places later.
_CONNECT = {cls: vars(cls)["connect"] for cls in (_psycopg.Connection, _psycopg.AsyncConnection)}


def plain_connect(conninfo: str, **arguments: Any) -> _psycopg.Connection[Any]:
    """A connection of guarddb's own, without a policy, also where `install()` has put a guarded one in psycopg's place."""
    conn: _psycopg.Connection[Any] = _CONNECT[_psycopg.Connection].__get__(None, _psycopg.Connection)(
        conninfo, **arguments
    )
    return conn


def _bound_to(cls: type[Any], connect: Any) -> Any:
    """A tracer that takes itself out may leave psycopg's connect() bound to psycopg's class."""
    if type(connect) is MethodType and isinstance(
        connect.__self__, type
    ):  # (and no proxy that says it is one)
        return MethodType(connect.__func__, cls)
    return connect


def split_arguments(arguments: dict[str, Any]) -> tuple[Attachment, dict[str, Any]]:
    """guarddb's own arguments of connect(), checked, and psycopg's."""
    own = {name: arguments.pop(name) for name in ARGUMENTS if name in arguments}
    return Attachment.of(**own), arguments


class ConnectionMixin(BaseConnection[Row], Generic[Row]):
    """What sync and async guarded connections share."""

    _guard: Session
    #: psycopg's wait(), or that of an application's class behind the guarded one
    _psycopgs_wait: Any

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        behind = cls.__mro__[cls.__mro__.index(ConnectionMixin) + 1 :]
        cls._psycopgs_wait = next((vars(base)["wait"] for base in behind if "wait" in vars(base)), None)

    def __init__(self, pgconn: PGconn, *args: Any, **kwargs: Any) -> None:
        # Before psycopg's: from its first moment the connection denies, until connect() attaches the policy.
        self._guard = Session(pgconn)
        super().__init__(pgconn, *args, **kwargs)
        mine = cast("Any", self)
        mine._prepared.__class__ = Prepared
        mine.cursor_factory = guarded(mine.cursor_factory)
        mine.server_cursor_factory = guarded(mine.server_cursor_factory)
        handle_notices(self)

    def __repr__(self) -> str:
        return super().__repr__().replace("<guarddb.", "<guarddb:psycopg.", 1)

    @property
    def policy(self) -> PolicyProfile | None:
        """The profile in force."""
        return self._guard.profile

    @property
    def agent(self) -> str | None:
        """Who the budgets and reports of this connection are for."""
        attachment = self._guard.attachment
        return attachment.agent if attachment is not None else None

    @property
    def settings(self) -> Mapping[str, str]:
        """The caller's values of the settings that row filters read: those of `connect(settings=…)`, or what was put here since.

        A new mapping holds from the next statement on, in an open transaction as well. It is for the application that hands the
        connection from one request to the next; an agent's SQL cannot reach it.

        Raises:
            PolicyError: on setting: a name or value will not do. What held before stays.
        """
        attachment = self._guard.attachment
        return attachment.settings if attachment is not None else {}

    @settings.setter
    def settings(self, values: Mapping[str, Any]) -> None:
        self._guard.change_settings(values)

    @property
    def branch(self) -> Branch | None:
        """The branch that `write_mode: sandbox` has made for this connection; None where it works on the database itself."""
        attachment = self._guard.attachment
        return attachment.branch if attachment is not None else None

    @property
    def budget(self) -> Remaining | None:
        """What is left of the policy's budgets; it asks the budget store."""
        policy = self._guard.in_force
        return policy.budget.remaining() if policy is not None else None

    @property
    def between_users(self) -> bool:
        """Whether a pool has the connection back and nobody uses it; then DISCARD ALL and its like clean the session.

        psycopg_pool's pools need not set it, nor does an engine of SQLAlchemy's that guarddb's plugin, hook or dialect is in.
        """
        return self._guard.between_users

    @between_users.setter
    def between_users(self, value: bool) -> None:
        self._guard.between_users = value

    @property
    def _pool(self) -> Any:
        """psycopg_pool's own attribute, which it sets; psycopg asks whether it was ever set."""
        if self._guard.pool is None:
            raise AttributeError("_pool")
        return self._guard.pool[0]

    @_pool.setter
    def _pool(self, pool: Any) -> None:
        self._guard.pool = (pool,)

    def traced_by(self, span: Any) -> None:
        """Say which OpenTelemetry span stands for the next statement, where that is not the current one."""
        telemetry.stands_for_next(span)

    @property
    def info(self) -> ConnectionInfo:
        """As psycopg's; row data is cut out of its `error_message`."""
        return GuardedInfo(self.pgconn, self._guard)

    # Attaching

    def _guard_open_gen(self, attachment: Attachment) -> PQGen[None]:
        """Attach the policy and set what it holds, before the agent's first statement."""
        session = self._guard
        info = self.info
        port = info.port
        session.connection_facts = telemetry.ConnectionFacts(info.dbname, info.host or None, port)
        session.database = (info.host, info.hostaddr, port, info.dbname)
        register_loaders(self.adapters)
        session.attach(attachment)
        if isinstance(attachment.source, FollowedPolicy):
            attachment.source.on_denial(self._guard_denied)
        if session.in_force is not None and not session.in_force.forbids_nothing:
            # Two servers may stand at one address, one after the other.
            started, oid, *began = (yield from ask_gen(self, _WHICH_SERVER))[0]
            session.database += (started, oid)
            encoding = self.pgconn._encoding
            session.began = {
                name: value.decode(encoding)
                for name, value in zip(_FOLLOWED, began, strict=True)
                if value is not None
            }
        session.neighbours = neighbours_of(session, session.database)
        if session.wall_due:
            yield from wall_gen(session, self)
        yield from hold_gen(session.held, self)

    async def _guard_denied(self) -> None:
        await cancel_running(self, self._guard)

    def _guard_refresh_gen(self, query: Query | None = None) -> PQGen[None]:
        return refresh_gen(self._guard, self, query)

    def _guard_take_in_pipeline(self) -> None:
        assert self._pipeline is not None
        pipelines.take_in(self._pipeline)

    def _guard_settled_gen(self) -> PQGen[None]:
        return pipelines.settled_gen(self._guard, self)

    def _guard_before_commit_gen(self) -> PQGen[None]:
        return pipelines.before_commit_gen(self._guard, self)

    def _guard_begin_gen(self) -> PQGen[None]:
        return super()._start_query()

    # What psycopg's generators call

    def _start_query(self) -> PQGen[None]:
        # A guarded cursor does not come here (see CursorMixin._start_query), and whatever `wait` is given is one.
        raise self._guard.deny(
            "internal_error", "a statement was started that did not pass the connection's wait()"
        )

    def _exec_command(
        self, command: QueryNoTemplate, result_format: pq.Format = TEXT
    ) -> PQGen[PGresult | None]:
        session = self._guard
        verb = command[:6] if isinstance(command, bytes) else b""
        if verb[:5] == b"BEGIN":
            # The last moment to look at the catalog without taking the snapshot of the agent's transaction.
            if session.attachment is not None and session.freshness.due and self._pipeline is None:
                yield from self._guard_refresh_gen()
            result = yield from super()._exec_command(command, result_format)
            assert isinstance(command, bytes)
            session.freshness.began(command)
            if session.recorder is not None:
                session.recorder.begins()
            return result
        failed = self.pgconn.transaction_status == INERROR
        session.sensitive_now = session.sensitive  # (a COMMIT runs what a cursor WITH HOLD has left)
        if verb == b"COMMIT" and session.rolls_back:
            if self._pipeline is not None:
                yield from self._pipeline._sync_gen()
            yield from check_gen(session, self)
            verb = command = b"ROLLBACK"
        if verb == b"COMMIT":
            if session.outstanding and self._pipeline is not None:
                yield from self._guard_before_commit_gen()
            session.names.note_transaction("commit", failed=failed)
        text = command.as_bytes(self) if isinstance(command, Composable) else command
        found = _SAVEPOINT.match(text) if isinstance(text, bytes) else None
        if found is not None and session.names.savepoint_open and not failed:
            if self._pipeline is not None:
                yield from self._pipeline._sync_gen()
            yield from settled_gen(session, self)
        if isinstance(text, bytes) and text.startswith(b"COMMIT PREPARED"):
            session.neighbours.changes(session)  # (It may have.)
        result = yield from super()._exec_command(command, result_format)
        if isinstance(text, bytes) and text.startswith(b"PREPARE TRANSACTION"):
            session.names.end_transaction()
        if verb == b"COMMIT":
            if (
                result is not None
            ):  # (In a pipeline the answer is to come; an error ends up in `_guard_error`.)
                session.names.committed()
            return result
        if command == b"ROLLBACK":
            session.names.note_transaction("rollback")
            return result
        if found is not None:
            session.names.savepoint_open = False
            session.freshness.verified.clear()
            name = found[2].decode(self.pgconn._encoding).replace('""', '"')
            session.names.note_transaction(_SAVEPOINT_VERBS[found[1]], name, failed=failed)
        return result

    def _deallocate(self, name: bytes | None) -> PQGen[None]:
        yield from super()._deallocate(name)
        if name is None:
            self._guard.names.forget_prepared()

    # A transaction that may write is not to be had under read_only

    @property
    def _guard_read_only(self) -> bool:
        policy = self._guard.in_force
        return policy is None or (policy.profile.access_mode == "read_only" and not policy.observe)

    def _get_tx_start_command(self) -> bytes:
        if self._read_only is False and self._guard_read_only:
            raise self._guard_no_writes("a READ WRITE transaction")
        return super()._get_tx_start_command()

    def _set_read_only_gen(self, value: bool | None) -> PQGen[None]:
        if value is not None and not value and self._guard_read_only:
            raise self._guard_no_writes("a READ WRITE transaction")
        yield from super()._set_read_only_gen(value)

    def _tpc_prepare_gen(self) -> PQGen[None]:
        if self._guard_read_only:
            raise self._guard_no_writes("PREPARE TRANSACTION")
        if self._guard.rolls_back:
            raise self._guard_no_two_phases("PREPARE TRANSACTION")
        yield from super()._tpc_prepare_gen()

    def _tpc_finish_gen(self, action: Any, xid: Any) -> PQGen[None]:
        # With a xid it is about a transaction that somebody else prepared.
        if xid is not None and self._guard_read_only:
            raise self._guard_no_writes(f"{action} PREPARED")
        if xid is not None and self._guard.rolls_back:
            raise self._guard_no_two_phases(f"{action} PREPARED")
        yield from super()._tpc_finish_gen(action, xid)

    def _guard_no_two_phases(self, what: str) -> e.Error:
        reason = f"under this policy every transaction is rolled back, and {what} would last"
        return self._guard.deny("statement_not_allowed", reason, "end it with commit() or rollback()")

    def _guard_no_writes(self, what: str) -> e.Error:
        return self._guard.deny("read_only", f"the policy is read-only, so {what} is refused", "only read")

    def _guard_error(self, error: e.Error) -> e.Error:
        """What the agent gets in place of an error, when it comes from the server."""
        session = self._guard
        session.waited = None
        refused = isinstance(error, PolicyViolation | BudgetExceeded)
        if (error._info is not None and not refused) or isinstance(error, e.PipelineAborted):
            session.names.fail(pipeline=self._pipeline is not None)
        if error._info is not None and not refused and contradicts(error):
            session.freshness.contradicted()
        error = translated(session, error)
        if not refused:  # (A refusal has a span of its own, and is not about what was sent before.)
            session.span.end(error=error)
        return error


class Connection(ConnectionMixin[Row], _psycopg.Connection[Row]):
    """`psycopg.Connection` under a policy. Made by `connect()`, which takes the policy."""

    __module__ = "guarddb"

    if TYPE_CHECKING:
        # psycopg's own, said to give our cursors, which `cursor_factory` sees to. No code of ours is run.

        @overload
        def cursor(self, *, binary: bool = False) -> Cursor[Row]: ...

        @overload
        def cursor(
            self, *, binary: bool = False, row_factory: RowFactory[CursorRow]
        ) -> Cursor[CursorRow]: ...

        @overload
        def cursor(
            self,
            name: str,
            *,
            binary: bool = False,
            scrollable: bool | None = None,
            withhold: bool = False,
        ) -> ServerCursor[Row]: ...

        @overload
        def cursor(
            self,
            name: str,
            *,
            binary: bool = False,
            row_factory: RowFactory[CursorRow],
            scrollable: bool | None = None,
            withhold: bool = False,
        ) -> ServerCursor[CursorRow]: ...

        def cursor(
            self,
            name: str = "",
            *,
            binary: bool = False,
            row_factory: RowFactory[Any] | None = None,
            scrollable: bool | None = None,
            withhold: bool = False,
        ) -> Cursor[Any] | ServerCursor[Any]: ...

        def execute(
            self,
            query: Query,
            params: Params | None = None,
            *,
            prepare: bool | None = None,
            binary: bool = False,
        ) -> Cursor[Row]: ...

    @classmethod
    def connect(
        cls, conninfo: str = "", *, row_factory: RowFactory[Row] | None = None, **kwargs: Any
    ) -> Self:
        """Connect as `psycopg.Connection.connect` does, under a policy.

        Args:
            policy: a PolicyProfile, a dict, a path, a URL or a PolicySource; without it `GUARDDB_POLICY` is
            read. agent: who the budgets are counted for. settings: values of PostgreSQL settings that row
            filters read. approver: who is asked about statements that wait for a person. budgets: where budgets are
            counted, a storage URI (`redis://…`, `postgresql://…`); `memory://` unless given.
            enforcement: `enforce`, or `observe` to decide and report and change nothing. on_decision: a sink of decision
            records (`guarddb.JsonlSink`, a function of one argument), or a function that is called with (decision, sql)
            for every statement.
            action_policy: an ActionPolicy, a dict, a path or a URL: every statement is scored by it. classify_columns:
            False, or a mapping of column names to data classes, in place of the list of names. flag_at, refuse_at:
            the scores, 0 to 100, from which on a statement is flagged and refused. action_history: points for the
            rules about the agent's history (`{"volume_spike": 25}`), or a `guarddb.risk.History` that several
            connections share.

        Raises:
            PolicyError: there is no policy, or it is not valid; no connection is made then.
        """
        return cls._guard_connect(super().connect, conninfo, row_factory=row_factory, **kwargs)

    @classmethod
    def _guard_connect(cls, connect: Any, *args: Any, **kwargs: Any) -> Self:
        """Connect by `connect`, which makes a connection of this class, and attach the policy."""
        attachment, arguments = split_arguments(kwargs)
        if sandbox.wants_branch(attachment):
            attachment, args, arguments = sandbox.branched(attachment, args, arguments)
        try:
            conn = _bound_to(cls, connect)(*args, **arguments)
            if not isinstance(conn, ConnectionMixin):
                # Somebody put a function in psycopg's place that does not pass on the class.
                conn.close()
                conn = _CONNECT[_psycopg.Connection].__get__(None, cls)(*args, **arguments)
        except BaseException:
            sandbox.not_used(attachment)
            raise
        conn._guard.discard_branch = sandbox.discarding(conn, attachment)
        try:
            with conn.lock:
                conn.wait(conn._guard_open_gen(attachment))
        except BaseException:
            conn.close()
            raise
        return cast("Self", conn)

    def close(self) -> None:
        """Close the connection, and throw its branch away if it has one."""
        super().close()
        if (discard := self._guard.discard_branch) is not None:
            discard()

    def wait(self, gen: PQGen[Any], interval: float = _WAIT_INTERVAL, timeout: float | None = None) -> Any:
        """As psycopg's. Every operation passes here, and with it every error of the server's."""
        session = self._guard
        if gen is session.guarded_gen:
            session.guarded_gen = None
        else:
            gen = taken_in(session, gen)
        policy = session.in_force
        try:
            if policy is not None and policy.asks:
                return self._guard_wait_asking(gen, interval, timeout)
            if timeout is None:
                return self._psycopgs_wait(gen, interval)
            return self._psycopgs_wait(gen, interval, timeout)
        except e.Error as ex:
            error = self._guard_error(ex)
        except BaseException as ex:
            session.waited = None
            session.span.end(error=ex)
            raise
        # Outside of the handler: there `error` would drag the server's own error along as its __context__.
        raise error

    def _guard_wait_asking(self, gen: PQGen[Any], interval: float, timeout: float | None) -> Any:
        asking = Asking(gen)
        more = () if timeout is None else (timeout,)
        while True:
            result = self._psycopgs_wait(asking.stretch_gen(), interval, *more)
            if (question := asking.question) is None:
                return result
            try:
                asking.answer(question.call())
            except BaseException as ex:
                asking.fail(ex)

    def notifies(self, **options: Any) -> Generator[Notify, None, None]:
        """As psycopg's; what the profile's `content_scan_mode` blocks is withheld."""
        with closing(super().notifies(**options)) as notifications:
            for each in notifications:
                yield heard(self._guard, each)

    def _guard_catalog(self) -> Catalog:
        """The catalog that statements are judged by now."""
        with self.lock:
            self.wait(self._guard_refresh_gen())
        assert self._guard.catalog is not None
        return self._guard.catalog


class AsyncConnection(ConnectionMixin[Row], _psycopg.AsyncConnection[Row]):
    """`psycopg.AsyncConnection` under a policy."""

    __module__ = "guarddb"

    if TYPE_CHECKING:
        # psycopg's own, said to give our cursors, which `cursor_factory` sees to. No code of ours is run.

        @overload
        def cursor(self, *, binary: bool = False) -> AsyncCursor[Row]: ...

        @overload
        def cursor(
            self, *, binary: bool = False, row_factory: AsyncRowFactory[CursorRow]
        ) -> AsyncCursor[CursorRow]: ...

        @overload
        def cursor(
            self,
            name: str,
            *,
            binary: bool = False,
            scrollable: bool | None = None,
            withhold: bool = False,
        ) -> AsyncServerCursor[Row]: ...

        @overload
        def cursor(
            self,
            name: str,
            *,
            binary: bool = False,
            row_factory: AsyncRowFactory[CursorRow],
            scrollable: bool | None = None,
            withhold: bool = False,
        ) -> AsyncServerCursor[CursorRow]: ...

        def cursor(
            self,
            name: str = "",
            *,
            binary: bool = False,
            row_factory: AsyncRowFactory[Any] | None = None,
            scrollable: bool | None = None,
            withhold: bool = False,
        ) -> AsyncCursor[Any] | AsyncServerCursor[Any]: ...

        async def execute(
            self,
            query: Query,
            params: Params | None = None,
            *,
            prepare: bool | None = None,
            binary: bool = False,
        ) -> AsyncCursor[Row]: ...

    @classmethod
    async def connect(
        cls, conninfo: str = "", *, row_factory: AsyncRowFactory[Row] | None = None, **kwargs: Any
    ) -> Self:
        """Connect as `Connection.connect` does."""
        return await cls._guard_connect(super().connect, conninfo, row_factory=row_factory, **kwargs)

    @classmethod
    async def _guard_connect(cls, connect: Any, *args: Any, **kwargs: Any) -> Self:
        """As `Connection._guard_connect`."""
        if waits(kwargs.get("policy")) or is_url(kwargs.get("action_policy")) or kwargs.get("budgets"):
            attachment, arguments = await asyncio.to_thread(split_arguments, kwargs)
        else:
            attachment, arguments = split_arguments(kwargs)
        attachment = replace(attachment, asynchronous=True)
        if sandbox.wants_branch(attachment):
            attachment, args, arguments = await asyncio.to_thread(
                sandbox.branched, attachment, args, arguments
            )
        try:
            conn = await _bound_to(cls, connect)(*args, **arguments)
            if not isinstance(conn, ConnectionMixin):
                await conn.close()
                conn = await _CONNECT[_psycopg.AsyncConnection].__get__(None, cls)(*args, **arguments)
        except BaseException:
            await asyncio.to_thread(sandbox.not_used, attachment)
            raise
        conn._guard.discard_branch = sandbox.discarding(conn, attachment)
        try:
            async with conn.lock:
                await conn.wait(conn._guard_open_gen(attachment))
        except BaseException:
            await conn.close()
            raise
        return cast("Self", conn)

    async def close(self) -> None:
        """As `Connection.close`."""
        session = self._guard
        if session.owed and session.in_force is not None:
            owed, session.owed = session.owed, 0
            with suppress(Exception):  # nobody can be told any more
                await asyncio.to_thread(session.in_force.budget.settle, owed)
        await super().close()
        if (discard := self._guard.discard_branch) is not None:
            await asyncio.to_thread(discard)

    async def wait(
        self, gen: PQGen[Any], interval: float = _WAIT_INTERVAL, timeout: float | None = None
    ) -> Any:
        """As psycopg's; see `Connection.wait`."""
        session = self._guard
        if gen is session.guarded_gen:
            session.guarded_gen = None
        else:
            gen = taken_in(session, gen)
        policy = session.in_force
        try:
            if policy is not None and policy.asks:
                return await self._guard_wait_asking(gen, interval, timeout)
            if timeout is None:
                return await self._psycopgs_wait(gen, interval)
            return await self._psycopgs_wait(gen, interval, timeout)
        except e.Error as ex:
            error = self._guard_error(ex)
        except BaseException as ex:
            session.waited = None
            session.span.end(error=ex)
            raise
        if session.recorder is not None:
            await session.recorder.written()
        raise error

    async def _guard_wait_asking(self, gen: PQGen[Any], interval: float, timeout: float | None) -> Any:
        asking = Asking(gen)
        more = () if timeout is None else (timeout,)
        while True:
            result = await self._psycopgs_wait(asking.stretch_gen(), interval, *more)
            if (question := asking.question) is None:
                return result
            try:
                asking.answer(await question.await_())
            except BaseException as ex:
                asking.fail(ex)

    async def notifies(self, **options: Any) -> AsyncGenerator[Notify, None]:
        """As `Connection.notifies`."""
        async with aclosing(super().notifies(**options)) as notifications:
            async for each in notifications:
                yield heard(self._guard, each)

    async def _guard_catalog(self) -> Catalog:
        """The catalog that statements are judged by now."""
        async with self.lock:
            await self.wait(self._guard_refresh_gen())
        assert self._guard.catalog is not None
        return self._guard.catalog


def connect(
    conninfo: str = "",
    *,
    policy: Any = None,
    agent: str | None = None,
    settings: Mapping[str, str] | None = None,
    approver: Any = None,
    budgets: str | BudgetStore | None = None,
    branches: Any = None,
    enforcement: Literal["enforce", "observe"] = "enforce",
    on_decision: OnDecision | None = None,
    row_factory: RowFactory[Row] | None = None,
    **kwargs: Any,
) -> Connection[Row]:
    """Connect under a policy; see `Connection.connect`. What else is given is for `psycopg.connect`."""
    # Looked up when called: a tracer that patches Connection.connect after the import is then not passed by.
    return Connection.connect(
        conninfo,
        row_factory=row_factory,
        policy=policy,
        agent=agent,
        settings=settings,
        approver=approver,
        budgets=budgets,
        branches=branches,
        enforcement=enforcement,
        on_decision=on_decision,
        **kwargs,
    )
