"""Whether a value can equal one row of a unique key at the most.

A key keeps its own values apart by the equality of its own type. Compared with a value of another type it is converted, and then
several of its values may be the same: of a bigint as a float, of a varchar as a char(n).

>>> tells_apart("pg_catalog.int8", "pg_catalog.int4"), tells_apart("pg_catalog.int8", "pg_catalog.float8")
(True, False)
"""

from __future__ import annotations

from guarddb.sql.names import type_name
from guarddb.tree import Node

_PREFIX = "pg_catalog."
_INTEGERS = frozenset(f"{_PREFIX}{name}" for name in ("int2", "int4", "int8", "oid"))
_EXACT = _INTEGERS | {f"{_PREFIX}numeric"}
_TEXTS = frozenset(f"{_PREFIX}{name}" for name in ("text", "varchar", "name"))
_UNKNOWN = f"{_PREFIX}unknown"
#: Types that are converted to that of a parameter which some type of parameter does not tell apart.
_CONVERTED = frozenset(f"{_PREFIX}{name}" for name in ("int8", "numeric", "varchar", "timestamp"))


def tells_apart(key: str, other: str | None) -> bool:
    """Whether values of a key's type stay apart when they are compared with a value of another type, or of the same."""
    return (
        other in (key, _UNKNOWN) or (key in _EXACT and other in _EXACT) or (key in _TEXTS and other in _TEXTS)
    )


def constant_tells_apart(key: str, node: Node) -> bool:
    """The same of a constant or a parameter, with a cast or without; of anything else it is not known."""
    cast = node.get("TypeCast")
    if cast is not None:
        found = type_name(cast["typeName"])
        while "TypeCast" in node:
            node = node["TypeCast"]["arg"]
        if (
            found is None
            or found[0] not in (None, "pg_catalog")
            or not ("A_Const" in node or "ParamRef" in node)
        ):
            return False
        return tells_apart(key, f"{_PREFIX}{found[1]}")
    if "ParamRef" in node:
        return key.startswith(_PREFIX) and key not in _CONVERTED
    return "A_Const" in node
