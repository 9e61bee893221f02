"""The database backend: Django's own for PostgreSQL, over guarded connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from psycopg.errors import error_from_result
from psycopg.pq import Escaping, ExecStatus

import guarddb

try:
    from django.db.backends.postgresql import base
    from django.db.backends.postgresql.psycopg_any import is_psycopg3
except ImportError as ex:
    raise ImportError("guarddb.integrations.django needs Django: pip install 'guarddb[django]'") from ex

from guarddb.integrations.django.introspection import DatabaseIntrospection
from guarddb.integrations.django.request_settings import of_the_request

if TYPE_CHECKING:
    from collections.abc import Mapping

if not is_psycopg3:  # pragma: no cover (guarddb brings psycopg 3, so Django finds it)
    raise ImportError("guarddb guards psycopg 3, and Django has found psycopg2 instead: pip install psycopg")


def _following(cursor: Any) -> Any:
    """A cursor wrapper of Django's that follows the request: whoever made the cursor may not be who uses it."""
    cls = type(cursor)
    if (found := _classes.get(cls)) is None:

        def __getattr__(self: Any, name: str) -> Any:
            self.db.give_settings()
            return cls.__getattr__(self, name)

        def _execute(self: Any, *args: Any, **options: Any) -> Any:
            self.db.give_settings()
            return cls._execute(self, *args, **options)

        def _executemany(self: Any, *args: Any, **options: Any) -> Any:
            self.db.give_settings()
            return cls._executemany(self, *args, **options)

        own = {"__getattr__": __getattr__, "_execute": _execute, "_executemany": _executemany}
        found = _classes[cls] = type(cls.__name__, (cls,), {**own, "__module__": cls.__module__})
    cursor.__class__ = found
    return cursor


_classes: dict[type[Any], type[Any]] = {}


class DatabaseWrapper(base.DatabaseWrapper):  # type: ignore[misc]
    """`ENGINE = "guarddb.integrations.django"`."""

    #: guarddb has psycopg's names, so errors are mapped as Django's own backend does.
    Database = cast("Any", guarddb)
    introspection_class = DatabaseIntrospection

    #: What `connect(settings=…)` was given, before any request.
    _own_settings: Mapping[str, str] | None = None

    def _configure_timezone(self, connection: Any) -> bool:
        """Django's time zone, set by the application and not by the agent: no policy need admit SET, no budget counts it."""
        zone: str | None = self.timezone_name
        if not zone or connection.info.parameter_status("TimeZone") == zone:
            return False
        literal = Escaping(connection.pgconn).escape_literal(zone.encode())
        result = connection.pgconn.exec_(b"SET TimeZone TO " + literal)
        if result.status != ExecStatus.COMMAND_OK:
            raise error_from_result(result)
        return True

    @property
    def pool(self) -> Any:
        """Django's pool, of guarded connections."""
        options = self.settings_dict["OPTIONS"]
        pool = options.get("pool")
        if pool and (pool is True or "connection_class" not in pool):
            options["pool"] = {**({} if pool is True else pool), "connection_class": guarddb.Connection}
        return super().pool

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """A guarded connection."""
        connection = super().get_new_connection(conn_params)
        self._own_settings = dict(connection.settings)
        return connection

    def make_cursor(self, cursor: Any) -> Any:
        """Django's, whose statements run with the settings of the request that runs them."""
        return _following(super().make_cursor(cursor))

    def make_debug_cursor(self, cursor: Any) -> Any:
        """The same, with a log of queries."""
        return _following(super().make_debug_cursor(cursor))

    def give_settings(self) -> None:
        """Put the settings of the request that is being served in force, or the connection's own."""
        connection, own = self.connection, self._own_settings
        if connection is None or own is None or connection.closed:
            return
        request = of_the_request()
        wanted = {**own, **request} if request else own
        if connection.settings != wanted:
            connection.settings = wanted

    def _close(self) -> None:
        # Back into a pool it goes as it came out.
        if self.connection is not None and self._own_settings is not None and not self.connection.closed:
            self.connection.settings = self._own_settings
        super()._close()
