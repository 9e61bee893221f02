"""guarddb below SQLAlchemy: a plugin for `create_engine`, a hook for engines that exist, and a dialect.

    create_engine("postgresql+psycopg://…", plugins=["guarddb"], guarddb_policy="sales.yaml")
    create_engine("postgresql+psycopg://…?plugin=guarddb&guarddb_policy=sales.yaml")
    create_engine("postgresql+guarddb://…?guarddb_policy=sales.yaml")
    guarddb.integrations.sqlalchemy.guard(engine, policy="sales.yaml")

All of them take the arguments of `guarddb.connect()` with `guarddb_` in front (the hook without), open guarded connections
from the first one on, the dialect's own look at the server included, and work with `create_async_engine` alike. A refusal
arrives as SQLAlchemy's error with guarddb's behind it: `ex.orig.decision`.

What a row filter reads may change from request to request on one engine:

    conn = engine.connect().execution_options(guarddb_settings={"app.tenant": "42"})

The settings hold for the statements that are executed with the option, and a connection is never used with those of
somebody else: without the option the engine's own are back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import guarddb

try:
    from sqlalchemy import event
    from sqlalchemy.dialects.postgresql.psycopg import (
        PGDialect_psycopg,
        PGDialectAsync_psycopg,
        PsycopgAdaptDBAPI,
    )
    from sqlalchemy.engine import CreateEnginePlugin, Engine
except ImportError as ex:  # pragma: no cover (the tests have it)
    raise ImportError(
        "guarddb.integrations.sqlalchemy needs SQLAlchemy: pip install 'guarddb[sqlalchemy]'"
    ) from ex

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

    from sqlalchemy.engine import URL, Connection
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["GuarddbDialect", "GuarddbDialectAsync", "GuarddbPlugin", "guard"]

PREFIX = "guarddb_"
#: The execution option with the values that row filters read.
SETTINGS_OPTION = "guarddb_settings"
#: Arguments that stand in a URL's query, where everything is text.
_IN_URL = ("policy", "agent", "budgets", "enforcement", "action_policy")


def guard(engine: Engine | AsyncEngine, **arguments: Any) -> Engine | AsyncEngine:
    """Guard every connection that an engine opens from now on.

    Args:
        engine: of `create_engine` or `create_async_engine`, with psycopg 3 as its driver.
        arguments: `policy=` and the other arguments of `guarddb.connect()`.

    Returns:
        The same engine. Connections that its pool has already are closed, so that none is left unguarded.

    Raises:
        guarddb.PolicyError: the policy or another argument is not valid.
        ValueError: the engine's driver is not psycopg 3.
        TypeError: it is no engine.
    """
    target = engine if isinstance(engine, Engine) else getattr(engine, "sync_engine", None)
    if not isinstance(target, Engine):
        raise TypeError(
            f"guard() takes an engine of create_engine or create_async_engine, not {type(engine).__name__}"
        )
    _listen(target, arguments)
    # Closing an asynchronous connection takes an event loop; the pool lets go of them here.
    target.dispose(close=not target.dialect.is_async)
    return engine


def _listen(engine: Engine, arguments: Mapping[str, Any]) -> None:
    if engine.dialect.driver not in ("psycopg", "psycopg_async", "guarddb"):
        raise ValueError(
            f"guarddb guards psycopg 3, and this engine's driver is {engine.dialect.driver}: "
            "use postgresql+psycopg:// in the engine's URL"
        )
    checked(arguments)

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, record: Any, cargs: Any, cparams: dict[str, Any]) -> Any:
        if dialect.is_async:
            # The adapter calls it and wraps what comes back.
            cparams["async_creator_fn"] = guarddb.AsyncConnection.connect
            cparams.update(arguments)
            return None
        cparams.update(arguments)
        return guarddb.connect(*cargs, **cparams)

    _follow_settings(engine)


def _follow_settings(engine: Engine) -> None:
    """Before each statement the connection gets the settings of its execution options, or the engine's own."""

    @event.listens_for(engine, "before_cursor_execute")
    def give_settings(
        conn: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> None:
        driver = conn.connection.driver_connection
        if not isinstance(driver, guarddb.Connection | guarddb.AsyncConnection):
            return
        options = context.execution_options if context is not None else conn.get_execution_options()
        info = conn.connection.info
        wanted = options.get(SETTINGS_OPTION)
        if wanted is None and SETTINGS_OPTION not in info:
            return
        own = info.setdefault(SETTINGS_OPTION, driver.settings)
        driver.settings = own if wanted is None else {**own, **wanted}

    def one_span(cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        # The span of SQLAlchemy's instrumentation is made by then, and never the current one.
        span = getattr(context, "_otel_span", None)
        if span is not None:
            driver = context.root_connection.connection.driver_connection
            if isinstance(driver, guarddb.Connection | guarddb.AsyncConnection):
                driver.traced_by(span)

    event.listen(engine, "do_execute", one_span)
    event.listen(engine, "do_executemany", one_span)

    def between_users(record: Any, *, now: bool) -> None:
        driver = record.driver_connection
        if isinstance(driver, guarddb.Connection | guarddb.AsyncConnection):
            driver.between_users = now

    # The application's own listener may clean the session, whenever it was added.
    event.listen(engine, "reset", lambda _, record, state: between_users(record, now=True), insert=True)
    event.listen(engine, "checkout", lambda _, record, fairy: between_users(record, now=False), insert=True)

    @event.listens_for(engine, "checkin")
    def own_again(dbapi_connection: Any, record: Any) -> None:
        # Whoever gets it from the pool next and goes around SQLAlchemy must not have somebody else's.
        own = record.info.get(SETTINGS_OPTION)
        driver = record.driver_connection
        if own is not None and driver is not None and not driver.closed:
            driver.settings = own


def checked(arguments: Mapping[str, Any]) -> None:
    """Raise now what every connection would raise later."""
    policy = arguments.get("policy")
    if policy is not None and not hasattr(policy, "current") and "://" not in str(policy):
        guarddb.load_policy(policy)


class GuarddbPlugin(CreateEnginePlugin):
    """`create_engine(url, plugins=["guarddb"], guarddb_policy=…)`, or `?plugin=guarddb&guarddb_policy=…` in the URL."""

    def __init__(self, url: URL, kwargs: MutableMapping[str, Any]) -> None:
        self.url = url
        self.arguments = _from_query(url)
        for name in [name for name in kwargs if name.startswith(PREFIX)]:
            self.arguments[name.removeprefix(PREFIX)] = kwargs.pop(name)

    def update_url(self, url: URL) -> URL:
        """The URL without what is guarddb's."""
        return _without_query(url)

    def engine_created(self, engine: Engine) -> None:
        """Guard it before it has any connection."""
        _listen(engine, self.arguments)


def _from_query(url: URL) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in _IN_URL:
        value = url.query.get(PREFIX + name)
        if value is not None:
            found[name] = value if isinstance(value, str) else value[-1]
    return found


def _without_query(url: URL) -> URL:
    return url.difference_update_query([PREFIX + name for name in _IN_URL])


class GuarddbDialect(PGDialect_psycopg):
    """`postgresql+guarddb://user@host/db?guarddb_policy=sales.yaml`; without the option GUARDDB_POLICY names the policy."""

    driver = "guarddb"
    supports_statement_cache = True

    @classmethod
    def import_dbapi(cls) -> Any:
        """guarddb itself stands in for the driver."""
        return guarddb

    @classmethod
    def get_async_dialect_cls(cls, url: URL) -> type[Any]:
        """For `create_async_engine`."""
        return GuarddbDialectAsync

    def create_connect_args(self, url: URL) -> Any:
        """Those of psycopg, and guarddb's from the URL."""
        cargs, cparams = super().create_connect_args(_without_query(url))  # type: ignore[no-untyped-call]
        cparams.update(_from_query(url))
        return cargs, cparams

    @classmethod
    def engine_created(cls, engine: Engine) -> None:
        """Per-request settings work here as with the plugin."""
        _follow_settings(engine)


class GuarddbDialectAsync(GuarddbDialect, PGDialectAsync_psycopg):
    """The same below `create_async_engine`."""

    is_async = True
    supports_statement_cache = True

    @classmethod
    def import_dbapi(cls) -> Any:
        """guarddb behind SQLAlchemy's adapter."""
        from psycopg.pq import ExecStatus

        return PsycopgAdaptDBAPI(guarddb, ExecStatus)
