"""The catalog: an immutable snapshot of what PostgreSQL knows about relations, functions, operators and
casts.

A name is judged by what it resolves to, so the resolver needs what the server has. The snapshot holds user
objects only (OID >= 16384, and every extension's); the built-in ones come from the facts in `functions.py`.

The server writes the whole snapshot as one JSON document (`catalog.sql`), which is decoded straight
into these classes and is also the format of `to_json`. The session's part, what a bare name means to it, is
apart: sessions share a snapshot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec

from guarddb.facts.functions import SystemRelation, builtin_type, system_relation

_queries = resources.files("guarddb.sql")

#: One row, one text: changes whenever anything in the snapshot's input does. A millisecond or two; run it
#: prepared.
FINGERPRINT_QUERY = (_queries / "fingerprint.sql").read_text()

#: Sets what CATALOG_QUERY needs until the transaction or savepoint is rolled back; run it just before.
CATALOG_SETTINGS_QUERY = (_queries / "catalog_settings.sql").read_text()

#: One row, one text: the snapshot document.
CATALOG_QUERY = (_queries / "catalog.sql").read_text().replace("/* fingerprint.sql */", FINGERPRINT_QUERY)

#: What makes a database announce changes of its catalog, and what takes that away again.
INSTALL_TRIGGER = (_queries / "catalog_trigger.sql").read_text()
DROP_TRIGGER = "".join(line for line in INSTALL_TRIGGER.splitlines(True) if line.startswith("DROP "))

#: One row, one text: what names mean to this session. Run it under the session's own search_path.
SESSION_QUERY = (_queries / "session.sql").read_text()

#: pg_class.relkind: table, partitioned table, view, materialised view, foreign table, sequence, composite
#: type.
RelationKind: TypeAlias = Literal["r", "p", "v", "m", "f", "S", "c"]


@dataclass(frozen=True, slots=True)
class Attribute:
    """A column. `type` is the type's schema-qualified name without typmod (`pg_catalog.varchar`), `base_type`
    the same with domains followed down to their base, `category` PostgreSQL's pg_type.typcategory of the base
    type (`S` = character)."""

    name: str
    number: int
    type: str
    base_type: str
    category: str
    #: comparing it can neither raise nor run user code: a built-in scalar (or enum) with a deterministic
    #: collation
    plain: bool = False
    not_null: bool = False
    generated: bool = False
    #: generated when it is read (PostgreSQL 18), not stored
    virtual: bool = False
    #: pg_attribute.atttypmod: the length of a varchar and the like, as PostgreSQL encodes it; -1 none
    typmod: int = -1
    #: of a generated column: the columns that its expression reads
    reads: tuple[str, ...] = ()
    #: the data class that a security label or the comment on the column names (`classification: pii`), as it is written there
    labelled: str | None = None
    #: the name of its collation, where that is not the database's
    collation: str | None = None


@dataclass(frozen=True, slots=True)
class Constraint:
    """A constraint of a table. `kind` is pg_constraint.contype: c CHECK, f foreign key, p primary key, u UNIQUE, x EXCLUDE, n
    NOT NULL."""

    name: str
    kind: str
    validated: bool = True
    columns: tuple[str, ...] = ()
    #: of a CHECK: its condition, printed under `search_path = pg_catalog, pg_temp`
    expression: str | None = None
    #: of a foreign key: OID of the table it references, and the columns of that, in the order of `columns`
    references: int = 0
    referenced_columns: tuple[str, ...] = ()
    #: of a foreign key, what it does to this table when the other one is written: a NO ACTION, r RESTRICT, c CASCADE, n SET
    #: NULL, d SET DEFAULT
    on_update: str = "a"
    on_delete: str = "a"


@dataclass(frozen=True, slots=True)
class Index:
    """An index of a table; it is in the table's schema. `columns` leaves expressions out; `pages` are blocks of 8 kB,
    estimated. `reads` are all columns it depends on, those of its expressions and its condition included."""

    name: str
    oid: int
    columns: tuple[str, ...] = ()
    unique: bool = False
    valid: bool = True
    pages: int = 0
    reads: tuple[str, ...] = ()
    #: the index of an EXCLUDE constraint
    exclusion: bool = False


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
    #: the query of a view or materialised view (pg_get_viewdef under `search_path = pg_catalog, pg_temp`): a
    #: bare name in it is one of pg_catalog, or of the temporary schema, so resolve it with
    #: `catalog.for_definitions()`
    definition: str | None = None
    primary_key: tuple[str, ...] = ()
    #: of a partitioned table: every column that decides to which partition a row belongs
    partitioned_by: tuple[str, ...] = ()
    #: has enabled row triggers that may change a row before it is written (BEFORE and INSTEAD OF)
    has_row_triggers: bool = False
    #: has rewrite rules other than a view's own _RETURN
    has_rules: bool = False
    #: planner's row estimate (pg_class.reltuples), -1 unknown
    estimated_rows: float = -1
    #: name of the extension that owns the relation
    extension: str | None = None
    #: pg_class.relpages: blocks of 8 kB when it was last vacuumed or analyzed; 0 also for what never was
    pages: int = 0
    #: pg_class.relpersistence: p permanent, u unlogged, t temporary
    persistence: str = "p"
    constraints: tuple[Constraint, ...] = ()
    indexes: tuple[Index, ...] = ()
    #: `RANGE (created_at)` of a partitioned table, `FOR VALUES FROM (…) TO (…)` or `DEFAULT` of a partition
    partition_key: str | None = None
    partition_bound: str | None = None


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
    #: of an aggregate: `c` when all its support functions are C or built in, else the language of one that is
    #: not; and its volatility is that of the most volatile one (pg_proc says internal, immutable for each)
    language: str
    extension: str | None = None
    returns_set: bool = False
    #: fewest arguments a call may have (defaults), and whether the last one is VARIADIC
    required_arguments: int = 0
    variadic: bool = False
    #: names of the output columns when it returns a composite by OUT arguments or TABLE(...)
    output_names: tuple[str, ...] = ()
    #: what it runs, as text; None where that is no text (C, internal, aggregates) or an extension's
    body: str | None = field(default=None, compare=False, repr=False)

    @property
    def qualified_name(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def is_trusted_extension_code(self) -> bool:
        """A non-volatile C function that an installed extension brought: pgvector's distance, pg_trgm's
        similarity."""
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
    """A cast that users made; context: e explicit, a assignment, i implicit. `function` is the function outside pg_catalog
    that it calls (`schema.name`), None where it calls none of these."""

    source: str
    target: str
    function: str | None
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
    #: of a domain, the type that it is over, which may be a domain again
    over: str | None = None
    #: of a domain: it, or one below it, has a CHECK or is NOT NULL
    constrained: bool = False
    #: of a domain: pg_type.typtypmod, the modifier of its base type
    typmod: int = -1


class _Document(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """The snapshot as JSON: what CATALOG_QUERY returns, and with the session's part what to_json writes."""

    format: int
    version: str
    server_version: int
    encoding: str = "UTF8"
    relations: tuple[Relation, ...] = ()
    functions: tuple[Function, ...] = ()
    operators: tuple[Operator, ...] = ()
    casts: tuple[Cast, ...] = ()
    types: tuple[UserType, ...] = ()
    search_path: tuple[str, ...] | None = None
    temp_schema: str | None = None
    unread: tuple[str, ...] = ()
    partial: bool = False


