"""What a role may do in a database, read from it, and what of that a wall does not give."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources

import msgspec

from guarddb.sql.names import literal, quote

_QUERY = (resources.files("guarddb.wall") / "rights.sql").read_text()

#: Kinds of objects on which GRANT and REVOKE work.
_ON = {
    "table": "TABLE",
    "sequence": "SEQUENCE",
    "schema": "SCHEMA",
    "database": "DATABASE",
    "function": "ROUTINE",
    "foreign server": "FOREIGN SERVER",
    "foreign-data wrapper": "FOREIGN DATA WRAPPER",
}


_IN_SCHEMAS = frozenset(("table", "sequence", "schema", "function"))
#: A name as format('%I') writes it.
_NAME = re.compile(r'"((?:[^"]|"")*)"|([^".(]+)')


def plain_names(qualified: str) -> tuple[str, str]:
    """The schema and the name in a qualified name, or at the beginning of a function's signature.

    >>> plain_names('public."a ""b"".c(d)"(e integer)')
    ('public', 'a "b".c(d)')
    """
    schema, name, *_ = _plain(qualified)
    return schema, name


def _plain(qualified: str) -> Iterator[str]:
    return (found[2] or found[1].replace('""', '"') for found in _NAME.finditer(qualified))


class Right(msgspec.Struct, frozen=True):
    """One right. `via`: `direct`, `PUBLIC`, or the role that the agent's role is a member of."""

    kind: str
    object: str
    privilege: str
    via: str
    columns: tuple[str, ...] | None = None
    #: whoever asked can take it away
    revocable: bool = False
    definer: bool = False
    #: a function that was not everybody's when the database, or its extension, was made: it may do more than its caller
    closed: bool = False
    #: an extension gave it to everybody, on a relation of its own
    brought: bool = False

    @property
    def on_objects(self) -> bool:
        return self.kind in _ON

    @property
    def names(self) -> tuple[str, str]:
        """The schema and the name of what is in a schema."""
        return plain_names(self.object)

    @property
    def schema(self) -> str | None:
        """The schema that it is about, or about something in."""
        return next(_plain(self.object)) if self.kind in _IN_SCHEMAS else None

    @property
    def granted(self) -> str:
        """`SELECT (a, b) ON TABLE public.t`"""
        columns = f" ({', '.join(quote(c) for c in self.columns)})" if self.columns else ""
        return f"{self.privilege}{columns} ON {_ON[self.kind]} {self.object}"

    @property
    def shown(self) -> str:
        columns = f" ({', '.join(self.columns)})" if self.columns else ""
        return f"{self.privilege}{columns}"


class Rights(msgspec.Struct, frozen=True):
    """What RIGHTS query returned for one role and the schema of one wall."""

    exists: bool
    may_alter: bool | None
    settings: tuple[str, ...]
    rights: tuple[Right, ...]
    comment: str | None
    usage: bool | None
    views: tuple[str, ...]
    policies: tuple[str, ...]

    @classmethod
    def from_document(cls, document: str | bytes) -> Rights:
        """What `rights_query` returned.

        Raises:
            ValueError: the text is not such a document.
        """
        try:
            return msgspec.json.decode(document, type=cls)
        except msgspec.DecodeError as ex:
            raise ValueError(f"this is not what the query of rights returns: {ex}") from None


def rights_query(agent: str, schema: str, policy: str) -> str:
    """One row, one text. Run it with search_path = pg_catalog."""
    query = "\n".join(line for line in _QUERY.splitlines() if not line.startswith("--"))
    return query % {"agent": literal(agent), "schema": literal(schema), "policy": literal(policy)}
