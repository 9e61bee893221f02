"""The facts of one statement: which relations it refers to, what it calls, where each column goes.

Nothing here knows a policy. The analysis (`analyze.py`) fills these objects in one walk; every rule reads them.

Vocabulary, after PostgreSQL's own:

- a *Reference* is one mention of a relation (a RangeVar that is not a CTE): `FROM t a, t b` has two;
- a *Query* is one level: a SELECT, a branch of a set operation, a VALUES, an INSERT/UPDATE/DELETE/MERGE;
- an *Output* is one column of a query's result (or of a CTE, or of RETURNING);
- a *link* is where a column comes from: `(Reference, attribute name)`, or an Output of a query further in. The attribute name
  `*` is the whole row;
- a *Root* is one expression with the clause it stands in, and the links it uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias

from guarddb.sql.analysis.definitions import Definition
from guarddb.sql.catalog import Relation
from guarddb.tree import Node
from guarddb.vocabulary import Kind

Mode: TypeAlias = Literal["read", "insert", "update", "delete", "merge", "ddl", "copy"]
#: Modes that write rows.
WRITE_MODES: frozenset[Mode] = frozenset(("insert", "update", "delete", "merge"))
Clause: TypeAlias = Literal[
    "target",
    "returning",
    "where",
    "filter",
    "on",
    "using",
    "having",
    "group",
    "order",
    "distinct",
    "setop",
    "window",
    "limit",
    "values",
    "set",
    "write",
    "function",
    "sample",
    "conflict",
    "merge",
    "ddl",
]
QueryKind: TypeAlias = Literal["select", "setop", "values", "insert", "update", "delete", "merge"]

#: Clauses in which a value decides which rows come out, in which order or how they are grouped.
PREDICATE_CLAUSES: frozenset[Clause] = frozenset(
    (
        "where",
        "filter",
        "on",
        "using",
        "having",
        "group",
        "order",
        "distinct",
        "setop",
        "window",
        "limit",
        "conflict",
        "merge",
        "sample",
    )
)


class Reference:
    """One mention of a relation.

    `relation` is the catalog's entry, None without a catalog or when it has none (a system relation, or no such relation).
    `wrapper` is the tree's dict that holds the RangeVar (`{"RangeVar": {...}}`), so that a rewrite can replace it; DML
    targets are not wrapped. `joins` is the path of (JoinExpr fields, side) from the FROM list down to the reference.

    >>> from guarddb.sql.analysis.classify import read_statement
    >>> from guarddb.tree import parse
    >>> read_statement(parse("DELETE FROM shop.orders AS o USING users")[0], None, {}).references
    [<Reference shop.orders AS o for delete>, <Reference public.users AS users for read>]
    """

    __slots__ = (
        "alias",
        "alias_columns",
        "exact",
        "hidden_by_join_alias",
        "inherits",
        "joins",
        "location",
        "mode",
        "name",
        "node",
        "query",
        "relation",
        "sample",
        "schema",
        "system_columns",
        "unmapped_alias",
        "whole_row",
        "wrapper",
    )

    def __init__(
        self,
        schema: str,
        name: str,
        relation: Relation | None,
        node: Node,
        mode: Mode,
        query: Query | None,
        alias: str,
        wrapper: Node | None = None,
    ) -> None:
        self.schema = schema
        self.name = name
        self.relation = relation
        self.node = node
        self.mode = mode
        self.query = query
        self.alias = alias
        self.wrapper = wrapper
        self.alias_columns: tuple[str, ...] | None = None
        #: its columns are known: these and no others
        self.exact = relation is not None
        self.hidden_by_join_alias = False
        self.inherits: bool = node.get("inh", False)
        self.joins: tuple[tuple[Node, str], ...] = ()
        self.location: int = node.get("location", 0)
        #: the tree's dict that holds the RangeTableSample around the RangeVar
        self.sample: Node | None = None
        self.system_columns = False
        self.unmapped_alias = False
        self.whole_row = False

    @property
    def qualified_name(self) -> str:
        return f"{self.schema}.{self.name}"

    def __repr__(self) -> str:
        return f"<Reference {self.qualified_name} AS {self.alias} for {self.mode}>"


Link: TypeAlias = "tuple[Reference, str] | Output"


class Output:
    """One column of a query's result.

    `links`: what the output is a bare copy of (several for the merged column of a join or of a set operation).
    `opaque`: what it carries whole, not as a bare column: the column of a scalar subquery, a whole row.
    `root`: the expression, when it is one. `target`: the ResTarget fields; None for a column of a set operation or CTE.
    `star`: it is one of those that a star expands to. `qualifier`: the alias by which it is reached (None: unqualified, a merged
    column). `spelled`: it can be written by itself. `whole_item`: the star has every column of the item of that alias, and
    nothing else under it, so that `alias.*` means the same.
    `guessed`: its name is our reading of a rule of PostgreSQL's (an unnamed expression, a function's column), so that a name
    found here may still mean a column further out.
    `call`: for a column of a function in FROM, the call, and `place`, which column of its result it is. `type_name`: the type
    that stands beside one in a column definition list.
    `open`: not one column but all the unknown columns of this reference (no catalog), or of a function.

    >>> from guarddb.sql.analysis.classify import read_statement
    >>> from guarddb.tree import parse
    >>> statement = read_statement(parse("SELECT e AS f FROM (SELECT email AS e FROM users) AS q")[0], None, {})
    >>> (output,) = statement.top.outputs
    >>> output, output.links, output.links[0].links
    (<Output f>, [<Output e>], [(<Reference public.users AS users for read>, 'email')])
    """

    __slots__ = (
        "call",
        "guessed",
        "links",
        "name",
        "opaque",
        "open",
        "place",
        "qualifier",
        "query",
        "root",
        "spelled",
        "star",
        "target",
        "type_name",
        "whole_item",
    )

    def __init__(
        self, name: str, links: Iterable[Link] = (), target: Node | None = None, query: Query | None = None
    ) -> None:
        self.name = name
        self.links: list[Link] = list(links)
        self.opaque: list[Link] = []
        self.target = target
        self.query = query
        self.root: Root | None = None
        self.star = False
        self.spelled = True
        self.whole_item = False
        self.guessed = False
        self.call: Node | None = None
        self.place = 0
        self.type_name: Node | None = None
        self.qualifier: str | None = None
        self.open: Open | None = None

    def __repr__(self) -> str:
        return f"<Output {self.name}>"


class Open:
    """All columns of something whose columns nobody knows: a relation without a catalog, or a function (reference None).

    `partial`: all but those that a join merges with another's. `made_of`: the output that holds what they are computed from.
    """

    __slots__ = ("made_of", "partial", "reference")

    def __init__(self, reference: Reference | None, *, partial: bool = False) -> None:
        self.reference = reference
        self.partial = partial
        self.made_of: Output | None = None


class Root:
    """One expression in one clause of one query, and every column it uses: `(link, ColumnRef fields)`.

    `compared`: of USING and NATURAL, the columns of each name, which are compared with each other.

    >>> from guarddb.sql.analysis.classify import read_statement
    >>> from guarddb.tree import parse
    >>> statement = read_statement(parse("SELECT upper(name) FROM users WHERE id = 1")[0], None, {})
    >>> [(root.clause, [link[1] for link, _ in root.uses]) for root in statement.roots]
    [('target', ['name']), ('where', ['id'])]
    """

    __slots__ = ("clause", "compared", "node", "query", "uses")

    def __init__(self, query: Query | None, clause: Clause, node: object) -> None:
        self.query = query
        self.clause: Clause = clause
        self.node = node
        self.uses: list[tuple[Link, Node | None]] = []
        self.compared: list[list[Link]] = []

    def __repr__(self) -> str:
        return f"<Root {self.clause} {self.uses}>"


class Query:
    """One query level. `fields` are the fields of its SelectStmt, InsertStmt …; `top` marks the statement's own result."""

    __slots__ = (
        "branches",
        "clause",
        "fields",
        "filters_rows",
        "group_by",
        "in_exists",
        "in_part",
        "joins",
        "kind",
        "null_extended",
        "outputs",
        "parent",
        "references",
        "target",
        "top",
        "written",
    )

    def __init__(self, kind: QueryKind, fields: Node, parent: Query | None) -> None:
        self.kind: QueryKind = kind
        self.fields = fields
        self.parent = parent
        self.outputs: list[Output] = []
        self.references: list[Reference] = []
        self.branches: tuple[Query, Query] | None = None
        #: of a sub-select in an expression, the clause that the expression stands in
        self.clause: Clause | None = None
        self.target: Reference | None = None
        self.top = False
        #: for UPDATE, DELETE, MERGE: the condition holds a column of the statement's own relations
        self.filters_rows = False
        #: stands in FROM below an outer join or grouping sets, which may put NULLs in its place
        self.null_extended = False
        #: of a subquery in FROM, the path of joins down to it, as in Reference
        self.joins: tuple[tuple[Node, str], ...] = ()
        #: an EXISTS asks only whether there is a row: its outputs go nowhere
        self.in_exists = False
        self.group_by: list[Link] = []
        #: column names that INSERT, UPDATE or MERGE assigns
        self.written: set[str] = set()
        #: those of which a part is assigned (`SET home.street = …`, `SET tags[2] = …`), so that their old value counts
        self.in_part: set[str] = set()

    def leaves(self) -> Iterator[Query]:
        """The queries whose target lists make this query's rows: itself, or the branches of a set operation."""
        stack = [self]
        while stack:
            query = stack.pop()
            if query.branches:
                stack.extend(reversed(query.branches))
            else:
                yield query


