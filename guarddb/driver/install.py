"""`guarddb.install()`: psycopg itself becomes guarded, for code one cannot edit.

`psycopg.connect`, `psycopg.Connection.connect` and `psycopg.AsyncConnection.connect` are replaced; libraries,
ORMs, pools and notebooks that call any of them get guarded connections. Other instrumentation (OpenTelemetry,
ddtrace) may wrap the same names before or after: what is found is called, and a wrapper that was put over
ours stays when `uninstall()` only silences it.
"""

from __future__ import annotations

import threading
from types import MappingProxyType
from typing import Any

import psycopg as _psycopg

from guarddb.driver.attachment import ARGUMENTS, Attachment
from guarddb.driver.connection import AsyncConnection, Connection, ConnectionMixin

_lock = threading.Lock()
_defaults: MappingProxyType[str, Any] | None = None
_composed: dict[type[Any], type[Any]] = {
    _psycopg.Connection: Connection,
    _psycopg.AsyncConnection: AsyncConnection,
}
#: what stood in each place, and what we put there
_replaced: list[tuple[Any, str, Any, Any]] = []


def install(**arguments: Any) -> None:
    """Guard every connection made from now on through psycopg's own names.

    Takes guarddb's arguments of `connect()` (policy=, agent=, settings=, budgets=, enforcement=,
    on_decision=); a connection may still pass its own. Called again, it replaces the arguments.

    Raises:
        TypeError: an argument is not one of guarddb's.
        PolicyError: there is no policy, or it is not valid; nothing is installed then.
    """
    unknown = next((name for name in arguments if name not in ARGUMENTS), None)
    if unknown is not None:
        raise TypeError(f"install() takes guarddb's own arguments of connect() only, not {unknown!r}")
    attachment = Attachment.of(**arguments)
    global _defaults
    with _lock:
        # One source for all connections: a policy file is followed once, not once for each of them.
        _defaults = MappingProxyType({**arguments, "policy": attachment.source})
        if not _replaced:
            _replace(_psycopg.Connection, "connect", _class_connect)
            _replace(_psycopg.AsyncConnection, "connect", _class_connect)
            _replace(_psycopg, "connect", _module_connect)


def uninstall() -> None:
    """Connections made from now on are psycopg's own again. Those that exist stay guarded."""
    global _defaults
    with _lock:
        _defaults = None
        # Where somebody wrapped ours since, taking ours out would take theirs out too: it stays, and does
        # nothing.
        if all(vars(owner).get(name) is ours for owner, name, _, ours in _replaced):
            for owner, name, before, _ in _replaced:
                setattr(owner, name, before)
            _replaced.clear()


def _replace(owner: Any, name: str, make: Any) -> None:
    before = vars(owner)[name]
    ours = make(owner, before)
    setattr(owner, name, ours)
    _replaced.append((owner, name, before, ours))


def _class_connect(owner: type[Any], before: Any) -> Any:
    def connect(cls: type[Any], *args: Any, **kwargs: Any) -> Any:
        defaults = _defaults
        if defaults is None or issubclass(cls, ConnectionMixin):
            # Not ours to guard, or the guarded connect() on its way down to psycopg's.
            return before.__get__(None, cls)(*args, **kwargs)
        return _guarded_class(cls).connect(*args, **{**defaults, **kwargs})

    connect.__doc__ = owner.connect.__doc__
    return classmethod(connect)


def _module_connect(owner: Any, before: Any) -> Any:
    def connect(*args: Any, **kwargs: Any) -> Any:
        return _psycopg.Connection.connect(*args, **kwargs)

    connect.__doc__ = before.__doc__
    return connect


def _guarded_class(cls: type[Any]) -> type[Any]:
    found = _composed.get(cls)
    if found is None:
        base = AsyncConnection if issubclass(cls, _psycopg.AsyncConnection) else Connection
        # The application's own subclass keeps its methods; the guard's hooks come before them.
        found = _composed[cls] = type(cls.__name__, (base, cls), {"__module__": cls.__module__})
    return found
