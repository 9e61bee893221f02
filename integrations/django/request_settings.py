"""The settings that row filters read, for the request that is being served."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_settings: ContextVar[Mapping[str, str] | None] = ContextVar("guarddb_settings", default=None)


def of_the_request() -> Mapping[str, str] | None:
    """The values of now; None outside of `settings_for`."""
    return _settings.get()


@contextmanager
def settings_for(values: Mapping[str, str]) -> Iterator[None]:
    """Queries in the block are run with these settings, over those of the connection's OPTIONS.

    For tasks and commands that serve somebody without a request:

        with settings_for({"app.tenant": "42"}):
            Order.objects.count()
    """
    token = _settings.set(dict(values))
    try:
        yield
    finally:
        _settings.reset(token)
        _own_again()


def _own_again() -> None:
    """Whoever uses a connection of this thread next, and goes around Django's cursors, must not have somebody else's."""
    from django.db import connections

    for connection in connections.all(initialized_only=True):
        give_settings = getattr(connection, "give_settings", None)
        if give_settings is not None:
            give_settings()
