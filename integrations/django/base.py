"""The database backend: Django's own for PostgreSQL, over guarded connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import guarddb

try:
    from django.db.backends.postgresql import base
    from django.db.backends.postgresql.psycopg_any import is_psycopg3
except ImportError as ex:
    raise ImportError("guarddb.integrations.django needs Django: pip install 'guarddb[django]'") from ex

from guarddb.integrations.django.request_settings import of_the_request

if TYPE_CHECKING:
    from collections.abc import Mapping

if not is_psycopg3:  # pragma: no cover (guarddb brings psycopg 3, so Django finds it)
    raise ImportError("guarddb guards psycopg 3, and Django has found psycopg2 instead: pip install psycopg")


class DatabaseWrapper(base.DatabaseWrapper):  # type: ignore[misc]
    """`ENGINE = "guarddb.integrations.django"`."""

    #: guarddb has psycopg's names, so errors are mapped as Django's own backend does.
    Database = cast("Any", guarddb)

    #: What `connect(settings=…)` was given, before any request.
    _own_settings: Mapping[str, str] | None = None

    def get_connection_params(self) -> dict[str, Any]:
        """Django's; OPTIONS has guarddb's arguments among psycopg's.

        The time zone goes along with the connection, so that a policy need not admit SET for it.
        """
        params: dict[str, Any] = super().get_connection_params()
        if self.timezone_name:
            zone = self.timezone_name.replace("\\", "\\\\").replace(" ", "\\ ")
            params["options"] = f"{params.get('options') or ''} -c TimeZone={zone}".strip()
        return params

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

    def _cursor(self, name: str | None = None) -> Any:
        # Here passes every query, of whichever thread or task: the request's settings come along in its context.
        self.ensure_connection()
        self._give_settings()
        return super()._cursor(name)

    def _give_settings(self) -> None:
        connection, own = self.connection, self._own_settings
        if connection is None or own is None:
            return
        request = of_the_request()
        connection.settings = {**own, **request} if request else own

    def _close(self) -> None:
        # Back into a pool it goes as it came out.
        if self.connection is not None and self._own_settings is not None and not self.connection.closed:
            self.connection.settings = self._own_settings
        super()._close()
