"""The catalog: an immutable snapshot of what PostgreSQL knows about relations, functions, operators and casts.

A name is judged by what it resolves to, so the resolver needs what the server has. The snapshot holds user objects only
(OID >= 16384, and every extension's); the built-in ones come from the facts in `functions.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

#: pg_class.relkind: table, partitioned table, view, materialised view, foreign table, sequence, composite type.
RelationKind: TypeAlias = Literal["r", "p", "v", "m", "f", "S", "c"]


@dataclass(frozen=True, slots=True)
class Attribute:
    """A column. `type` is the type's schema-qualified name without typmod (`pg_catalog.varchar`), `base_type` the same with
    domains followed down to their base, `category` PostgreSQL's pg_type.typcategory of the base type (`S` = character)."""

    name: str
    number: int
    type: str
    base_type: str
    category: str
    #: comparing it can neither raise nor run user code: a built-in scalar (or enum) with a deterministic collation
    plain: bool = False
    not_null: bool = False
    generated: bool = False


@dataclass(frozen=True, slots=True)
class Relation:
    """A table, view, materialised view, foreign table or sequence."""

    oid: int
    schema: str
    name: str
    kind: RelationKind
    attributes: tuple[Attribute, ...] = ()
    #: OIDs of the relations it inherits from or is a partition of, nearest first, transitively
    ancestors: tuple[int, ...] = ()
    #: OIDs of inheritance children and partitions, transitively
    descendants: tuple[int, ...] = ()
    #: the query of a view or materialised view, every name in it schema-qualified (pg_get_viewdef under search_path = '')
    definition: str | None = None
    primary_key: tuple[str, ...] = ()
    #: has user triggers that may change a row before it is written
    has_row_triggers: bool = False
    #: has rewrite rules other than a view's own _RETURN
    has_rules: bool = False
    #: planner's row estimate (pg_class.reltuples), -1 unknown
    estimated_rows: float = -1
    #: name of its row type's owner extension, when an extension owns the relation
    extension: str | None = None


@dataclass(frozen=True, slots=True)
class Function:
    """A function, procedure, aggregate or window function outside pg_catalog."""

    schema: str
    name: str
    #: argument types, schema-qualified names
    arguments: tuple[str, ...]
    returns: str
    #: prokind: f function, p procedure, a aggregate, w window
    kind: Literal["f", "p", "a", "w"]
    #: provolatile: i immutable, s stable, v volatile
    volatility: Literal["i", "s", "v"]
    language: str
    extension: str | None = None
    returns_set: bool = False
    #: fewest arguments a call may have (defaults), and whether the last one is VARIADIC
    required_arguments: int = 0
    variadic: bool = False
    #: names of the output columns when it returns a composite by OUT arguments or TABLE(...)
    output_names: tuple[str, ...] = ()

    @property
    def qualified_name(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def is_trusted_extension_code(self) -> bool:
        """A non-volatile C function that an installed extension brought: pgvector's distance, pg_trgm's similarity."""
        return self.extension is not None and self.language == "c" and self.volatility != "v"


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator outside pg_catalog and the function behind it (`schema.name`)."""

    schema: str
    name: str
    left: str | None
    right: str | None
    function: str


@dataclass(frozen=True, slots=True)
class Cast:
    """A cast that calls a function outside pg_catalog (`schema.name`); context: e explicit, a assignment, i implicit."""

    source: str
    target: str
    function: str
    context: Literal["e", "a", "i"]


@dataclass(frozen=True, slots=True)
class UserType:
    """A type outside pg_catalog: b base, c composite, d domain, e enum, r range, m multirange."""

    schema: str
    name: str
    kind: str
    base_type: str
    category: str
    #: functions outside pg_catalog that a domain's CHECK constraints call
    check_functions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Catalog:
    """One moment of a database's catalog, with the names the session resolves by.

    Attributes:
        version: changes when anything in the snapshot changes; part of every plan's cache key.
        server_version: as libpq gives it, 180004 for 18.4.
        search_path: the schemas a bare name is looked up in, in order, as `current_schemas(true)` gives them (the implicit
            pg_catalog included, the temporary schema not).
        temp_schema: the session's own temporary schema (`pg_temp_3`), or None.
    """

    version: str
    server_version: int
    search_path: tuple[str, ...] = ("pg_catalog", "public")
    temp_schema: str | None = None
    relations: Mapping[int, Relation] = field(default_factory=dict)
    functions: tuple[Function, ...] = ()
    operators: tuple[Operator, ...] = ()
    casts: tuple[Cast, ...] = ()
    types: tuple[UserType, ...] = ()
