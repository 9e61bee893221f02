"""What stands in a masked column's place in a view of the wall."""

from __future__ import annotations

from guarddb.sql.names import quote
from guarddb.vocabulary import MaskKind
from guarddb.wall.database import Column

REDACTED = "[redacted]"
#: Types whose cast to text is not what PostgreSQL prints: true/t, padded char(n), 1.2.3.4/32.
_CAST_DIFFERS = frozenset(("bool", "bpchar", "inet", "cidr"))
#: Types whose text depends on no setting of the session.
_SETTLED = frozenset(
    ("bool", "int2", "int4", "int8", "numeric", "text", "varchar", "bpchar", "name", "uuid", "oid", "inet", "cidr",
     "macaddr", "macaddr8", "bit", "varbit", "json", "jsonb", "xid", "tid")
)  # fmt: skip


def needs_value(kind: MaskKind, column: Column, *, redact_nulls: bool, keyed: bool) -> bool:
    """Whether the mask looks at the column at all, so that the view's owner has to be able to."""
    if kind == "redact":
        return column.category == "S" and not redact_nulls and not column.not_null
    return kind == "hash" and column.type_name != "bytea" and not keyed


def hash_function(kind: MaskKind, column: Column, *, keyed: bool) -> str | None:
    """Name of the function that hashes this type with the settings that its text depends on held fast, if it needs one."""
    if kind != "hash" or keyed or column.type_name == "bytea" or column.type_name in _SETTLED:
        return None
    if column.category == "E":
        return None
    return "hash " + column.type.replace('"', "")


def mask_expression(
    kind: MaskKind, column: Column, *, redact_nulls: bool, keyed: bool, hashes: str | None
) -> str:
    """The SQL of a masked column. `hashes`: the function that makes its hash, as SQL, where one does."""
    name = quote(column.name)
    if kind == "redact" and column.category == "S":
        constant = f"'{REDACTED}'::{column.type}"
        if redact_nulls or column.not_null:
            return constant
        return f"CASE WHEN {name} IS NOT NULL THEN {constant} END"
    if kind == "hash" and column.type_name != "bytea":
        if keyed:
            return "NULL::text"
        return f"{hashes}({name})" if hashes is not None else hashed(name, column.type_name)
    return f"NULL::{column.type}"


def hashed(value: str, type_name: str) -> str:
    """SHA-256 of the value as PostgreSQL prints it, in hex."""
    if type_name in _CAST_DIFFERS:
        text = f"CASE WHEN {value} IS NOT NULL THEN format('%s', {value}) END"
    else:
        text = f"({value})::text"
    return f"encode(sha256(convert_to({text}, 'UTF8')), 'hex')"