class _Session(msgspec.Struct, forbid_unknown_fields=True):
    """What SESSION_QUERY returns."""

    search_path: tuple[str, ...]
    temp_schema: str | None = None


_FORMAT = 1
_DocumentT = TypeVar("_DocumentT", _Document, _Session)
_T = TypeVar("_T")


def _decode(text: str | bytes, type: type[_DocumentT]) -> _DocumentT:
    try:
        return msgspec.json.decode(text, type=type)
    except UnicodeEncodeError:
        raise ValueError("this is not a guarddb catalog snapshot: it is not valid Unicode text") from None
    except (msgspec.DecodeError, RecursionError, UnicodeError) as ex:
        raise ValueError(f"this is not a guarddb catalog snapshot: {ex}") from None


@dataclass(frozen=True)
class Catalog:
    """One moment of a database's catalog, with the names the session resolves by.

    Attributes:
        version: changes when anything in the snapshot changes; part of every plan's cache key.
        server_version: as libpq gives it, 180004 for 18.4.
        encoding: the database's character set encoding (`server_encoding`), as PostgreSQL writes it.
        search_path: the schemas a bare name is looked up in, in order, as `current_schemas(true)` gives them:
            the implicit pg_catalog included, the temporary schema only where the session's own search_path
            puts it behind others.
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
    encoding: str = "UTF8"
    #: names of views whose definition could not be read without waiting for somebody's lock; it is empty then
    unread: tuple[str, ...] = ()
    #: something was left out because of such a lock; `version` then says so
    partial: bool = False
    #: the snapshot by name, where another session has built it already
    names: _Index | None = field(default=None, repr=False, compare=False)

    # --- where it comes from ---

    @classmethod
    def from_document(cls, document: str | bytes, session: str | bytes | None = None) -> Catalog:
        """The catalog from what CATALOG_QUERY and SESSION_QUERY returned.

        Raises:
            ValueError: a text is not what these queries return.
        """
        found = _decode(document, _Document)
        if found.format != _FORMAT:
            raise ValueError(
                f"this catalog snapshot has format {found.format}; this version of guarddb reads {_FORMAT}"
            )
        version = found.version
        if found.partial and " " not in version:
            # It decides other things than the whole one does: they must not share plans.
            text = document.encode() if isinstance(document, str) else document
            version = f"{version} {hashlib.sha256(text).hexdigest()}"
        catalog = cls(
            version=version,
            unread=found.unread,
            partial=found.partial,
            server_version=found.server_version,
            encoding=found.encoding,
            temp_schema=found.temp_schema,
            relations={relation.oid: relation for relation in found.relations},
            functions=found.functions,
            operators=found.operators,
            casts=found.casts,
            types=found.types,
        )
        if found.search_path is not None:
            catalog = replace(catalog, search_path=found.search_path)
        return catalog if session is None else catalog.with_session_document(session)

    @classmethod
    def from_connection(cls, conn: Any) -> Catalog:
        """The catalog of the database behind `conn`, a psycopg or guarddb connection.

        Leaves the connection as it was: no transaction opened that was not open, no setting changed.

        Raises:
            psycopg.Error: the server refused, as it does in a failed transaction.
            TypeError: it is no such connection, or an async one of psycopg's.
        """
        guarded = getattr(conn, "_guard_catalog", None)
        if guarded is not None:
            catalog: Catalog = guarded()
            return catalog
        if not (hasattr(conn, "transaction") and hasattr(conn, "execute")) or hasattr(conn, "__aenter__"):
            raise TypeError(
                f"a catalog is read by a connection of psycopg's or guarddb's, not by {type(conn).__name__}"
            )

        def text(query: str) -> bytes:
            # From the result itself: the connection's row factory and loaders may be anybody's.
            value: bytes = conn.execute(query).pgresult.get_value(0, 0)
            return value

        # A transaction, or a savepoint inside one that is open; undone either way, and the settings with it.
        with conn.transaction(force_rollback=True):
            session = text(SESSION_QUERY)
            conn.execute(CATALOG_SETTINGS_QUERY)
            document = text(CATALOG_QUERY)
        return cls.from_document(document, session)

    @classmethod
    def from_json(cls, text: str | bytes) -> Catalog:
        """The catalog that `to_json` wrote, its session part included.

        Raises:
            ValueError: the text is not such a document, or of a format this version does not read.
            TypeError: it is no text.
        """
        if not isinstance(text, str | bytes | bytearray | memoryview):
            raise TypeError(f"a catalog snapshot is JSON text (str or bytes), not {type(text).__name__}")
        return cls.from_document(text)

    def to_json(self) -> str:
        """The catalog as JSON text, for `from_json`: to decide without a connection, or to file with a
        decision."""
        document = _Document(
            format=_FORMAT,
            version=self.version,
            server_version=self.server_version,
            encoding=self.encoding,
            relations=tuple(self.relations.values()),
            functions=self.functions,
            operators=self.operators,
            casts=self.casts,
            types=self.types,
            search_path=self.search_path,
            temp_schema=self.temp_schema,
            unread=self.unread,
            partial=self.partial,
        )
        return msgspec.json.encode(document).decode()

    def with_session(self, search_path: Iterable[str], temp_schema: str | None = None) -> Catalog:
        """The same snapshot as another session sees it. Cheap: the indexes are shared."""
        return replace(self, search_path=tuple(search_path), temp_schema=temp_schema, names=self._index)

    def with_session_document(self, session: str | bytes) -> Catalog:
        """`with_session` from what SESSION_QUERY returned."""
        found = _decode(session, _Session)
        return self.with_session(found.search_path, found.temp_schema)

    def for_definitions(self) -> Catalog:
        """The catalog that the definition of a view resolves by, see `Relation.definition`."""
        return self.with_session(("pg_catalog",), self.temp_schema)

    @property
    def fingerprint(self) -> str:
        """What FINGERPRINT_QUERY returned when the catalog was read."""
        return self.version.partition(" ")[0]

    # --- what is looked up ---

    def by_oid(self, oid: int) -> Relation | None:
        return self.relations.get(oid)

    def relation(self, schema: str, name: str) -> Relation | None:
        """The relation of exactly this schema. `pg_temp` means the session's own temporary schema."""
        return self._index.relations.get((self._schema(schema), name))

    def resolve(self, schema: str | None, name: str) -> Relation | None:
        """The user relation that a name in a statement means, or None: it means a system relation, or
        nothing.

        `lookup` tells these two apart.
        """
        found = self.lookup(schema, name)
        return found if isinstance(found, Relation) else None

    def lookup(self, schema: str | None, name: str) -> Relation | SystemRelation | None:
        """The relation, of the user's or the system's, that a name in a statement means: the first along the
        search path.

        The temporary schema is searched first unless the path names it (PostgreSQL docs, search_path).
        """
        for each in self._searched(schema):
            if found := self._index.relations.get((each, name)):
                return found
            if each in ("pg_catalog", "information_schema"):
                if system := system_relation(each, name):
                    return system
        return None

    def functions_named(self, name: str, schema: str | None = None) -> tuple[Function, ...]:
        """User functions that a call may mean: of `schema`, or those on the search path (the temporary schema
        never is).

        PostgreSQL picks among these *and* the built-in ones by argument types: a public.lower(varchar) takes
        the place of pg_catalog.lower(text) where the argument is a varchar, although pg_catalog comes first.
        """
        return self._named(self._index.functions, name, schema)

    def functions_anywhere(self, name: str) -> tuple[Function, ...]:
        """Every user function of a name, whether a bare call would find it or not."""
        return self._index.functions.get(name, ())

    def operators_named(self, name: str, schema: str | None = None) -> tuple[Operator, ...]:
        """User operators that a symbol may mean; as for functions, built-in ones compete by type."""
        return self._named(self._index.operators, name, schema)

    def type_named(self, schema: str | None, name: str) -> UserType | None:
        """The user type that a name means, or None: it means a built-in type, or nothing. A table's row type
        counts."""
        for each in self._searched(schema):
            if found := self._index.types.get((each, name)):
                return found
            if relation := self._index.relations.get((each, name)):
                qualified = f"{each}.{name}"
                return UserType(relation.schema, name, "c", qualified, "C")
            if each == "pg_catalog" and builtin_type(name) is not None:
                return None
        return None

    def is_domain(self, qualified: str) -> bool:
        """Whether a type's qualified name is a domain's."""
        known = self.type_named(*qualified.split(".", 1))
        return known is not None and known.kind == "d"

    def types_inside(self, qualified: str) -> set[str]:
        """A type with every type that its values are made of: below a domain, in a row, in an array or a range.

        Built-in types have nothing of users inside. Where the catalog does not say what is inside, everything may be.
        """
        found: set[str] = set()
        stack = [qualified]
        while stack:
            each = stack.pop()
            if each in found or each.startswith("pg_catalog."):
                continue
            found.add(each)
            schema, _, name = each.partition(".")
            known = self.type_named(schema, name)
            if known is None:
                # An array is called after its elements, cut where the name would be too long.
                stem = name[1:] if name.startswith("_") else None
                if stem is not None:
                    stack += [f"{t.schema}.{t.name}" for t in self.types if t.name.startswith(stem[:60])]
                    stack += [
                        f"{r.schema}.{r.name}"
                        for r in self.relations.values()
                        if r.name.startswith(stem[:60])
                    ]
                continue
            row = self.relation(schema, name) if known.kind == "c" else None
            if row is not None:
                stack += [a.type for a in row.attributes]
            elif known.kind == "d":
                stack.append(known.over or known.base_type)
            elif known.kind in ("r", "m"):
                stack += [f"{t.schema}.{t.name}" for t in self.types if t.kind == "d"]
        return found

    def _schema(self, schema: str) -> str | None:
        return self.temp_schema if schema == "pg_temp" else schema

    def _searched(self, schema: str | None) -> tuple[str | None, ...]:
        if schema is not None:
            return (self._schema(schema),)
        if self.temp_schema is None or self.temp_schema in self.search_path:
            return self.search_path
        return (self.temp_schema, *self.search_path)

    def _named(
        self, index: Mapping[str, tuple[_NamedT, ...]], name: str, schema: str | None
    ) -> tuple[_NamedT, ...]:
        found = index.get(name, ())
        if not found:
            return found
        if schema is not None:
            wanted = self._schema(schema)
            return tuple(each for each in found if each.schema == wanted)
        path = self.search_path
        return tuple(each for each in found if each.schema in path and each.schema != self.temp_schema)

    @cached_property
    def _index(self) -> _Index:
        if self.names is not None and self.names.of is self.relations:
            return self.names
        return _Index(self)


