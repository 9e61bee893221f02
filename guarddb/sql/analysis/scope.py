"""Names in scope: what a column name, a table alias or a relation name means at one place of a statement.

PostgreSQL's rules (parse_relation.c): a bare column is looked for in the FROM items of this query, then of the query
around it, and so on; only when no level has such a column may the name be a whole row. A CTE hides a table of its name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from guarddb.sql.statement import Link, Open, Output, Query, Reference

#: pg_attribute's system columns; they belong to every table and to no star.
SYSTEM_COLUMNS = frozenset({"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"})

Column = tuple[str, list[Link], "str | None"]


class Item(ABC):
    """One item of a FROM list. `columns()` lists (name, links, qualifier) in the order of a star."""

    __slots__ = ()

    @abstractmethod
    def find(self, name: str) -> list[Link] | None:
        """The links of the column of this name, or None when the item has none (or nobody knows)."""

    @abstractmethod
    def columns(self) -> list[Column]:
        """Its columns, in the order of a star."""

    def opens(self) -> list[Open]:
        """What of it has unknown columns."""
        return []

    @abstractmethod
    def sources(self) -> Iterator[Source]:
        """The items that a qualified name can reach."""


class Source(Item):
    """A FROM item with a name of its own: `alias.column` reaches it."""

    __slots__ = ("alias", "schema")

    def __init__(self, alias: str | None, schema: str | None = None) -> None:
        self.alias = alias
        self.schema = schema

    def sources(self) -> Iterator[Source]:
        yield self

    def whole_row(self) -> list[Link]:
        """What a whole-row reference to it carries."""
        return [link for _, links, _ in self.columns() for link in links]


class Table(Source):
    """A relation whose columns are known. `names` maps the name seen here to the attribute's name."""

    __slots__ = ("names", "pairs", "reference")

    def __init__(
        self,
        reference: Reference,
        names: dict[str, str],
        schema: str | None,
        pairs: list[tuple[str, str]] | None = None,
    ) -> None:
        super().__init__(reference.alias, schema)
        self.reference = reference
        self.names = names
        #: (name seen, attribute) in order, where an alias list gives names: it may give one twice
        self.pairs = pairs

    def find(self, name: str) -> list[Link] | None:
        if self.pairs is not None:
            found: list[Link] = [
                (self.reference, attribute) for seen, attribute in self.pairs if seen == name
            ]
            if found:
                return found
        attribute = self.names.get(name) if self.pairs is None else None
        if attribute is not None:
            return [(self.reference, attribute)]
        if name in SYSTEM_COLUMNS:
            self.reference.system_columns = True
            return [(self.reference, name)]
        return None

    def columns(self) -> list[Column]:
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
    """A subquery, CTE or function with known columns."""

    __slots__ = ("names", "outputs")

    def __init__(self, alias: str | None, outputs: list[Output], aliases: tuple[str, ...] = ()) -> None:
        super().__init__(alias)
        self.outputs = outputs
        self.names = [
            aliases[i] if i < len(aliases) and output.open is None else output.name
            for i, output in enumerate(outputs)
        ]

    def find(self, name: str) -> list[Link] | None:
        found: list[Link] = [
            o for n, o in zip(self.names, self.outputs, strict=True) if n == name and o.open is None
        ]
        return found or None

    def columns(self) -> list[Column]:
        return [(name, [output], self.alias) for name, output in zip(self.names, self.outputs, strict=True)]

    def opens(self) -> list[Open]:
        return [output.open for output in self.outputs if output.open is not None]


class Join(Item):
    """Two items joined. `merged` are the columns of USING or NATURAL, in order."""

    __slots__ = ("left", "merged", "right")

    def __init__(self, left: Item, right: Item, merged: dict[str, list[Link]]) -> None:
        self.left = left
        self.right = right
        self.merged = merged

    def find(self, name: str) -> list[Link] | None:
        if name in self.merged:
            return self.merged[name]
        left, right = self.left.find(name), self.right.find(name)
        return left + right if left and right else left or right

    def columns(self) -> list[Column]:
        merged = self.merged
        columns: list[Column] = [(name, links, None) for name, links in merged.items()]
        columns += [c for c in self.left.columns() if c[0] not in merged]
        columns += [c for c in self.right.columns() if c[0] not in merged]
        return columns

    def opens(self) -> list[Open]:
        return self.left.opens() + self.right.opens()

    def sources(self) -> Iterator[Source]:
        yield from self.left.sources()
        yield from self.right.sources()


class JoinAlias(Source):
    """`(a JOIN b USING (x)) AS j`: only `j` is seen from outside."""

    __slots__ = ("aliases", "join")

    def __init__(self, alias: str, join: Join, aliases: tuple[str, ...]) -> None:
        super().__init__(alias)
        self.join = join
        self.aliases = aliases

    def columns(self) -> list[Column]:
        return [
            (self.aliases[i] if i < len(self.aliases) else name, links, self.alias)
            for i, (name, links, _) in enumerate(self.join.columns())
        ]

    def find(self, name: str) -> list[Link] | None:
        if not self.aliases:
            return self.join.find(name)
        found = [link for column, links, _ in self.columns() if column == name for link in links]
        return found or None

    def opens(self) -> list[Open]:
        return self.join.opens()


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
        self, left: Item, right: Item, merged: dict[str, list[Link]], merged_alias: MergedAlias
    ) -> None:
        super().__init__(left, right, merged)
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
    """The names one query sees: its FROM items, its CTEs, and the scope around it."""

    __slots__ = ("_columns", "ctes", "items", "parent", "query")

    def __init__(self, parent: Scope | None, query: Query | None) -> None:
        self.parent = parent
        self.query = query
        self.items: list[Item] = []
        #: names that were looked up already, each with the items it was looked up in
        self._columns: dict[tuple[str, int, int], list[Link] | None] = {}
        self.ctes: dict[str, CTE] = {}

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
                if not any(isinstance(link, Output) and link.guessed for link in level):
                    return found
                # The name was found by our reading of what PostgreSQL calls a column: it may be one further out as well.
                maybe = True
            for item in scope.items:
                for open_ in item.opens():
                    maybe = True
                    found.append((open_.reference, name) if open_.reference is not None else _SOMEBODY)
            scope = scope.parent
        return found if maybe else None

    def has_column(self, name: str) -> bool:
        """Whether some level certainly has a column of this name."""
        scope: Scope | None = self
        while scope is not None:
            if any(item.find(name) for item in scope.items):
                return True
            scope = scope.parent
        return False

    def source(self, alias: str, schema: str | None = None) -> Source | None:
        """The FROM item of this name, innermost first."""
        scope: Scope | None = self
        while scope is not None:
            for item in scope.items:
                for source in item.sources():
                    if source.alias == alias and (schema is None or source.schema == schema):
                        return source
            scope = scope.parent
        return None


#: A column of a function whose columns nobody knows.
_SOMEBODY = Output("?")
_SOMEBODY.guessed = True


def _open_output(open_: Open) -> Output:
    output = Output("*", [(open_.reference, "*")] if open_.reference is not None else [])
    output.open = open_
    return output