class Call:
    """One function call in whatever clothes. `how` says which: call, attribute, procedure."""

    __slots__ = ("arguments", "how", "name", "node", "schema")

    def __init__(
        self, schema: str | None, name: str, arguments: int, node: Node | None, how: str = "call"
    ) -> None:
        self.schema = schema
        self.name = name
        self.arguments = arguments
        self.node = node
        self.how = how

    @property
    def shown(self) -> str:
        return f"{self.schema}.{self.name}" if self.schema else self.name


class TypeUse:
    """A type named in a cast, a column definition or a JSON/XML function."""

    __slots__ = ("name", "schema")

    def __init__(self, schema: str | None, name: str) -> None:
        self.schema = schema
        self.name = name


class Statement:
    """All facts of one statement of the text. Whoever goes on looking at its queries keeps the statement itself."""

    __slots__ = (
        "analyzes",
        "calls",
        "command",
        "ddl",
        "definitions",
        "end",
        "fields",
        "inner",
        "kind",
        "kinds",
        "location",
        "locks_rows",
        "operation",
        "operators",
        "queries",
        "references",
        "returns_rows",
        "roots",
        "row_counts",
        "session_name",
        "session_verb",
        "top",
        "transaction",
        "types",
        "wrapper",
    )

    def __init__(self, command: str, fields: Node, wrapper: Node) -> None:
        #: the node's name: SelectStmt, AlterTableStmt …; `fields` its fields, `wrapper` the dict that holds it
        self.command = command
        self.fields = fields
        self.wrapper = wrapper
        self.location = 0
        self.end = 0
        self.kind: Kind = "other"
        self.kinds: set[Kind] = set()
        self.operation = command
        self.references: list[Reference] = []
        self.queries: list[Query] = []
        self.roots: list[Root] = []
        #: rows of a relation that are counted: (ColumnRef, relation, the form of the count with `{}` for what is to be counted)
        self.row_counts: list[tuple[Node, Reference, str]] = []
        self.calls: list[Call] = []
        self.operators: set[tuple[str | None, str]] = set()
        self.types: list[TypeUse] = []
        self.top: Query | None = None
        self.returns_rows = False
        self.locks_rows = False
        #: EXPLAIN (ANALYZE): what it explains also runs
        self.analyzes = False
        #: the utility statement's (name, fields), through EXPLAIN and the like, when there is one to judge
        self.ddl: tuple[str, Node] | None = None
        #: the same as facts, with what stands inside CREATE SCHEMA and CREATE RULE
        self.definitions: tuple[Definition, ...] = ()
        #: the statement that really runs, looked at through EXPLAIN, PREPARE, DECLARE, COPY, CREATE TABLE AS
        self.inner: list[str] = []
        self.transaction: str | None = None
        self.session_verb: str | None = None
        self.session_name: str | None = None

    def __del__(self) -> None:
        # Queries, outputs and references refer to each other in circles. Cut, they are freed with the statement; left to
        # Python's collector, they keep it busy for a fifth of the time that a decision takes.
        for query in self.queries:
            query.references, query.outputs, query.group_by = [], [], []
            query.target = query.branches = None


def origins(link: Link) -> set[tuple[Reference, str]]:
    """The base columns a link goes back to, through every subquery, CTE (recursive ones too) and set operation."""
    if isinstance(link, tuple):
        return {link}
    found: set[tuple[Reference, str]] = set()
    seen: set[int] = set()
    stack: list[Link] = [link]
    while stack:
        item = stack.pop()
        if isinstance(item, tuple):
            found.add(item)
        elif id(item) not in seen:
            seen.add(id(item))
            stack.extend(item.links)
            stack.extend(item.opaque)
    return found


def depends_on(link: Link) -> set[Reference]:
    """Every reference a link's value can depend on, expressions on the way included."""
    found: set[Reference] = set()
    seen: set[int] = set()
    stack: list[Link] = [link]
    while stack:
        item = stack.pop()
        if isinstance(item, tuple):
            found.add(item[0])
        elif id(item) not in seen:
            seen.add(id(item))
            stack.extend(item.links)
            stack.extend(item.opaque)
            if item.root is not None:
                stack.extend(use for use, _ in item.root.uses)
    return found
