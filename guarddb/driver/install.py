"""`guarddb.install()`: psycopg itself becomes guarded, for code one cannot edit.

`psycopg.connect`, `psycopg.Connection.connect` and `psycopg.AsyncConnection.connect` are replaced; libraries,
ORMs, pools and notebooks that call any of them get guarded connections. Other instrumentation (OpenTelemetry,
ddtrace) may wrap the same names before or after: what is found is called, and a wrapper that was put over
ours stays when `uninstall()` only silences it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Any

import psycopg as _psycopg
from psycopg import crdb

from guarddb.driver.arguments import ARGUMENTS, Attachment
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
        for owner, name, make in _PLACES:
            # Again where somebody else put back what stood there before: ours, twice, is still once.
            if not _leads_to_ours(vars(owner)[name]):
                before = vars(owner)[name]
                ours = make(before)
                setattr(owner, name, ours)
                _replaced.append((owner, name, before, ours))


def uninstall() -> None:
    """Connections made from now on are psycopg's own again. Those that exist stay guarded."""
    global _defaults
    with _lock:
        _defaults = None
        # Where somebody wrapped ours since, taking ours out would take theirs out too: it stays, and does
        # nothing.
        for owner, name, before, ours in reversed(_replaced):
            if vars(owner)[name] is ours:
                setattr(owner, name, before)
        _replaced[:] = [each for each in _replaced if _leads_to_ours(vars(each[0])[each[1]])]


def _leads_to_ours(found: Any) -> bool:
    """Whether it is one of ours, or a wrapper around one that says so (functools, wrapt)."""
    for _ in range(32):
        if "guarddb" in getattr(found, "__dict__", ()):
            return True
        inner = getattr(found, "__wrapped__", None)
        if inner is None:
            inner = getattr(found, "__func__", None)
        if inner is None:
            return False
        found = inner
    return False


def _class_connect(before: Any) -> Any:
    def connect(cls: type[Any], *args: Any, **kwargs: Any) -> Any:
        defaults = _defaults
        if defaults is None or issubclass(cls, ConnectionMixin):
            # Not ours to guard, or the guarded connect() on its way down to psycopg's.
            return _of(before, cls)(*args, **kwargs)
        # What was called is psycopg's own place, perhaps by the connect() of an application's subclass: it is
        # not called again from here.
        guarded = _guarded_class(cls)
        return guarded._guard_connect(_of(before, guarded), *args, **{**defaults, **kwargs})

    connect.__doc__ = _psycopg.Connection.connect.__doc__
    _leave_the_guard(connect, before, _class_connect)
    return classmethod(connect)


def _module_connect(before: Any, cls: type[Any] = _psycopg.Connection) -> Any:
    # Not looked up when it is called: a tracer that wraps this name and that one would see every connection
    # twice.
    of_class = vars(_psycopg.Connection)["connect"].__get__(None, cls)

    def connect(*args: Any, **kwargs: Any) -> Any:
        return of_class(*args, **kwargs)

    connect.__doc__ = before.__doc__
    _leave_the_guard(connect, before, partial(_module_connect, cls=cls))
    return connect


def _of(found: Any, cls: type[Any]) -> Any:
    """What stands in a class, as `cls.connect` would find it."""
    # The type's own: a bound method lends its function's __get__.
    return type(found).__get__(found, None, cls) if hasattr(type(found), "__get__") else found


def _leave_the_guard(ours: Any, before: Any, make: Callable[[Any], Any]) -> None:
    """Some tracers (ddtrace) take themselves out by putting in place what `__wrapped__` says: the guard, without them."""
    ours.guarddb = True
    inner = None if isinstance(before, classmethod) else getattr(before, "__wrapped__", None)
    if inner is not None:
        ours.__wrapped__ = make(inner)


#: The class before the module, whose place calls it.
_PLACES: tuple[tuple[Any, str, Callable[[Any], Any]], ...] = (
    (_psycopg.Connection, "connect", _class_connect),
    (_psycopg.AsyncConnection, "connect", _class_connect),
    (_psycopg, "connect", _module_connect),
    (crdb, "connect", partial(_module_connect, cls=crdb.CrdbConnection)),
)


def _guarded_class(cls: type[Any]) -> type[Any]:
    found = _composed.get(cls)
    if found is None:
        base = AsyncConnection if issubclass(cls, _psycopg.AsyncConnection) else Connection
        # The application's own subclass keeps its methods; the guard's hooks come before them.
        found = _composed[cls] = type(cls.__name__, (base, cls), {"__module__": cls.__module__})
    return found