_NamedT = TypeVar("_NamedT", Function, Operator)


class _Index:
    """The snapshot by name; built when first asked and shared by all sessions of the snapshot."""

    __slots__ = ("functions", "of", "operators", "relations", "types")

    def __init__(self, catalog: Catalog) -> None:
        #: what it was made from
        self.of = catalog.relations
        self.relations: dict[tuple[str | None, str], Relation] = {
            (relation.schema, relation.name): relation for relation in catalog.relations.values()
        }
        self.types: dict[tuple[str | None, str], UserType] = {
            (each.schema, each.name): each for each in catalog.types
        }
        self.functions = _grouped((each.name, each) for each in catalog.functions)
        self.operators = _grouped((each.name, each) for each in catalog.operators)


def _grouped(pairs: Iterable[tuple[str, _T]]) -> dict[str, tuple[_T, ...]]:
    groups: dict[str, list[_T]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return {key: tuple(values) for key, values in groups.items()}


def check_catalog(catalog: object) -> None:
    """What is given as a catalog is one, or None.

    Raises:
        TypeError: it is something else.
    """
    if catalog is not None and not isinstance(catalog, Catalog):
        raise TypeError(
            "the catalog is a guarddb.Catalog (Catalog.from_connection, Catalog.from_json) or None, "
            f"not {type(catalog).__name__}"
        )
