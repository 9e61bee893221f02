"""What the wall is built on: the relations of a database with all that decides what may be seen and written.

The server writes it as one JSON document (`database.sql`). Dependencies, of generated columns, of views, of defaults, are
those that PostgreSQL's own analyzer recorded in pg_depend: the wall takes no reading of SQL of ours.
"""

from __future__ import annotations

from functools import cached_property
from importlib import resources
from typing import Literal

import msgspec

#: One row, one text. Run it with `search_path = pg_catalog`.
DATABASE_QUERY = (resources.files("guarddb.wall") / "database.sql").read_text()


class Column(msgspec.Struct, frozen=True):
    """A column. `type` is its base type as SQL, domains followed; `type_name` the same as pg_type has it, empty for a type
    outside pg_catalog."""

    name: str
    number: int
    type: str
    type_name: str
    category: str
    #: as SQL, when it is not the database's default
    collation: str | None = None
    not_null: bool = False
    has_default: bool = False
    identity: bool = False
    generated: bool = False
    #: attribute numbers that a generated column is made of
    sources: tuple[int, ...] = ()
    #: OIDs of the sequences its default calls
    sequences: tuple[int, ...] = ()
    #: pg_attribute.attmissingval holds a value of it
    missing: bool = False


class Computed(msgspec.Struct, frozen=True):
    """A constraint, generated column or index whose expression is computed when a row is written."""

    what: str
    #: attribute numbers, 0 for the whole row; none when they are not known
    columns: tuple[int, ...] = ()


class Relation(msgspec.Struct, frozen=True, dict=True):
    """A table, partitioned table, view, materialised view, foreign table or sequence."""

    oid: int
    schema: str
    name: str
    kind: Literal["r", "p", "v", "m", "f", "S"]
    #: whoever asked has the rights of its owner
    mine: bool
    columns: tuple[Column, ...] = ()
    parents: tuple[int, ...] = ()
    #: attribute numbers of a partition key, 0 for an expression; None: not partitioned
    partition_key: tuple[int, ...] | None = None
    is_partition: bool = False
    #: a view's query, every name with its schema
    definition: str | None = None
    barrier: bool = False
    #: (OID, attribute number or 0) of what a view's query reads
    reads: tuple[tuple[int, int], ...] = ()
    #: functions of the users' that a view's query runs
    code: tuple[str, ...] = ()
    computed: tuple[Computed, ...] = ()
    #: triggers that see rows
    triggers: tuple[str, ...] = ()
    has_rules: bool = False
    #: row security was on before any wall
    row_security: bool = False
    #: restrictive policies that PostgreSQL did not ask before any wall, for row security was off
    asleep: tuple[str, ...] = ()
    extension: str | None = None

    @property
    def shown(self) -> str:
        return f"{self.schema}.{self.name}"

    @cached_property
    def by_number(self) -> dict[int, Column]:
        return {column.number: column for column in self.columns}


class ForeignKey(msgspec.Struct, frozen=True):
    """A foreign key; the actions are pg_constraint's: a nothing, r restrict, c cascade, n set null, d set default."""

    name: str
    child: int
    parent: int
    parent_columns: tuple[int, ...]
    child_columns: tuple[int, ...]
    on_delete: str
    on_update: str


class Routine(msgspec.Struct, frozen=True):
    """A function or procedure outside pg_catalog."""

    schema: str
    name: str
    #: `schema.name(argument types)`, as GRANT takes it
    signature: str
    #: the same as a regprocedure is read
    by_types: str
    mine: bool
    definer: bool
    trusted: bool
    #: PUBLIC may call it
    public: bool
    #: a default, constraint, index, view, operator or type calls it
    needed: bool
    #: all of its arguments are of types outside pg_catalog
    of_users: bool = False


class Operator(msgspec.Struct, frozen=True):
    """An operator whose function a user wrote. `of_users`: it takes no type of PostgreSQL's own; `of_built_ins`: no other."""

    name: str
    function: str
    of_users: bool
    of_built_ins: bool = False


class Database(msgspec.Struct, frozen=True, dict=True):
    """One moment of a database."""

    server_version: int
    database: str
    user: str
    superuser: bool
    #: roles, no superusers, that own or were given something in this database
    roles: tuple[str, ...]
    #: settings that text renderings and casts depend on, as the asking session would have them after RESET
    pins: dict[str, str]
    relations: tuple[Relation, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    functions: tuple[Routine, ...] = ()
    operators: tuple[Operator, ...] = ()
    #: (schema of the wall, or name of its policy; function or table; function of the users' that it runs)
    installed_code: tuple[tuple[str, str, str], ...] = ()
    #: casts that call a function outside pg_catalog
    user_casts: int = 0
    #: those of them between two types of PostgreSQL's own
    casts_of_built_ins: int = 0
    #: casts by which a value of PostgreSQL's own types becomes one of a user's without being told
    implicit_casts: int = 0
    #: types with whose values a CHECK runs users' code
    coded_types: int = 0
    extension_schemas: tuple[str, ...] = ()

    @classmethod
    def from_document(cls, document: str | bytes) -> Database:
        """What DATABASE_QUERY returned.

        Raises:
            ValueError: the text is not such a document.
        """
        try:
            return msgspec.json.decode(document, type=cls)
        except msgspec.DecodeError as ex:
            raise ValueError(f"this is not what the wall's query returns: {ex}") from None

    @cached_property
    def by_oid(self) -> dict[int, Relation]:
        return {relation.oid: relation for relation in self.relations}

    @cached_property
    def by_name(self) -> dict[tuple[str, str], Relation]:
        return {(relation.schema, relation.name): relation for relation in self.relations}

    @cached_property
    def children(self) -> dict[int, list[Relation]]:
        """Direct partitions and inheritance children, by the parent's OID."""
        found: dict[int, list[Relation]] = {}
        for relation in self.relations:
            for parent in relation.parents:
                found.setdefault(parent, []).append(relation)
        return found

    def ancestors(self, relation: Relation) -> list[Relation]:
        """What it is a partition or child of, transitively, nearest first."""
        found: dict[int, Relation] = {}
        queue = list(relation.parents)
        while queue:
            parent = self.by_oid.get(queue.pop(0))
            if parent is not None and parent.oid not in found:
                found[parent.oid] = parent
                queue.extend(parent.parents)
        return list(found.values())

    def descendants(self, relation: Relation) -> list[Relation]:
        """Its partitions and inheritance children, transitively."""
        found: dict[int, Relation] = {}
        queue = list(self.children.get(relation.oid, ()))
        while queue:
            child = queue.pop(0)
            if child.oid not in found:
                found[child.oid] = child
                queue.extend(self.children.get(child.oid, ()))
        return list(found.values())
