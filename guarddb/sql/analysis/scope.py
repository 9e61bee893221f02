"""Names in scope: what a column name, a table alias or a relation name means at one place of a statement.

PostgreSQL's rules (parse_relation.c): a bare column is looked for in the FROM items of this query, then of the query
around it, and so on; only when no level has such a column may the name be a whole row. A CTE hides a table of its name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from guarddb.sql.statement import Link, Open, Output, Query, Reference, origins

#: pg_attribute's system columns. They belong to what has rows of its own (no view, no composite type), and to no star.
SYSTEM_COLUMNS: dict[str, str] = {
    "ctid": "tid",
    "tableoid": "oid",
    "xmin": "xid",
    "xmax": "xid",
    "cmin": "cid",
    "cmax": "cid",
}

#: pg_class.relkind of what has no system columns: view, composite type.
_WITHOUT_SYSTEM_COLUMNS = frozenset("vc")

Column = tuple[str, list[Link], "str | None"]


def is_sure(link: Link) -> bool:
    """Whether PostgreSQL certainly finds a column where this link was found.

    It may not where the name is our reading of a rule of PostgreSQL's, and where nobody knows a relation's columns: without a
    catalog, and those of a system relation in a version that the facts do not cover. A name that is not sure counts further
    out as well.
    """
    if isinstance(link, Output):
        return not link.guessed
    return link[0].exact


class Item(ABC):
    """One item of a FROM list. `columns()` lists (name, links, qualifier) in the order of a star."""

    __slots__ = ()

    @abstractmethod
    def find(self, name: str) -> list[Link] | None:
        """The links of the column of this name, or None when the item has none (or nobody knows)."""

    def find_below(self, name: str) -> list[Link] | None:
        """The same, seen through a join: a join has the columns of its sides, and no system columns."""
        return self.find(name)

    @abstractmethod
    def columns(self) -> list[Column]:
        """Its columns, in the order of a star."""

    def visible(self) -> list[Column]:
        """Its columns by name, whatever order and number a star would find."""
        return self.columns()

    def opens(self) -> list[Open]:
        """What of it has unknown columns."""
        return []

    @abstractmethod
    def sources(self) -> Iterator[Source]:
        """The items that a qualified name can reach."""

    def many(self, name: str) -> int:
        """How many of its columns an unqualified name can mean."""
        return sum(1 for column in self.visible() if column[0] == name)

    def merging(self, name: str) -> Iterator[Join]:
        """The joins in it that merge columns of this name, but those below another that does."""
        yield from ()

    def holder(self, name: str) -> Source | None:
        """The item whose column stands for a merged one; None for COALESCE of two, and where that changes the type."""
        return None


class Source(Item):
    """A FROM item with a name of its own: `alias.column` reaches it."""

    __slots__ = ("alias", "schema")

    def __init__(self, alias: str | None, schema: str | None = None) -> None:
        self.alias = alias
        self.schema = schema

    def sources(self) -> Iterator[Source]:
        yield self

    def holder(self, name: str) -> Source | None:
        return self if any(column[0] == name for column in self.columns()) else None

    def whole_row(self) -> list[Link]:
        """What a whole-row reference to it carries."""
        return [link for _, links, _ in self.columns() for link in links]


class Table(Source):
    """A relation whose columns are known. `names` maps the name seen here to the attribute's name.

    `exact`: these are its columns and no others, in this order. Of a system relation they are those of all versions.
    """

    __slots__ = ("_has_system_columns", "exact", "names", "pairs", "reference")

    def __init__(
        self,
        reference: Reference,
        names: dict[str, str],
        schema: str | None,
        pairs: list[tuple[str, str]] | None = None,
        kind: str = "r",
        *,
        exact: bool = True,
    ) -> None:
        super().__init__(reference.alias, schema)
        self.reference = reference
        self.names = names
        #: (name seen, attribute) in order, where an alias list gives names: it may give one twice
        self.pairs = pairs
        self.exact = exact
        self._has_system_columns = kind not in _WITHOUT_SYSTEM_COLUMNS

    def find(self, name: str) -> list[Link] | None:
        found = self.find_below(name)
        if found is None and self._has_system_columns and name in SYSTEM_COLUMNS:
            self.reference.system_columns = True
            return [(self.reference, name)]
        return found

    def find_below(self, name: str) -> list[Link] | None:
        if self.pairs is not None:
            found: list[Link] = [
                (self.reference, attribute) for seen, attribute in self.pairs if seen == name
            ]
            if found:
                return found
        attribute = self.names.get(name) if self.pairs is None else None
        return None if attribute is None else [(self.reference, attribute)]

    def columns(self) -> list[Column]:
        reference, alias = self.reference, self.alias
        if not self.exact:
            return [("*", [_open_output(Open(reference))], alias)]
        return self.visible()

    def visible(self) -> list[Column]:
        reference, alias = self.reference, self.alias
        pairs = self.names.items() if self.pairs is None else self.pairs
        return [(name, [(reference, attribute)], alias) for name, attribute in pairs]

    def whole_row(self) -> list[Link]:
        self.reference.whole_row = True
        return [(self.reference, "*")]


class Unknown(Source):
    """A relation without a catalog entry, or a function: any name may be a column of it."""

    __slots__ = ("open", "reference")

    def __init__(self, alias: str | None, reference: Reference | None, schema: str | None = None) -> None:
        super().__init__(alias, schema)
        self.reference = reference
        self.open = Open(reference)

    def find(self, name: str) -> list[Link] | None:
        if self.reference is not None and name in SYSTEM_COLUMNS:
            self.reference.system_columns = True
            return [(self.reference, name)]
        return None

    def columns(self) -> list[Column]:
        return [("*", [_open_output(self.open)], self.alias)]

    def opens(self) -> list[Open]:
        return [self.open]

    def whole_row(self) -> list[Link]:
        if self.reference is None:
            return []
        self.reference.whole_row = True
        return [(self.reference, "*")]


class Derived(Source):
    """A subquery, CTE, function or aliased join: columns in order, under the names of an alias list as far as it goes.

    Behind something with unknown columns nobody can say which column an alias of the list means: it counts as each of them.
    """

    __slots__ = ("_columns", "_loose", "_rest")

    def __init__(self, alias: str | None, outputs: list[Output], aliases: tuple[str, ...] = ()) -> None:
        super().__init__(alias)
        self._name([(output.name, [output], alias) for output in outputs], aliases)

    def _name(self, columns: list[Column], aliases: tuple[str, ...]) -> None:
        self._loose: tuple[str, ...] = ()
        self._rest: list[Link] = []
        if aliases:
            known = next(
                (i for i, column in enumerate(columns) if _open_of(column) is not None), len(columns)
            )
            columns = [
                (aliases[i] if i < min(known, len(aliases)) else name, links, qualifier)
                for i, (name, links, qualifier) in enumerate(columns)
            ]
            if known < len(aliases):
                self._loose = aliases[known:]
                self._rest = [link for column in columns[known:] for link in column[1]]
        self._columns = columns

    def unmapped(self) -> list[Link]:
        """What the last names of the alias list may mean."""
        return self._rest

    def find(self, name: str) -> list[Link] | None:
        found: list[Link] = [
            link
            for column in self._columns
            if column[0] == name and _open_of(column) is None
            for link in column[1]
        ]
        if name in self._loose:
            return [*found, *self._rest]
        if found and self._loose and any(link in self._rest for link in found):
            return [*found, _SOMEBODY]  # the alias list may have given this column another name
        return found or None

    def columns(self) -> list[Column]:
        return self._columns

    def opens(self) -> list[Open]:
        return [open_ for column in self._columns if (open_ := _open_of(column)) is not None]


class Join(Item):
    """Two items joined. `merged` are the columns of USING or NATURAL, in order; `type` is the parser's JoinType.

    `unordered`: a NATURAL join with something whose columns nobody knows may merge any of its columns and put them first.
    """

    __slots__ = ("left", "merged", "right", "type", "unordered")

    def __init__(
        self, left: Item, right: Item, merged: dict[str, list[Link]], type: str = "JOIN_INNER"
    ) -> None:
        self.left = left
        self.right = right
        self.merged = merged
        self.type = type
        self.unordered = False

    def find(self, name: str) -> list[Link] | None:
        if name in self.merged:
            return self.merged[name]
        left, right = self.left.find_below(name), self.right.find_below(name)
        return left + right if left and right else left or right

    def columns(self) -> list[Column]:
        merged = self.merged
        columns: list[Column] = [(name, links, None) for name, links in merged.items()]
        if self.unordered:
            columns.insert(0, ("*", [_open_output(Open(None, partial=True))], None))
        for item in (self.left, self.right):
            for column in item.columns():
                if (merged or self.unordered) and (open_ := _open_of(column)) is not None:
                    columns.append(("*", [_rest_of(column[1], open_)], column[2]))
                elif column[0] not in merged:
                    columns.append(column)
        return columns

    def visible(self) -> list[Column]:
        merged = self.merged
        columns: list[Column] = [(name, links, None) for name, links in merged.items()]
        columns += [c for item in (self.left, self.right) for c in item.visible() if c[0] not in merged]
        return columns

    def opens(self) -> list[Open]:
        return self.left.opens() + self.right.opens()

    def sources(self) -> Iterator[Source]:
        yield from self.left.sources()
        yield from self.right.sources()

    def many(self, name: str) -> int:
        return 1 if name in self.merged else self.left.many(name) + self.right.many(name)

    def merging(self, name: str) -> Iterator[Join]:
        if name in self.merged:
            yield self
        else:
            yield from self.left.merging(name)
            yield from self.right.merging(name)

    def holder(self, name: str) -> Source | None:
        if name not in self.merged:
            return self.left.holder(name) or self.right.holder(name)
        if self.type == "JOIN_FULL" or len({_type_of(link) for link in self.merged[name]}) > 1:
            return None
        return (self.right if self.type == "JOIN_RIGHT" else self.left).holder(name)


class JoinAlias(Derived):
    """`(a JOIN b USING (x)) AS j`: only `j` is seen from outside, and of it the columns, no system columns."""

    __slots__ = ("join",)

    def __init__(self, alias: str, join: Join, aliases: tuple[str, ...]) -> None:
        super().__init__(alias, [])
        self.join = join
        self._name([(name, links, alias) for name, links, _ in join.columns()], aliases)


class MergedAlias(Source):
    """`a JOIN b USING (x) AS m`: `m.x` reaches the merged columns and nothing else."""

    __slots__ = ("merged",)

    def __init__(self, alias: str, merged: dict[str, list[Link]]) -> None:
        super().__init__(alias)
        self.merged = merged

    def find(self, name: str) -> list[Link] | None:
        return self.merged.get(name)

    def columns(self) -> list[Column]:
        return [(name, links, self.alias) for name, links in self.merged.items()]


class AliasedUsing(Join):
    """A join whose merged columns have an alias of their own."""

    __slots__ = ("merged_alias",)

    def __init__(
        self,
        left: Item,
        right: Item,
        merged: dict[str, list[Link]],
        type: str,
        merged_alias: MergedAlias,
    ) -> None:
        super().__init__(left, right, merged, type)
        self.merged_alias = merged_alias

    def sources(self) -> Iterator[Source]:
        yield from super().sources()
        yield self.merged_alias


class CTE:
    """A WITH query. `outputs` is filled before its own recursive term is read, so that the term can refer to it."""

    __slots__ = ("fields", "name", "names", "outputs", "query", "read", "scope", "state")

    def __init__(self, name: str, fields: dict[str, object], names: tuple[str, ...]) -> None:
        self.name = name
        self.fields = fields
        self.names = names
        self.outputs: list[Output] = []
        #: the query that it belongs to, and its own once it is read
        self.query: Query | None = None
        self.read: Query | None = None
        self.scope: Scope | None = None
        #: waiting, open (being read: a reference to it is recursive), done
        self.state = "waiting"


class Scope:
    """The names one query sees: its FROM items, its CTEs, and the scope around it.

    A name is looked for from the inside out, and the first level that has it is what it means:

    >>> from guarddb.sql.statement import Output
    >>> outer = Scope(None, None)
    >>> outer.items.append(Derived("a", [Output("id"), Output("name")]))
    >>> inner = Scope(outer, None)
    >>> inner.items.append(Derived("b", [Output("id")]))
    >>> inner.column("id") == inner.source("b").find("id"), inner.column("name") == outer.source("a").find("name")
    (True, True)
    """

    __slots__ = ("_by_alias", "_columns", "_indexed", "ctes", "items", "parent", "query")

    def __init__(self, parent: Scope | None, query: Query | None) -> None:
        self.parent = parent
        self.query = query
        self.items: list[Item] = []
        #: names that were looked up already, each with the items it was looked up in
        self._columns: dict[tuple[str, int, int], list[Link] | None] = {}
        self.ctes: dict[str, CTE] = {}
        #: what a qualified name can reach, by alias, and for which items that holds: how many, and the last of them
        self._by_alias: dict[str | None, list[Source]] = {}
        self._indexed: tuple[int, Item | None] = (0, None)

    def cte(self, name: str) -> CTE | None:
        scope: Scope | None = self
        while scope is not None:
            if scope.ctes and (cte := scope.ctes.get(name)) is not None:
                return cte
            scope = scope.parent
        return None

    def column(self, name: str) -> list[Link] | None:
        """What a bare column name can mean; None when no level has such a column.

        Where an item's columns are unknown the name may belong to it, so it is one of the answers and the search goes on.
        The list is shared: it is not to be changed.
        """
        # FROM is read from left to right: the same scope has more items later, and inside a join others.
        key = (name, len(self.items), id(self.items[-1]) if self.items else 0)
        if key not in self._columns:
            self._columns[key] = self._look_up(name)
        return self._columns[key]

    def _look_up(self, name: str) -> list[Link] | None:
        found: list[Link] = []
        maybe = False
        scope: Scope | None = self
        while scope is not None:
            level: list[Link] = []
            for item in scope.items:
                if links := item.find(name):
                    level += links
            if level:
                found += level
                if all(map(is_sure, level)):
                    return found
                # Nobody is sure that PostgreSQL finds it here: it may be one further out as well.
                maybe = True
            for item in scope.items:
                for open_ in item.opens():
                    maybe = True
                    found.append(of_open(open_, name))
            scope = scope.parent
        return found if maybe else None

    def level_of(self, name: str) -> list[Item]:
        """The items of the innermost query that has a column of this name; empty when none has."""
        scope: Scope | None = self
        while scope is not None:
            if any(item.find(name) for item in scope.items):
                return scope.items
            scope = scope.parent
        return []

    def has_column(self, name: str) -> bool:
        """Whether some level certainly has a column of this name."""
        scope: Scope | None = self
        while scope is not None:
            if any(any(map(is_sure, item.find(name) or ())) for item in scope.items):
                return True
            scope = scope.parent
        return False

    def source(self, alias: str, schema: str | None = None) -> Source | None:
        """The FROM item of this name, innermost first."""
        scope: Scope | None = self
        while scope is not None:
            found = scope.own_source(alias, schema)
            if found is not None:
                return found
            scope = scope.parent
        if schema is not None:
            # `pg_temp.t.x`, or a schema under another name: whatever has the alias may be it.
            return self.source(alias)
        return None

    def own_source(self, alias: str, schema: str | None) -> Source | None:
        """The item of this very query that a qualified name can reach."""
        return next(iter(self._own_sources(alias, schema)), None)

    def is_ambiguous(self, alias: str, schema: str | None) -> bool:
        """Whether a qualified name reaches more than one item of the innermost query that has it: PostgreSQL takes neither.

        (Such as `excluded` of INSERT INTO t AS excluded … ON CONFLICT.)
        """
        scope: Scope | None = self
        while scope is not None:
            if scope.own_source(alias, schema) is not None:
                return len(scope._own_sources(alias, schema)) > 1
            scope = scope.parent
        return False

    def _own_sources(self, alias: str, schema: str | None) -> list[Source]:
        items = self.items
        if not items:
            return []
        number, last = self._indexed
        if number != len(items) or last is not items[-1]:
            by_alias = self._by_alias = {}
            for item in items:
                for source in item.sources():
                    by_alias.setdefault(source.alias, []).append(source)
            self._indexed = len(items), items[-1]
        found = self._by_alias.get(alias, [])
        return found if schema is None else [source for source in found if source.schema == schema]


#: A column of a function whose columns nobody knows.
_SOMEBODY = Output("?")
_SOMEBODY.guessed = True


def _type_of(link: Link) -> object:
    """The type of what a link is a copy of; something of its own where nobody knows."""
    found = origins(link)
    if len(found) == 1:
        ((reference, name),) = found
        for attribute in reference.relation.attributes if reference.relation is not None else ():
            if attribute.name == name:
                return attribute.type
    return link


def of_open(open_: Open, name: str) -> Link:
    """What a name means that may be one of columns nobody knows."""
    if open_.reference is not None:
        return open_.reference, name
    return open_.made_of or _SOMEBODY


def _open_of(column: Column) -> Open | None:
    """What a column stands for that is all the columns of something whose columns nobody knows."""
    links = column[1]
    if len(links) == 1 and isinstance(links[0], Output):
        return links[0].open
    return None


def _rest_of(links: list[Link], open_: Open) -> Output:
    """What a join leaves of an item's unknown columns, those that it merges apart. They come from wherever all of them came."""
    output = Output("*", [*links])
    output.open = Open(open_.reference, partial=True)
    output.open.made_of = open_.made_of
    return output


def _open_output(open_: Open) -> Output:
    output = Output("*", [(open_.reference, "*")] if open_.reference is not None else [])
    output.open = open_
    return output
