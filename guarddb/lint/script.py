"""What a script has done so far: the transaction it is in, the locks it holds, what it made and what it has proved.

The catalog says how things were before the script; what the script itself changes is kept here on top, so that a CHECK which
the second statement validates proves the NOT NULL of the third.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from guarddb.facts.functions import builtin_type
from guarddb.lint.acts import Act, Lock, Target
from guarddb.sql.catalog import Catalog, Relation, UserType
from guarddb.sql.names import string_list
from guarddb.tree import Node, SQLSyntaxError, nodes, parse

#: The oldest server that guarddb works with, and the newest that the rules know.
OLDEST, NEWEST = 15, 18


@dataclass(slots=True)
class Column:
    """A column: its type by qualified name, its typmod, and whether PostgreSQL knows it to be NOT NULL. A type of None is
    unknown."""

    type: str | None
    typmod: int = -1
    not_null: bool = False
    virtual: bool = False


@dataclass(slots=True)
class Check:
    """A CHECK (or, in PostgreSQL 18, NOT NULL) constraint: its condition, and whether existing rows are known to meet it."""

    condition: Node
    valid: bool
    #: number of the transaction that added it
    added_in: int = 0
    #: it is a NOT NULL constraint, not a CHECK
    only_not_null: bool = False


@dataclass(slots=True)
class ForeignKey:
    """A foreign key: the table that it references."""

    references: Target
    columns: tuple[str, ...]
    valid: bool
    added_in: int = 0


@dataclass(slots=True)
class Table:
    """A table as the script has left it so far.

    `known` is False without a catalog: then what is not here may still be there.
    """

    known: bool
    columns: dict[str, Column] = field(default_factory=dict)
    checks: dict[str, Check] = field(default_factory=dict)
    foreign_keys: dict[str, ForeignKey] = field(default_factory=dict)
    #: name of a UNIQUE, PRIMARY KEY or EXCLUDE constraint, or of an index -> its columns
    keys: dict[str, tuple[str, ...]] = field(default_factory=dict)
    indexes: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def copy(self) -> Table:
        return Table(
            self.known,
            {name: Column(c.type, c.typmod, c.not_null, c.virtual) for name, c in self.columns.items()},
            {
                name: Check(c.condition, c.valid, c.added_in, c.only_not_null)
                for name, c in self.checks.items()
            },
            dict(self.foreign_keys),
            dict(self.keys),
            dict(self.indexes),
        )


@dataclass(slots=True)
class _State:
    """What a ROLLBACK brings back."""

    made: set[tuple[str, str]] = field(default_factory=set)
    tables: dict[tuple[str, str], Table] = field(default_factory=dict)
    made_types: dict[str, Node | None] = field(default_factory=dict)
    made_functions: dict[str, str] = field(default_factory=dict)
    made_values: set[str] = field(default_factory=set)
    index_tables: dict[tuple[str, str], Target] = field(default_factory=dict)
    search_path: tuple[str, ...] | None = None
    lock_timeout: bool = False
    utc: bool = False

    def copy(self) -> _State:
        return _State(
            set(self.made),
            {key: table.copy() for key, table in self.tables.items()},
            dict(self.made_types),
            dict(self.made_functions),
            set(self.made_values),
            dict(self.index_tables),
            self.search_path,
            self.lock_timeout,
            self.utc,
        )


class Script:
    """The state of a script between two statements.

    Args:
        catalog: the database as it is before.
        major: the server's major version, or None when it is not known.
        in_transaction: the whole script runs in one transaction.
    """

    def __init__(self, catalog: Catalog | None, major: int | None, *, in_transaction: bool = False) -> None:
        self.catalog = catalog
        self.major = major
        self.now = _State()
        self.transaction = 1
        self.in_transaction = in_transaction
        self.whole = in_transaction
        #: strong locks of the open transaction, by relation
        self.held: dict[tuple[str, str], Act] = {}
        self._before: _State | None = self.now.copy() if in_transaction else None
        self._savepoints: list[tuple[str, _State, dict[tuple[str, str], Act]]] = []
        self._local_timeout = False
        self._local_utc: bool | None = None

    def at_least(self, major: int) -> bool:
        """Whether the server is known to be of this version or a later one."""
        return self.major is not None and self.major >= major

    # --- names ---

    @property
    def search_path(self) -> tuple[str, ...]:
        if self.now.search_path is not None:
            return self.now.search_path
        if self.catalog is not None:
            return tuple(each for each in self.catalog.search_path if each != "pg_catalog") or ("public",)
        return ("public",)

    def target(self, range_var: Node) -> Target:
        """The relation that a name in the script means."""
        return self.named(range_var.get("schemaname"), range_var["relname"])

    def named(self, schema: str | None, name: str) -> Target:
        if schema is None and ("pg_temp", name) in self.now.made:
            return Target("pg_temp", name)
        for each in (schema,) if schema is not None else self.search_path:
            key = (each or "public", name)
            if key in self.now.made:
                return Target(*key)
            relation = self._relation(each, name)
            if relation is not None:
                return Target(relation.schema, relation.name, relation)
        if schema is None and self.catalog is not None and (found := self.catalog.resolve(None, name)):
            return Target(found.schema, found.name, found)
        return Target(schema or self.search_path[0], name)

    def to_make(self, range_var: Node) -> Target:
        """The relation that CREATE would make."""
        if range_var.get("relpersistence") == "t":
            return Target("pg_temp", range_var["relname"])
        return Target(range_var.get("schemaname") or self.search_path[0], range_var["relname"])

    def _relation(self, schema: str | None, name: str) -> Relation | None:
        return None if self.catalog is None or schema is None else self.catalog.relation(schema, name)

    def by_oid(self, oid: int) -> Target | None:
        relation = None if self.catalog is None else self.catalog.by_oid(oid)
        return None if relation is None else Target(relation.schema, relation.name, relation)

    def is_new(self, target: Target) -> bool:
        """Whether the script made it, or it is a temporary table: nobody else waits for it."""
        return (
            target.key in self.now.made
            or target.schema == "pg_temp"
            or (target.relation is not None and target.relation.persistence == "t")
        )

    def children(self, target: Target) -> list[Target]:
        """Partitions and inheritance children, all generations."""
        if target.relation is None:
            return []
        return [child for oid in target.relation.descendants if (child := self.by_oid(oid)) is not None]

    def parent(self, target: Target) -> Target | None:
        if target.relation is None or not target.relation.ancestors:
            return None
        return self.by_oid(target.relation.ancestors[0])

    def index(self, schema: str | None, name: str) -> Target | None:
        """The table of an index, or None when it is not known."""
        for each in (schema,) if schema is not None else self.search_path:
            if (found := self.now.index_tables.get((each or "public", name))) is not None:
                return found
        if self.catalog is None:
            return None
        wanted = (schema,) if schema is not None else self.search_path
        for relation in self.catalog.relations.values():
            if relation.schema in wanted and any(index.name == name for index in relation.indexes):
                return Target(relation.schema, relation.name, relation)
        return None

    def referencing(self, target: Target) -> list[Target]:
        """The tables with a foreign key to it."""
        found: dict[tuple[str, str], Target] = {}
        if self.catalog is not None and target.relation is not None:
            for relation in self.catalog.relations.values():
                if any(c.kind == "f" and c.references == target.relation.oid for c in relation.constraints):
                    other = Target(relation.schema, relation.name, relation)
                    found[other.key] = other
        for key, table in self.now.tables.items():
            if any(each.references.key == target.key for each in table.foreign_keys.values()):
                found.setdefault(key, Target(*key))
        return [each for each in found.values() if each.key != target.key]

    def views_on(self, target: Target, column: str | None = None) -> list[Target]:
        """The views and materialised views that read a relation, or a column of it, directly or through others."""
        if self.catalog is None:
            return []
        reads = {
            relation.oid: _named_in(relation.definition, (target.key, column) if column else None)
            for relation in self.catalog.relations.values()
            if relation.definition is not None
        }
        found: dict[tuple[str, str], Target] = {}
        names = {target.key}
        while more := {oid for oid, read in reads.items() if read & names} - {
            each.relation.oid for each in found.values() if each.relation is not None
        }:
            for view in (self.by_oid(oid) for oid in more):
                if view is not None:
                    found[view.key] = view
                    names.add(view.key)
        return list(found.values())

    def columns_of_type(self, target: Target) -> list[tuple[Target, str]]:
        """The columns of tables whose type is the row type of a relation, or an array of it."""
        types = (f"{target.schema}.{target.name}", f"{target.schema}._{target.name}")
        return [
            (Target(relation.schema, relation.name, relation), attribute.name)
            for relation in (self.catalog.relations.values() if self.catalog is not None else ())
            for attribute in relation.attributes
            if attribute.type in types and relation.kind in "rp" and not relation.ancestors
        ]

    # --- tables ---

    def table(self, target: Target) -> Table:
        """What is known of a table; changing it changes what later statements see."""
        table = self.now.tables.get(target.key)
        if table is None:
            table = self.now.tables[target.key] = self._read(target)
        return table

    def _read(self, target: Target) -> Table:
        relation = target.relation
        if relation is None:
            return Table(known=target.key in self.now.made)
        table = Table(known=True)
        for attribute in relation.attributes:
            table.columns[attribute.name] = Column(
                attribute.type, attribute.typmod, attribute.not_null, attribute.virtual
            )
        for constraint in relation.constraints:
            if constraint.kind == "c" and constraint.expression is not None:
                condition = condition_of(constraint.expression)
                if condition is not None:
                    table.checks[constraint.name] = Check(condition, constraint.validated)
            elif constraint.kind == "n":
                table.checks[constraint.name] = Check(
                    is_not_null(constraint.columns), constraint.validated, only_not_null=True
                )
            elif constraint.kind == "f":
                references = self.by_oid(constraint.references) or Target("public", "?")
                table.foreign_keys[constraint.name] = ForeignKey(
                    references, constraint.columns, constraint.validated
                )
            else:
                table.keys[constraint.name] = constraint.columns
        for index in relation.indexes:
            table.indexes[index.name] = index.columns
        return table

    # --- types ---

    def domain(self, names: list[str]) -> UserType | None:
        """The domain that a type name means; None for anything else, and without a catalog."""
        if self.catalog is None or not names:
            return None
        found = self.catalog.type_named(names[-2] if len(names) > 1 else None, names[-1])
        return found if found is not None and found.kind == "d" else None

    def qualified_type(self, names: list[str]) -> str | None:
        """`pg_catalog.int4` for a type name of the tree; None when nobody knows it."""
        if not names:
            return None
        if len(names) > 1:
            return f"{names[-2]}.{names[-1]}"
        if builtin_type(names[0]) is not None:
            return f"pg_catalog.{names[0]}"
        if self.catalog is not None and (found := self.catalog.type_named(None, names[0])) is not None:
            return f"{found.schema}.{found.name}"
        return None

    # --- transactions ---

    def begin(self) -> None:
        if not self.in_transaction:
            self.in_transaction = True
            self._before = self.now.copy()

    def end(self, *, undone: bool) -> None:
        """COMMIT or ROLLBACK."""
        if self.whole and not undone:
            pass
        if undone and self._before is not None:
            self.now = self._before
        self.in_transaction = self.whole = False
        self._before = None
        self._savepoints.clear()
        self.held.clear()
        self._local_timeout = False
        self._local_utc = None
        self.transaction += 1
        self.now.made_values.clear()

    def statement_ends(self) -> None:
        """A statement outside of a transaction is one by itself."""
        if not self.in_transaction:
            self.held.clear()
            self.transaction += 1
            self.now.made_values.clear()

    def savepoint(self, name: str) -> None:
        self._savepoints.append((name, self.now.copy(), dict(self.held)))

    def rollback_to(self, name: str) -> None:
        for at in range(len(self._savepoints) - 1, -1, -1):
            if self._savepoints[at][0] == name:
                _, state, held = self._savepoints[at]
                self.now, self.held = state.copy(), dict(held)
                del self._savepoints[at + 1 :]
                return

    def hold(self, act: Act) -> None:
        known = self.held.get(act.target.key)
        if known is None or known.lock < act.lock:
            self.held[act.target.key] = act

    @property
    def has_lock_timeout(self) -> bool:
        return self.now.lock_timeout or self._local_timeout

    def set_lock_timeout(self, value: bool, *, local: bool) -> None:
        if local and self.in_transaction:
            self._local_timeout = value
        elif not local:
            self.now.lock_timeout = value

    @property
    def is_utc(self) -> bool:
        """Whether the script has set a time zone without an offset: then timestamp and timestamptz are stored alike."""
        return self.now.utc if self._local_utc is None else self._local_utc

    def set_utc(self, value: bool, *, local: bool) -> None:
        if not local:
            self.now.utc, self._local_utc = value, None
        elif self.in_transaction:
            self._local_utc = value

    def exclusively_held(self) -> Iterator[Act]:
        """The ACCESS EXCLUSIVE locks of the open transaction on what the script did not make."""
        for act in self.held.values():
            if act.lock is Lock.ACCESS_EXCLUSIVE:
                yield act


def _named_in(definition: str, column: tuple[tuple[str, str], str] | None) -> set[tuple[str, str]]:
    """The relations in a view's query; that of `column` only if the column's name is in it too."""
    try:
        tree = parse(definition, checked=False)
    except SQLSyntaxError:
        return set()
    found = {
        (node.get("schemaname", "public"), node["relname"]) for _, node in nodes(tree) if "relname" in node
    }
    if column and not any(node.get("sval") == column[1] for _, node in nodes(tree)):
        found.discard(column[0])
    return found


def condition_of(expression: str) -> Node | None:
    """The tree of a condition, as the catalog prints it."""
    try:
        statement: Any = parse(f"SELECT ({expression})", checked=False)
    except SQLSyntaxError:
        return None
    found: Node = statement[0]["stmt"]["SelectStmt"]["targetList"][0]["ResTarget"]["val"]
    return found


def is_not_null(columns: tuple[str, ...]) -> Node:
    """`column IS NOT NULL` for each, with AND between."""
    tests: list[Node] = [
        {
            "NullTest": {
                "arg": {"ColumnRef": {"fields": [{"String": {"sval": column}}]}},
                "nulltesttype": "IS_NOT_NULL",
            }
        }
        for column in columns
    ]
    return tests[0] if len(tests) == 1 else {"BoolExpr": {"boolop": "AND_EXPR", "args": tests}}


def type_names(type_name: Node) -> list[str]:
    return string_list(type_name.get("names", ()))
