"""What PostgreSQL's own analyzer made of a statement: the tree in pg_proc.prosqlbody, read and followed.

`CREATE FUNCTION … BEGIN ATOMIC statement; END` (PostgreSQL 14 and later) resolves every name of a statement and stores the
analysed tree as text (nodes/outfuncs.c). `read` makes dicts and lists of it; `Resolved` follows each Var to the base column
it stands for. Nothing here knows guarddb.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

Tree: TypeAlias = dict[str, Any]
#: (pg_class.oid, attribute number); 0 is the whole row, negative numbers are system columns
BaseColumn: TypeAlias = tuple[int, int]

_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|[(){}]|(?:\\.|[^\s(){}\\])+', re.DOTALL)
#: The OID of count("any") (pg_proc.dat).
_COUNT_ANY = "2147"
#: sysattr.h, FirstLowInvalidHeapAttributeNumber: what column numbers are shifted by in a bitmap.
_FIRST_LOW_INVALID = -7
_KINDS = (
    "relation",
    "subquery",
    "join",
    "function",
    "tablefunc",
    "values",
    "cte",
    "tuplestore",
    "result",
    "group",
)


def read(text: str) -> Any:
    """The tree of a pg_node_tree. A node is a dict with its tag under `_`."""
    tokens = _TOKEN.findall(text)
    value, _ = _value(tokens, 0)
    return value


def _value(tokens: list[str], at: int) -> tuple[Any, int]:
    token = tokens[at]
    if token == "{":
        node: Tree = {"_": tokens[at + 1]}
        at += 2
        while tokens[at] != "}":
            key = tokens[at][1:]
            if key == "constvalue" and tokens[at + 1] != "<>":
                end = tokens.index("]", at)
                node[key] = tuple(tokens[at + 3 : end])
                at = end + 1
                continue
            node[key], at = _value(tokens, at + 1)
        return node, at + 1
    if token == "(":
        at += 1
        items: list[Any] = []
        if tokens[at] in ("i", "o", "b", "x"):
            at += 1
        while tokens[at] != ")":
            item, at = _value(tokens, at)
            items.append(item)
        return items, at + 1
    if token == "<>":
        return None, at + 1
    if token[0] == '"':
        token = token[1:-1]
    return (re.sub(r"\\(.)", r"\1", token, flags=re.DOTALL) if "\\" in token else token), at + 1


class Level:
    """One query of the tree and the one around it."""

    __slots__ = ("parent", "query")

    def __init__(self, query: Tree, parent: Level | None) -> None:
        self.query = query
        self.parent = parent

    def up(self, levels: int) -> Level:
        level: Level = self
        for _ in range(levels):
            assert level.parent is not None
            level = level.parent
        return level


def is_assigned(node: Tree, above: tuple[Tree, ...]) -> bool:
    """`SET numbers[1] = 0`, `SET address.city = 'x'`: the column as it was goes into itself and nowhere else."""
    if not above:
        return False
    around = above[-1]
    if around["_"] == "SUBSCRIPTINGREF":
        return around["refexpr"] is node and around["refassgnexpr"] is not None
    return around["_"] == "FIELDSTORE" and around["arg"] is node


def kind_of(entry: Tree) -> str:
    """The kind of a range table entry."""
    return _KINDS[int(entry["rtekind"])]


Visit: TypeAlias = Callable[[Level, Tree, tuple[Tree, ...]], None]


class Resolved:
    """The analysed tree of one statement."""

    def __init__(self, text: str) -> None:
        tree = read(text)
        while isinstance(tree, list):
            tree = tree[0]
        self.top = Level(tree, None)
        self._levels: list[Level] | None = None

    # ------------------------------------------------------------------ what is there

    def names(self) -> list[str]:
        """The names of the columns that the statement returns."""
        return [entry["resname"] or "" for entry in self._outputs(self.top.query)]

    def outputs(self) -> list[set[BaseColumn]]:
        """Of each column that the statement returns, every base column that its value is made of."""
        return [self.made_of(entry["expr"], self.top) for entry in self._outputs(self.top.query)]

    def bare(self) -> list[BaseColumn | None]:
        """Of each column that the statement returns, the base column that it is a copy of, if it is one."""
        return [self.copy_of(entry["expr"], self.top) for entry in self._outputs(self.top.query)]

    def uses(self) -> set[BaseColumn]:
        """Every base column that stands anywhere in the statement."""
        found: set[BaseColumn] = set()

        def visit(level: Level, node: Tree, above: tuple[Tree, ...]) -> None:
            if (column := self.base(node, level)) is not None and not is_assigned(node, above):
                found.add(column)

        self.walk(visit)
        return found

    def relations(self) -> Iterator[tuple[Level, int, Tree]]:
        """Every range table entry of a relation: (query, its index from 1, entry)."""
        for level in self.levels():
            for index, entry in enumerate(level.query["rtable"] or (), 1):
                if kind_of(entry) == "relation":
                    yield level, index, entry

    def levels(self) -> Iterator[Level]:
        """Every query, at any depth."""
        if self._levels is None:
            self._levels = list(self._all_levels())
        yield from self._levels

    def _all_levels(self) -> Iterator[Level]:
        found: list[Level] = []
        stack: list[tuple[Any, Level | None]] = [(self.top.query, None)]
        while stack:
            value, parent = stack.pop()
            if isinstance(value, list):
                stack += [(item, parent) for item in value]
            elif isinstance(value, dict):
                if value.get("_") == "QUERY":
                    parent = self.top if value is self.top.query else Level(value, parent)
                    found.append(parent)
                stack += [(child, parent) for child in value.values() if isinstance(child, dict | list)]
        yield from found

    def selected(self) -> set[BaseColumn]:
        """The columns on which the server asks for the right to SELECT; number 0 for any one (PostgreSQL 16 and later)."""
        found: set[BaseColumn] = set()
        for level in self.levels():
            for entry in level.query.get("rteperminfos") or ():
                found |= {
                    (int(entry["relid"]), int(n) + _FIRST_LOW_INVALID) for n in entry["selectedCols"] or ()
                }
        return found

    def functions(self) -> set[int]:
        """The OIDs of every function that the statement calls, through operators and casts too."""
        found: set[int] = set()
        stack: list[Any] = [self.top.query]
        while stack:
            value = stack.pop()
            if isinstance(value, list):
                stack += value
            elif isinstance(value, dict):
                for key in ("funcid", "opfuncid", "aggfnoid", "winfnoid"):
                    if key in value:
                        found.add(int(value[key]))
                stack += [child for child in value.values() if isinstance(child, dict | list)]
        return found

    # ------------------------------------------------------------------ walking

    def walk(self, visit: Visit) -> None:
        """Call `visit(query, node, nodes above it)` for each expression node; a Var of a join stands above what it joins."""
        for level in self.levels():
            query = level.query
            parts: list[Any] = [
                query[key]
                for key in (
                    "targetList",
                    "jointree",
                    "returningList",
                    "havingQual",
                    "limitOffset",
                    "limitCount",
                    "onConflict",
                    "mergeActionList",
                    "mergeJoinCondition",
                    "withCheckOptions",
                    "windowClause",
                )
                if query.get(key) is not None
            ]
            for entry in query["rtable"] or ():
                parts += [
                    entry[key]
                    for key in ("functions", "tablefunc", "values_lists", "tablesample")
                    if entry.get(key) is not None
                ]
            for part in parts:
                self._walk(part, level, (), visit)

    def _walk(self, value: Any, level: Level, above: tuple[Tree, ...], visit: Visit) -> None:
        if isinstance(value, list):
            for item in value:
                self._walk(item, level, above, visit)
            return
        if not isinstance(value, dict) or value.get("_") == "QUERY":
            return
        if value["_"] == "VAR":
            meant = self._behind(value, level)
            if meant is not None:
                self._walk(meant[0], meant[1], (*above, value), visit)
                return
        visit(level, value, above)
        for key, child in value.items():
            # (The columns of EXCLUDED are listed with ON CONFLICT; they are used where a Var names one.)
            if isinstance(child, dict | list) and key != "exclRelTlist":
                self._walk(child, level, (*above, value), visit)

    def _behind(self, var: Tree, level: Level) -> tuple[Any, Level] | None:
        """What a Var of a join or of the grouping step stands for."""
        owner = level.up(int(var["varlevelsup"]))
        entry = owner.query["rtable"][int(var["varno"]) - 1]
        number = int(var["varattno"])
        kind = kind_of(entry)
        if kind == "join":
            if number == 0:
                return entry["joinaliasvars"], owner
            return entry["joinaliasvars"][number - 1], owner
        if kind == "group":
            return entry["groupexprs"][number - 1], owner
        return None

    def base(self, node: Tree, level: Level) -> BaseColumn | None:
        """The base column of a Var, when it is one of a relation."""
        if node.get("_") != "VAR":
            return None
        owner = level.up(int(node["varlevelsup"]))
        number = int(node["varno"])
        if number < 1:
            return None
        entry = owner.query["rtable"][number - 1]
        if kind_of(entry) != "relation" or entry["relkind"] == "c" or self.is_proposed(owner, number):
            return None
        return int(entry["relid"]), int(node["varattno"])

    @staticmethod
    def is_proposed(owner: Level, number: int) -> bool:
        """EXCLUDED: the row that an INSERT proposes, of which nothing was in the table."""
        conflict = owner.query.get("onConflict")
        return conflict is not None and conflict["exclRelIndex"] == str(number)

    # ------------------------------------------------------------------ where values come from

    @staticmethod
    def _outputs(query: Tree) -> list[Tree]:
        if query["commandType"] == "1":
            listed = query["targetList"]
        else:
            listed = query["returningList"]
        if isinstance(listed, dict):
            listed = listed.get("exprs")
        return [entry for entry in listed or () if entry["resjunk"] != "true"]

    def _below(self, var: Tree, level: Level) -> list[tuple[Any, Level]] | None:
        """The expressions that a Var of a subquery, a WITH query or VALUES is made of."""
        owner = level.up(int(var["varlevelsup"]))
        entry = owner.query["rtable"][int(var["varno"]) - 1]
        number = int(var["varattno"])
        kind = kind_of(entry)
        if kind == "values":
            rows = entry["values_lists"] or ()
            return [(row[number - 1] if number else row, owner) for row in rows]
        if kind == "subquery":
            return self._columns(Level(entry["subquery"], owner), number)
        if kind == "cte":
            place = owner.up(int(entry["ctelevelsup"]))
            for wanted in place.query["cteList"] or ():
                if wanted["ctename"] == entry["ctename"]:
                    return self._columns(Level(wanted["ctequery"], place), number)
        return None  # what goes into a function in FROM is used there

    def _columns(self, level: Level, number: int) -> list[tuple[Any, Level]]:
        query = level.query
        found: list[tuple[Any, Level]] = []
        found += [(e["expr"], level) for e in self._outputs(query) if number in (0, int(e["resno"]))]
        if query.get("setOperations") is not None:
            # The target list shows the first branch only; each leaf of the tree is a subquery in the range table.
            for leaf in _leaves(query["setOperations"]):
                branch = query["rtable"][leaf - 1]["subquery"]
                found += self._columns(Level(branch, level), number)
        return found

    def made_of(self, value: Any, level: Level) -> set[BaseColumn]:
        """Every base column that a value can be made of."""
        found: set[BaseColumn] = set()
        seen: set[tuple[int, int]] = set()
        stack: list[tuple[Any, Level]] = [(value, level)]
        while stack:
            item, here = stack.pop()
            if isinstance(item, list):
                stack += [(each, here) for each in item]
                continue
            if not isinstance(item, dict) or (id(item), id(here.query)) in seen:
                continue
            seen.add((id(item), id(here.query)))
            if item["_"] == "VAR":
                if (column := self.base(item, here)) is not None:
                    found.add(column)
                elif (meant := self._behind(item, here)) is not None:
                    stack.append(meant)
                elif (below := self._below(item, here)) is not None:
                    stack += below
                if here.query.get("setOperations") is not None and item["varlevelsup"] == "0":
                    for leaf in _leaves(here.query["setOperations"]):
                        branch = here.query["rtable"][leaf - 1]["subquery"]
                        stack += self._columns(Level(branch, here), int(item["varattno"]))
                continue
            if item["_"] == "SUBLINK":
                stack.append((item["testexpr"], here))
                if item["subLinkType"] != "0":
                    stack += self._columns(Level(item["subselect"], here), 0)
                continue
            if item["_"] == "QUERY" or (item["_"] == "TARGETENTRY" and item["resjunk"] == "true"):
                continue
            if item.get("aggfnoid", item.get("winfnoid")) == _COUNT_ANY and _is_row(item["args"]):
                continue  # how many rows there are, and nothing of what is in them
            # What an aggregate chooses and sorts by decides about rows; it is used there, and not what comes out.
            skipped = ("aggfilter", "args") if item.get("aggkind", "n") != "n" else ("aggfilter",)
            item = {key: child for key, child in item.items() if key not in skipped}
            stack += [(child, here) for child in item.values() if isinstance(child, dict | list)]
        return found

    def copy_of(self, value: Any, level: Level) -> BaseColumn | None:
        """The base column that a value is a bare copy of, through subqueries; None for anything computed or merged."""
        for _ in range(200):
            if not isinstance(value, dict) or value["_"] != "VAR":
                return None
            if (column := self.base(value, level)) is not None:
                return column
            if (meant := self._behind(value, level)) is not None:
                value, level = meant
                continue
            below = self._below(value, level)
            if below is None or len(below) != 1:
                return None
            ((value, level),) = below
        return None


def _is_row(arguments: list[Tree]) -> bool:
    expression = arguments[0].get("expr", arguments[0])
    return expression["_"] == "VAR" and expression["varattno"] == "0"


def _leaves(node: Tree) -> Iterator[int]:
    if node["_"] == "RANGETBLREF":
        yield int(node["rtindex"])
        return
    yield from _leaves(node["larg"])
    yield from _leaves(node["rarg"])
