"""A grammar of statements over the oracles' schema, aware of types, scopes and of where it put a masked column.

Nearly every statement is valid, and the answer of each is determined: LIMIT stands over a total order, an aggregate that
depends on the order has one, UPDATE … FROM finds one source row. So two servers that hold the same must answer the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.oracles.draws import Draws, spanned
from tests.oracles.schema import Table

STRENGTH = ("", "hash", "redact", "null")
_PARAMETER = re.compile(r"\$(\d+)")
_HOLE = re.compile("\x01(\\d+)\x02")


@dataclass(slots=True)
class Col:
    """A column in scope or of a result. `mask`: what the agent sees of it; `trap`: how a hidden value of it raises."""

    name: str
    type: str
    trap: str = ""
    mask: str = ""


@dataclass(slots=True)
class Item:
    """A FROM item: what `alias.column` can name. `table` is set when it is a relation with system columns."""

    alias: str
    cols: list[Col]
    key: tuple[str, ...] = ()
    table: Table | None = None
    whole: bool = True


@dataclass(slots=True)
class Scope:
    items: list[Item]
    parent: Scope | None = None

    def levels(self) -> list[Scope]:
        found: list[Scope] = []
        scope: Scope | None = self
        while scope is not None:
            found.append(scope)
            scope = scope.parent
        return found


@dataclass(slots=True)
class Cte:
    name: str
    cols: list[Col]


@dataclass(slots=True)
class Query:
    """A query's text and its columns. `ordered`: its rows come in a total order."""

    sql: str
    cols: list[Col]
    ordered: bool = False


@dataclass(slots=True)
class Generated:
    """One statement.

    Attributes:
        sql: what the agent sends; `expected_sql`: what the copy with overwritten columns is asked instead.
        params: the values of $1, $2 …, as text.
        cols: its result's columns, with the mask that each must show; None when it returns no rows.
        ordered: whether the rows come in a total order.
        writes: whether it changes anything.
        misuses: what it does with masked columns besides selecting them; a refusal is right only when there is some.
        features: the parts of the grammar that were used.
        dirty: it holds expressions that raise on visible rows as well.
    """

    sql: str
    expected_sql: str
    params: list[str | None]
    cols: list[Col] | None
    ordered: bool
    writes: bool
    misuses: list[str]
    features: list[str]
    dirty: bool
    made: list[int]


@dataclass(frozen=True, slots=True)
class Grammar:
    """What a generator makes: how often writes, and how often a masked column is misused (percent)."""

    tables: dict[str, Table]
    writes: float = 30
    misuse: float = 0
    dirty: float = 6


class Ctx:
    """Where an expression stands. `masked`: whether masked columns may be in it at no cost."""

    __slots__ = ("agg", "calls", "scope", "sub")

    def __init__(self, scope: Scope, *, agg: bool = False, sub: int = 0) -> None:
        self.scope = scope
        self.agg = agg
        self.sub = sub


def generate(draws: Draws, grammar: Grammar) -> Generated:
    return _Generator(draws, grammar).statement()


class _Generator:
    def __init__(self, draws: Draws, grammar: Grammar) -> None:
        self.d = draws
        self.g = grammar
        self.tables = grammar.tables
        self.readable = list(grammar.tables.values())
        self.params: list[str | None] = []
        self.misuses: list[str] = []
        self.features: list[str] = []
        self.holes: list[tuple[str, str]] = []
        self.aliases = 0
        self.ctes: list[Cte] = []
        self.modified: set[str] = set()
        self.dirty = False
        self.writes = False
        self.masks = any(c.mask for t in self.readable for c in t.columns)
        self.subqueries = 0

    # ------------------------------------------------------------------ small things

    def used(self, feature: str) -> None:
        self.features.append(feature)

    def alias(self) -> str:
        self.aliases += 1
        return f"a{self.aliases}"

    def misuse(self, what: str) -> bool:
        """Whether to use a masked column where it may only be refused; written down when so."""
        if self.masks and self.d.chance(self.g.misuse):
            self.misuses.append(what)
            return True
        return False

    def two(self, sent: str, expected: str) -> str:
        """A text that differs between what is sent and what the copy is asked."""
        self.holes.append((sent, expected))
        return f"\x01{len(self.holes) - 1}\x02"

    def resolve(self, text: str, side: int) -> str:
        while "\x01" in text:
            text = _HOLE.sub(lambda m: self.holes[int(m[1])][side], text)
        return text

    def ref(self, scope: Scope, item: Item, col: Col) -> str:
        """A column by its name; without the alias now and then, where that means the same."""
        if scope.parent is None and self.d.chance(25):
            if sum(c.name == col.name for i in scope.items for c in i.cols) == 1:
                return col.name
        return f"{item.alias}.{col.name}"

    # ------------------------------------------------------------------ expressions

    def columns(self, scope: Scope, type: str, *, masked: bool = False) -> list[tuple[Scope, Item, Col]]:
        return [
            (level, item, col)
            for level in scope.levels()
            for item in level.items
            for col in item.cols
            if (type in ("*", col.type)) and (masked or not col.mask)
        ]

    def column(self, ctx: Ctx, type: str, trap: str = "", *, own: bool = False) -> str | None:
        """A column of the type, an unmasked one unless it is misused on purpose."""
        if self.misuse("expression"):
            found = [c for c in self.columns(ctx.scope, type, masked=True) if c[2].mask]
            if found:
                return self.ref(*self.d.pick(found))
            self.misuses.pop()
        found = self.columns(ctx.scope, type)
        if own:
            found = [c for c in found if c[0] is ctx.scope]
        if trap:
            found = [c for c in found if c[2].trap == trap]
        elif len(found) > 1 and self.d.chance(75):
            # The innermost query's own, mostly.
            found = [c for c in found if c[0] is ctx.scope] or found
        if not found:
            return None
        level, item, col = self.d.pick(found)
        return self.ref(ctx.scope, item, col) if level is ctx.scope else f"{item.alias}.{col.name}"

    def constant(self, type: str) -> str:
        if type == "int":
            value = str(self.d.below(10))
            if self.d.chance(20):
                return self.param(value, "int")
            return value
        if type == "text":
            value = self.d.pick(("1", "2", "3", "a", "z", "2024-01-02", ""))
            if self.d.chance(20):
                return self.param(value, "text")
            return f"'{value}'"
        if type == "date":
            return f"date '2024-03-0{self.d.below(4) + 1}'"
        return self.d.pick(("true", "false", "NULL::bool"))

    def param(self, value: str, type: str) -> str:
        if len(self.params) >= 6:
            return value if type == "int" else f"'{value}'"
        self.params.append(value)
        self.used("parameter")
        return f"${len(self.params)}" + (f"::{type}" if type in ("int", "text") else "")

    def expr(self, type: str, ctx: Ctx, depth: int = 2) -> str:
        make = {"int": self.int_, "text": self.text, "bool": self.bool_, "date": self.date}[type]
        return make(ctx, depth)

    def plain(self, type: str, ctx: Ctx) -> str:
        found = self.column(ctx, type)
        return found if found is not None and not self.d.chance(12) else self.constant(type)

    @spanned
    def int_(self, ctx: Ctx, depth: int) -> str:
        if depth <= 0:
            return self.plain("int", ctx)
        d = self.d
        form = d.weighted(_INT_FORMS)
        if form == "plain":
            return self.plain("int", ctx)
        if form == "trap":
            return self.trap("int", ctx) or self.plain("int", ctx)
        if form == "plus":
            column = self.column(ctx, "int")
            # id and the like stay small whatever is hidden; n may overflow, which is the point.
            return f"({column} + {d.below(5)})" if column else self.constant("int")
        if form == "length":
            return f"length({self.text(ctx, depth - 1)})"
        if form == "case":
            return f"CASE WHEN {self.bool_(ctx, depth - 1)} THEN {self.int_(ctx, depth - 1)} ELSE {self.int_(ctx, depth - 1)} END"
        if form == "coalesce":
            return f"coalesce({self.int_(ctx, depth - 1)}, {self.constant('int')})"
        if form == "greatest":
            return f"greatest({self.int_(ctx, depth - 1)}, {self.int_(ctx, depth - 1)})"
        if form == "nullif":
            return f"nullif({self.int_(ctx, depth - 1)}, {self.constant('int')})"
        if form == "dirty" and d.chance(self.g.dirty):
            self.dirty = True
            self.used("dirty")
            return f"(6 / ({self.plain('int', ctx)} - 3))"
        if form == "scalar":
            return self.scalar("int", ctx) or self.plain("int", ctx)
        return self.plain("int", ctx)

    def trap(self, type: str, ctx: Ctx) -> str | None:
        """An expression that raises on a hidden row and on no other."""
        d = self.d
        if type == "int":
            n = self.column(ctx, "int", "n")
            num = self.column(ctx, "text", "num")
            options = []
            if n:
                options += [f"(12 / {n})", f"({n} + 1)", f"abs({n})", f"({n} * 3)", f"(7 % {n})"]
            if num:
                options += [f"{num}::int", f"CAST({num} AS int)"]
        elif type == "text":
            n = self.column(ctx, "int", "n")
            reg = self.column(ctx, "text", "reg")
            options = []
            if n:
                options += [f"substring('abcdef', 1, {n})", f"repeat('x', 12 / {n})"]
            if reg:
                options += [f"{reg}::regclass::text"]
        elif type == "date":
            label = self.column(ctx, "text", "date")
            options = [f"{label}::date"] if label else []
        else:
            n = self.column(ctx, "int", "n")
            num = self.column(ctx, "text", "num")
            label = self.column(ctx, "text", "date")
            reg = self.column(ctx, "text", "reg")
            options = []
            if n:
                options += [
                    f"1 / {n} >= 0",
                    f"10 / {n} > 2",
                    f"{n} - 1 < 5",
                    f"substring('abc', 1, {n}) = 'abc'",
                ]
            if num:
                options += [f"{num}::int < 3", f"{num}::int IN (1, 2)"]
            if reg:
                options += [f"{reg}::regclass IS NOT NULL", f"{reg}::regclass::text = 'acct'"]
            if label:
                options += [
                    f"{label}::date > date '2024-01-02'",
                    f"to_date({label}, 'YYYY-MM-DD') IS NOT NULL",
                ]
        if not options:
            return None
        self.used(f"trap {type}")
        return d.pick(options)

    @spanned
    def text(self, ctx: Ctx, depth: int) -> str:
        if depth <= 0:
            return self.plain("text", ctx)
        d = self.d
        form = d.weighted(_TEXT_FORMS)
        if form == "trap":
            return self.trap("text", ctx) or self.plain("text", ctx)
        if form == "upper":
            return f"upper({self.text(ctx, depth - 1)})"
        if form == "concat":
            return f"({self.text(ctx, depth - 1)} || {self.constant('text')})"
        if form == "cast":
            return f"({self.int_(ctx, depth - 1)})::text"
        if form == "case":
            return f"CASE WHEN {self.bool_(ctx, depth - 1)} THEN {self.text(ctx, depth - 1)} END"
        if form == "coalesce":
            return f"coalesce({self.text(ctx, depth - 1)}, {self.constant('text')})"
        if form == "sub":
            return f"substring({self.text(ctx, depth - 1)}, 1, 2)"
        if form == "scalar":
            return self.scalar("text", ctx) or self.plain("text", ctx)
        if form == "row":
            item = self.whole_item(ctx.scope)
            if item is not None:
                self.used("whole row")
                return d.pick(
                    (
                        f"row_to_json({item.alias})::text",
                        f"{item.alias}::text",
                        f"to_jsonb({item.alias})::text",
                    )
                )
        return self.plain("text", ctx)

    def whole_item(self, scope: Scope) -> Item | None:
        """A FROM item to use whole in an expression."""
        found = [i for i in scope.items if i.whole]
        clean = [i for i in found if not any(c.mask for c in i.cols)]
        if self.masks and len(clean) < len(found) and self.misuse("whole row"):
            return self.d.pick([i for i in found if i not in clean])
        return self.d.pick(clean) if clean else None

    @spanned
    def date(self, ctx: Ctx, depth: int) -> str:
        form = self.d.weighted(((40, "plain"), (10, "trap"), (3, "plus")))
        if form == "trap" and depth > 0:
            return self.trap("date", ctx) or self.plain("date", ctx)
        if form == "plus" and depth > 0:
            return f"({self.date(ctx, depth - 1)} + 1)"
        return self.plain("date", ctx)

    @spanned
    def bool_(self, ctx: Ctx, depth: int) -> str:
        d = self.d
        form = d.weighted(_BOOL_FORMS)
        if form == "trap":
            return self.trap("bool", ctx) or self.compare(ctx)
        if depth <= 0 or form == "compare":
            return self.compare(ctx)
        if form in ("and", "or"):
            parts = [self.bool_(ctx, depth - 1) for _ in range(2 + d.below(2))]
            return "(" + f" {form.upper()} ".join(parts) + ")"
        if form == "not":
            return f"NOT ({self.bool_(ctx, depth - 1)})"
        if form == "null":
            type = d.pick(("int", "text"))
            return f"{self.plain(type, ctx)} IS {d.pick(('NOT ', ''))}NULL"
        if form == "in":
            values = ", ".join(self.constant("int") for _ in range(2 + d.below(3)))
            return f"{self.plain('int', ctx)} {d.pick(('', 'NOT '))}IN ({values})"
        if form == "between":
            return f"{self.plain('int', ctx)} BETWEEN {d.below(4)} AND {d.below(12)}"
        if form == "like":
            return f"{self.plain('text', ctx)} {d.pick(('LIKE', 'NOT LIKE', 'ILIKE'))} {d.pick(_PATTERNS)}"
        if form == "like_column":
            return f"{self.plain('text', ctx)} LIKE {self.plain('text', ctx)}"
        if form == "exists":
            return f"{d.pick(('', 'NOT '))}EXISTS ({self.subquery(ctx, None, 'exists').sql})"
        if form == "insub":
            type = d.pick(("int", "text"))
            return f"{self.plain(type, ctx)} {d.pick(('', 'NOT '))}IN ({self.subquery(ctx, [type], 'value').sql})"
        if form == "anysub":
            op = d.pick(("= ANY", ">= ALL", "<> ALL", "< ANY"))
            return f"{self.plain('int', ctx)} {op} ({self.subquery(ctx, ['int'], 'value').sql})"
        if form == "any":
            return (
                f"{self.plain('int', ctx)} = ANY (ARRAY[{', '.join(self.constant('int') for _ in range(2))}])"
            )
        if form == "distinct":
            type = d.pick(("int", "text"))
            return f"{self.plain(type, ctx)} IS {d.pick(('', 'NOT '))}DISTINCT FROM {self.plain(type, ctx)}"
        if form == "expr":
            type = d.pick(("int", "text", "date"))
            return f"{self.expr(type, ctx, depth - 1)} {d.pick(_COMPARE)} {self.expr(type, ctx, depth - 1)}"
        if form == "row":
            left = f"({self.plain('int', ctx)}, {self.plain('text', ctx)})"
            operator = d.pick(("=", "<", "IS DISTINCT FROM"))
            return f"{left} {operator} ({self.constant('int')}, {self.constant('text')})"
        if form == "column":
            found = self.column(ctx, "bool")
            return found or self.compare(ctx)
        if form == "case":
            return f"CASE WHEN {self.bool_(ctx, depth - 1)} THEN {self.bool_(ctx, depth - 1)} ELSE {self.compare(ctx)} END"
        return self.compare(ctx)

    def compare(self, ctx: Ctx) -> str:
        d = self.d
        type = d.weighted(((6, "int"), (3, "text"), (1, "date")))
        right = self.plain(type, ctx) if d.chance(30) else self.constant(type)
        return f"{self.plain(type, ctx)} {d.pick(_COMPARE)} {right}"

    # ------------------------------------------------------------------ subqueries in expressions

    def subquery(self, ctx: Ctx, types: Sequence[str] | None, use: str) -> Query:
        self.used("subquery")
        self.subqueries += 1
        return self.query(ctx.scope, types, use, small=True)

    @spanned
    def scalar(self, type: str, ctx: Ctx) -> str | None:
        """A subquery that gives at most one row: an aggregate, or the first in a total order."""
        if self.subqueries > 2:
            return None
        self.subqueries += 1
        self.used("scalar subquery")
        d = self.d
        scope = Scope([], ctx.scope)
        text = self.from_clause(scope, small=True)
        inner = Ctx(scope)
        where = f" WHERE {self.bool_(inner, 1)}" if d.chance(60) else ""
        if d.chance(50):
            column = self.column(inner, type, own=True) or self.constant(type)
            return f"(SELECT {d.pick(('max', 'min'))}({column}) FROM {text}{where})"
        column = self.column(inner, type, own=True)
        if column is None:
            return None
        return f"(SELECT {column} FROM {text}{where} ORDER BY 1 LIMIT 1)"

    # ------------------------------------------------------------------ FROM

    @spanned
    def table_item(self, *, plain: bool = False) -> tuple[str, Item]:
        """A relation or a CTE: its text and what it brings into scope."""
        d = self.d
        if self.ctes and d.chance(45):
            cte = d.pick(self.ctes)
            alias = self.alias()
            return f"{cte.name} {alias}", Item(alias, list(cte.cols))
        table = d.weighted(_WEIGHTS) if not self.masks else d.weighted(_MASK_WEIGHTS)
        table = self.tables[table]
        return self.relation(table, plain=plain)

    @spanned
    def relation(self, table: Table, *, plain: bool = False) -> tuple[str, Item]:
        d = self.d
        name = table.name
        if any(c.name == name for c in self.ctes) or d.chance(10):
            name = f"public.{name}"
        if table.only and d.chance(20):
            name = f"ONLY {name}"
            self.used("only")
        cols = [Col(c.name, c.type, c.trap, c.mask) for c in table.columns]
        key = table.key
        style = d.weighted(_ALIAS_FORMS)
        alias = self.alias()
        text = f"{name} {alias}"
        if style == "as":
            text = f'{name} AS "{alias}"'
        elif style == "bare" and plain:
            # Only where no second item can have the name.
            text, alias = name, table.name
        elif style == "columns":
            self.used("alias columns")
            count = 1 + d.below(len(cols))
            names = [f"{alias}c{i}" for i in range(count)]
            text = f"{name} AS {alias} ({', '.join(names)})"
            renamed = {c.name: n for c, n in zip(cols, names, strict=False)}
            key = tuple(renamed.get(k, k) for k in key)
            for col, new in zip(cols, names, strict=False):
                col.name = new
        elif style == "sample" and table.kind in ("r", "p"):
            self.used("tablesample")
            text = f"{name} {alias} TABLESAMPLE {d.pick(('system', 'bernoulli'))}(100)" + d.pick(
                ("", " REPEATABLE (1)")
            )
        if table.kind != "r":
            self.used({"v": "view", "p": "partitioned"}[table.kind])
        elif table.name in ("evt_a", "evt_rest", "kid"):
            self.used("child")
        return text, Item(alias, cols, key, table)

    @spanned
    def from_clause(self, scope: Scope, *, small: bool = False) -> str:
        d = self.d
        if small:
            if d.chance(75):
                text, item = self.table_item(plain=False)
                scope.items.append(item)
                return text
            return self.join(scope, 1)
        count = d.weighted(((60, 1), (25, 2), (6, 3)))
        if count == 1 and d.chance(30):
            text, item = self.table_item(plain=True)
            scope.items.append(item)
            return text
        if count > 1:
            self.used("comma join")
        return ", ".join([self.from_item(scope) for _ in range(count)])

    @spanned
    def from_item(self, scope: Scope, depth: int = 2) -> str:
        d = self.d
        form = d.weighted(_FROM_ITEM_FORMS)
        if form == "join" and depth > 0:
            return self.join(scope, depth)
        if form == "derived" and depth > 0:
            return self.derived(scope)
        if form == "lateral" and depth > 0 and scope.items:
            return "LATERAL " + self.derived(scope, lateral=True)
        if form == "values":
            return self.values(scope)
        if form == "function":
            alias = self.alias()
            self.used("function in from")
            text = d.pick(("generate_series(1, 4)", "unnest(ARRAY[1, 2, 7])"))
            scope.items.append(Item(alias, [Col("x", "int")], ("x",)))
            return f"{text} AS {alias}(x)"
        if form == "joinalias" and depth > 0:
            return self.join_alias(scope)
        text, item = self.table_item()
        scope.items.append(item)
        return text

    @spanned
    def values(self, scope: Scope) -> str:
        alias = self.alias()
        self.used("values")
        rows = ", ".join(f"({self.d.below(6)}, '{self.d.below(5)}')" for _ in range(1 + self.d.below(3)))
        scope.items.append(Item(alias, [Col("x", "int"), Col("y", "text")]))
        return f"(VALUES {rows}) AS {alias} (x, y)"

    @spanned
    def derived(self, scope: Scope, *, lateral: bool = False) -> str:
        self.used("lateral" if lateral else "derived")
        alias = self.alias()
        query = self.query(scope if lateral else scope.parent, None, "rows", small=True)
        cols = [Col(c.name, c.type, c.trap, c.mask) for c in query.cols]
        names = ""
        if self.d.chance(20):
            names = "(" + ", ".join(f"{alias}d{i}" for i in range(len(cols))) + ")"
            for i, col in enumerate(cols):
                col.name = f"{alias}d{i}"
        scope.items.append(Item(alias, cols))
        return f"({query.sql}) AS {alias}{names}"

    @spanned
    def join(self, scope: Scope, depth: int) -> str:
        d = self.d
        start = len(scope.items)
        left = self.from_item(scope, depth - 1)
        kind = d.weighted(_JOIN_FORMS)
        self.used(kind.lower())
        mine = scope.items[start:]
        if kind == "LATERAL":
            # Only what stands to its left in this join, and in the items before.
            text = self.derived(scope, lateral=True)
            on = "true" if d.chance(60) else self.bool_(Ctx(scope), 1)
            return f"{left} {d.pick(('LEFT JOIN', 'JOIN'))} LATERAL {text} ON {on}"
        inner = Scope([], scope.parent)
        right = self.from_item(inner, depth - 1)
        scope.items += inner.items
        if kind == "CROSS JOIN":
            return f"{left} {kind} {right}"
        both = Scope(mine + inner.items, scope.parent)
        shared = self.shared(mine, inner.items)
        if kind == "NATURAL":
            names = {c.name for i in mine for c in i.cols} & {c.name for i in inner.items for c in i.cols}
            masked = any(c.mask for i in both.items for c in i.cols if c.name in names)
            if names and names == set(shared) and not masked:
                kind = d.pick(("NATURAL JOIN", "NATURAL LEFT JOIN", "NATURAL FULL JOIN"))
                return f"{left} {kind} {right}"
            kind = "JOIN"
        if shared and d.chance(30):
            self.used("using")
            return f"{left} {kind} {right} USING ({', '.join(shared[: 1 + d.below(2)])})"
        ctx = Ctx(both)
        one, other = self.column(Ctx(Scope(mine)), "int"), self.column(Ctx(Scope(inner.items)), "int")
        # Without the alias a name that is unique on one side may be on the other as well.
        one, other = _qualified(one, mine), _qualified(other, inner.items)
        if kind == "FULL JOIN":
            # PostgreSQL can merge or hash equality only.
            on = f"{one} = {other}" if one and other else "true"
        else:
            on = f"{one} = {other}" if one and other and d.chance(80) else self.bool_(ctx, 1)
            if d.chance(30):
                on += f" AND {self.bool_(ctx, 1)}"
        on = f"({on})" if kind == "FULL JOIN" else on
        text = f"{left} {kind} {right} ON {on}"
        return f"({text})" if d.chance(15) else text

    @staticmethod
    def shared(left: Sequence[Item], right: Sequence[Item]) -> list[str]:
        """Names that both sides have exactly once, of the same type, and no mask."""
        found = []
        for col in [c for i in left for c in i.cols]:
            mine = [c for i in left for c in i.cols if c.name == col.name]
            others = [c for i in right for c in i.cols if c.name == col.name]
            if len(mine) == 1 and len(others) == 1 and others[0].type == col.type:
                if not col.mask and not others[0].mask:
                    found.append(col.name)
        return found

    @spanned
    def join_alias(self, scope: Scope) -> str:
        self.used("join alias")
        alias = self.alias()
        inner = Scope([], scope.parent)
        left, right = self.table_item(), self.table_item()
        inner.items += [left[1], right[1]]
        one = self.column(Ctx(Scope([left[1]])), "int")
        other = self.column(Ctx(Scope([right[1]])), "int")
        one, other = _qualified(one, [left[1]]), _qualified(other, [right[1]])
        on = f"{one} = {other}" if one and other else "true"
        names = [c.name for i in inner.items for c in i.cols]
        cols = [
            Col(c.name, c.type, c.trap, c.mask)
            for i in inner.items
            for c in i.cols
            if names.count(c.name) == 1
        ]
        scope.items.append(Item(alias, cols, whole=False))
        return f"({left[0]} {self.d.pick(('JOIN', 'LEFT JOIN'))} {right[0]} ON {on}) AS {alias}"

    # ------------------------------------------------------------------ SELECT

    @spanned
    def query(
        self, parent: Scope | None, types: Sequence[str] | None, use: str, *, small: bool = False
    ) -> Query:
        """A query. `types` asks for certain columns; `use`: rows (they flow on), value (they are compared), exists."""
        d = self.d
        if d.chance(6 if small else 12):
            return self.set_operation(parent, types, use)
        if not small and types is None and d.chance(3):
            return self.table_command()
        form = d.weighted(_SELECT_FORMS)
        if use == "exists":
            form = d.pick(("plain", "aggregate")) if d.chance(10) else "plain"
        scope = Scope([], parent)
        text = self.from_clause(scope, small=small)
        ctx = Ctx(scope)
        where = f" WHERE {self.bool_(ctx, 2)}" if d.chance(55) else ""
        if form != "plain":
            self.used(form)
        wanted = list(types) if types is not None else None
        make: Callable[..., Query] = {
            "plain": self.select_plain,
            "window": self.select_window,
            "distinct": self.select_distinct,
            "distinct on": self.select_distinct_on,
            "aggregate": self.select_aggregate,
            "group": self.select_group,
            "sets": self.select_sets,
            "pk": self.select_pk,
        }[form]
        return make(ctx, text, where, wanted, use, small)

    def table_command(self) -> Query:
        table = self.tables[self.d.pick(("acct", "item", "evt", "kid", "v_acct", "v_nest"))]
        self.used("table command")
        name = f"public.{table.name}" if any(c.name == table.name for c in self.ctes) else table.name
        return Query(f"TABLE {name}", [Col(c.name, c.type, c.trap, c.mask) for c in table.columns])

    @spanned
    def target(self, ctx: Ctx, type: str | None, use: str, name: str, depth: int = 2) -> tuple[str, Col]:
        """A target and its column. Masked columns stand here bare, for that is what they are for."""
        d = self.d
        if self.masks and use in ("rows", "exists"):
            found = [
                c
                for c in self.columns(ctx.scope, type or "*", masked=True)
                if c[0] is ctx.scope and c[2].mask
            ]
            if found and d.chance(55):
                _, item, col = d.pick(found)
                reference = f"{item.alias}.{col.name}"
                if d.chance(10) and type is None:
                    # One value of it: NULL whatever the kind is.
                    picked = self.masked_scalar(item, col)
                    if picked is not None:
                        return f"{picked} AS {name}", Col(name, col.type, "", "null!")
                return f"{reference} AS {name}", Col(name, col.type, col.trap, col.mask)
        kind = type or d.weighted(_TARGET_FORMS)
        if d.chance(65):
            found = [c for c in self.columns(ctx.scope, kind) if c[0] is ctx.scope]
            if found:
                _, item, col = d.pick(found)
                return f"{self.ref(ctx.scope, item, col)} AS {name}", Col(name, kind, col.trap)
        return f"{self.expr(kind, ctx, depth)} AS {name}", Col(name, kind)

    def masked_scalar(self, item: Item, col: Col) -> str | None:
        """A scalar subquery over a masked column of a table: at most one row by its primary key."""
        tables = [t for t in self.readable if t.kind == "r" and t.primary_key and t.key == ("id",)]
        options = [(t, c) for t in tables for c in t.columns if c.mask and c.type == col.type]
        if not options:
            return None
        table, column = self.d.pick(options)
        self.used("masked scalar")
        alias = self.alias()
        return f"(SELECT {alias}.{column.name} FROM public.{table.name} {alias} WHERE {alias}.id = {self.d.below(12)})"

    def select_plain(
        self, ctx: Ctx, text: str, where: str, types: list[str] | None, use: str, small: bool
    ) -> Query:
        d = self.d
        scope = ctx.scope
        cols: list[Col] = []
        targets: list[str] = []
        if types is not None:
            for i, type in enumerate(types):
                made, col = self.target(ctx, type, use, f"c{i}")
                targets.append(made)
                cols.append(col)
        elif use == "exists" and d.chance(50):
            targets, cols = ["1"], [Col("x", "int")]
        else:
            if not small and d.chance(15):
                item = d.pick(scope.items)
                if item.whole:
                    self.used("star")
                    targets.append("*" if len(scope.items) == 1 and d.chance(50) else f"{item.alias}.*")
                    cols += [Col(c.name, c.type, c.trap, c.mask) for c in item.cols]
            for i in range(1 + d.below(3)):
                special = self.special(scope, f"s{i}", use) if not small and d.chance(12) else None
                made, col = special or self.target(ctx, None, use, f"c{i}")
                targets.append(made)
                cols.append(col)
        names = [c.name for c in cols]
        if small and len(set(names)) < len(names):
            # A derived table needs names that can be told apart.
            targets, cols = targets[-1:], cols[-1:]
        tail, ordered = self.order_limit(cols, scope)
        if use != "rows" and not tail:
            ordered = False
        return Query(f"SELECT {', '.join(targets)} FROM {text}{where}{tail}", cols, ordered)

    def special(self, scope: Scope, name: str, use: str) -> tuple[str, Col] | None:
        """System columns and whole rows."""
        d = self.d
        item = d.pick(scope.items)
        form = d.pick(("whole", "ctid", "tableoid"))
        if form == "whole" and item.whole and not any(c.mask == "null!" for c in item.cols):
            self.used("whole row")
            masked = any(c.mask for c in item.cols)
            return f"{item.alias} AS {name}", Col(name, "record", "", "null!" if masked else "")
        if item.table is not None and item.table.kind == "r":
            self.used("system column")
            if form == "ctid":
                return f"{item.alias}.ctid AS {name}", Col(name, "tid")
            return f"{item.alias}.tableoid::regclass::text AS {name}", Col(name, "text")
        return None

    @spanned
    def order_limit(
        self, cols: Sequence[Col], scope: Scope | None, *, force: bool = False
    ) -> tuple[str, bool]:
        """ORDER BY every column, so that the order is total up to equal rows; then LIMIT and OFFSET now and then."""
        d = self.d
        if not (force or d.chance(25)):
            return "", False
        if any(c.mask or c.type == "record" for c in cols):
            if self.misuse("order by"):
                return " ORDER BY 1", False
            if scope is None or not all(i.key and not self.mask_on(i, i.key) for i in scope.items):
                return "", False
            if len(scope.items) != 1 or scope.items[0].table is None or not scope.items[0].table.primary_key:
                return "", False
            order = ", ".join(f"{i.alias}.{k}" for i in scope.items for k in i.key)
        else:
            order = ", ".join(
                f"{i + 1}{d.pick(('', ' DESC', ' NULLS FIRST', ' DESC NULLS LAST'))}"
                for i in range(len(cols))
            )
        self.used("order by")
        text = f" ORDER BY {order}"
        if d.chance(40):
            self.used("limit")
            text += f" LIMIT {d.below(5) + 1}" + (f" OFFSET {d.below(3)}" if d.chance(30) else "")
        elif d.chance(10):
            self.used("fetch")
            text += f" FETCH FIRST {d.below(4) + 1} ROWS ONLY"
        return text, True

    @staticmethod
    def mask_on(item: Item, key: Sequence[str]) -> bool:
        return any(c.mask for c in item.cols if c.name in key)

    def unmasked_targets(
        self, ctx: Ctx, types: list[str] | None, count: int, depth: int = 1
    ) -> tuple[list[str], list[Col]]:
        """Targets that may be compared with each other: none of them masked."""
        targets, cols = [], []
        kinds = types or [self.d.weighted(((6, "int"), (4, "text"), (1, "date"))) for _ in range(count)]
        for i, kind in enumerate(kinds):
            column = self.column(ctx, kind, own=True)
            made = column if column is not None and self.d.chance(70) else self.expr(kind, ctx, depth)
            targets.append(f"{made} AS c{i}")
            cols.append(Col(f"c{i}", kind))
        return targets, cols

    def select_distinct(
        self, ctx: Ctx, text: str, where: str, types: list[str] | None, use: str, small: bool
    ) -> Query:
        targets, cols = self.unmasked_targets(ctx, types, 1 + self.d.below(2))
        tail, ordered = self.order_limit(cols, None)
        return Query(f"SELECT DISTINCT {', '.join(targets)} FROM {text}{where}{tail}", cols, ordered)

    def select_distinct_on(
        self, ctx: Ctx, text: str, where: str, types: list[str] | None, use: str, small: bool
    ) -> Query:
        targets, cols = self.unmasked_targets(ctx, types, 2)
        on = ", ".join(str(i + 1) for i in range(1 + self.d.below(len(cols))))
        order = ", ".join(str(i + 1) for i in range(len(cols)))
        return Query(
            f"SELECT DISTINCT ON ({on}) {', '.join(targets)} FROM {text}{where} ORDER BY {order}", cols, True
        )

    def aggregate(self, type: str, ctx: Ctx) -> str:
        d = self.d
        where = f" FILTER (WHERE {self.bool_(ctx, 1)})" if d.chance(15) else ""
        if type == "int":
            form = d.pick(("count", "countx", "sum", "max", "distinct", "avg", "whole"))
            if form == "count":
                return f"count(*){where}"
            if form == "countx":
                return f"count({self.plain(d.pick(('text', 'int')), ctx)}){where}"
            if form == "distinct":
                return f"count(DISTINCT {self.plain('int', ctx)}){where}"
            if form == "max":
                return f"{d.pick(('max', 'min'))}({self.int_(ctx, 1)}){where}"
            if form == "whole":
                item = self.whole_item(ctx.scope)
                return f"count({item.alias}){where}" if item is not None else f"count(*){where}"
            return f"sum({self.int_(ctx, 1)}){where}::int"
        if type == "text":
            value = self.text(ctx, 1)
            return (
                f"string_agg({value}, ',' ORDER BY {value}){where}"
                if d.chance(60)
                else f"min({value}){where}"
            )
        if type == "date":
            return f"max({self.plain('date', ctx)}){where}"
        return f"bool_or({self.bool_(ctx, 1)}){where}"

    @spanned
    def aggregates(self, ctx: Ctx, types: list[str] | None, first: int = 0) -> tuple[list[str], list[Col]]:
        kinds = types
        if kinds is None:
            kinds = [
                self.d.weighted(((8, "int"), (3, "text"), (1, "bool"))) for _ in range(1 + self.d.below(2))
            ]
        cols = [Col(f"c{first + i}", kind) for i, kind in enumerate(kinds)]
        # count is bigint: as int it can meet other ints in a UNION.
        targets = [
            f"({self.aggregate(kind, ctx)}){'::int' if kind == 'int' else ''} AS c{first + i}"
            for i, kind in enumerate(kinds)
        ]
        return targets, cols

    @spanned
    def having(self, ctx: Ctx) -> str:
        if not self.d.chance(30):
            return ""
        self.used("having")
        return f" HAVING {self.aggregate('int', ctx)} {self.d.pick(_COMPARE)} {self.d.below(4)}"

    def select_aggregate(
        self, ctx: Ctx, text: str, where: str, types: list[str] | None, use: str, small: bool
    ) -> Query:
        targets, cols = self.aggregates(ctx, types)
        return Query(f"SELECT {', '.join(targets)} FROM {text}{where}{self.having(ctx)}", cols)

    def group_keys(self, ctx: Ctx, count: int) -> list[tuple[str, str]]:
        keys = []
        for _ in range(count):
            type = self.d.pick(("int", "text"))
            column = self.column(ctx, type, own=True)
            if column is not None:
                keys.append((column, type))
        return keys

    def select_group(
        self, ctx: Ctx, text: str, where: str, types: list[str] | None, use: str, small: bool
    ) -> Query:
        d = self.d
        keys = self.group_keys(ctx, 1 + d.below(2))
        if not keys or types is not None:
            return self.select_aggregate(ctx, text, where, types, use, small)
        targets = [f"{k} AS g{i}" for i, (k, _) in enumerate(keys)]
        cols = [Col(f"g{i}", t) for i, (_, t) in enumerate(keys)]
        more, extra = self.aggregates(ctx, None)
        group = [str(i + 1) if d.chance(20) else k for i, (k, _) in enumerate(keys)]
        if d.chance(15):
            # An expression that can raise as a key.
            made = self.trap("int", ctx)
            if made is not None:
                targets.append(f"{made} AS e")
                cols.append(Col("e", "int"))
                group.append(made)
        tail, ordered = self.order_limit([*cols, *extra], None)
        return Query(
            f"SELECT {', '.join([*targets, *more])} FROM {text}{where} GROUP BY {', '.join(group)}{self.having(ctx)}{tail}",
            [*cols, *extra],
            ordered,
        )

    def select_sets(
        self, ctx: Ctx, text: str, where: str, types: list[str] | None, use: str, small: bool
    ) -> Query:
        keys = self.group_keys(ctx, 2)
        if len(keys) < 2 or types is not None or keys[0][0] == keys[1][0]:
            return self.select_group(ctx, text, where, types, use, small)
        (a, ta), (b, tb) = keys
        sets = self.d.pick((f"ROLLUP ({a}, {b})", f"CUBE ({a}, {b})", f"GROUPING SETS (({a}), ({b}), ())"))
        more, extra = self.aggregates(ctx, None)
        targets = [f"{a} AS g0", f"{b} AS g1", f"GROUPING({a}) AS gr", *more]
        return Query(
            f"SELECT {', '.join(targets)} FROM {text}{where} GROUP BY {sets}{self.having(ctx)}",
            [Col("g0", ta), Col("g1", tb), Col("gr", "int"), *extra],
        )

    def select_pk(
        self, ctx: Ctx, text: str, where: str, types: list[str] | None, use: str, small: bool
    ) -> Query:
        """GROUP BY the primary key, with columns that are not grouped: PostgreSQL knows that they depend on it."""
        d = self.d
        scope = ctx.scope
        found = [
            i
            for i in scope.items
            if i.table is not None and i.table.kind == "r" and i.table.primary_key and i.key
        ]
        if not found or types is not None:
            return self.select_group(ctx, text, where, types, use, small)
        item = d.pick(found)
        group = ", ".join(f"{item.alias}.{k}" for k in item.key)
        targets, cols = [group], [Col(k, "int") for k in item.key]
        if len(item.key) > 1:
            cols = [c for k in item.key for c in item.cols if c.name == k]
        own = Ctx(Scope([item], None))
        for i in range(1 + d.below(2)):
            made, col = self.target(own, None, use, f"p{i}", depth=1)
            targets.append(_qualify_bare(made, item))
            cols.append(col)
        more, extra = self.aggregates(ctx, None)
        names = [c.name for c in cols]
        if len(set(names)) < len(names):
            return self.select_group(ctx, text, where, types, use, small)
        return Query(
            f"SELECT {', '.join([*targets, *more])} FROM {text}{where} GROUP BY {group}{self.having(ctx)}",
            [*cols, *extra],
        )

    def select_window(
        self, ctx: Ctx, text: str, where: str, types: list[str] | None, use: str, small: bool
    ) -> Query:
        d = self.d
        if types is not None:
            return self.select_plain(ctx, text, where, types, use, small)
        partition = self.column(ctx, "int", own=True)
        order = self.column(ctx, d.pick(("int", "text")), own=True)
        over = f"PARTITION BY {partition}" if partition and d.chance(60) else ""
        by = f" ORDER BY {order}" if order else ""
        trap = self.trap("int", ctx) if d.chance(25) else None
        if trap:
            by = f" ORDER BY {trap}"
        calls = [f"rank() OVER ({over}{by})", f"count(*) OVER ({over})", f"dense_rank() OVER ({over}{by})"]
        value = self.column(ctx, "int", own=True)
        if value:
            calls += [f"max({value}) OVER ({over}{by})", f"sum({value}) OVER ({over})"]
        targets = [f"({d.pick(calls)})::int AS w"]
        cols = [Col("w", "int")]
        for i in range(1 + d.below(2)):
            made, col = self.target(ctx, None, use, f"c{i}", depth=1)
            targets.append(made)
            cols.append(col)
        tail, ordered = self.order_limit(cols, None)
        return Query(f"SELECT {', '.join(targets)} FROM {text}{where}{tail}", cols, ordered)

    @spanned
    def set_operation(self, parent: Scope | None, types: Sequence[str] | None, use: str) -> Query:
        d = self.d
        kinds = list(types) if types is not None else [d.pick(("int", "text")) for _ in range(1 + d.below(2))]
        operation = d.pick(("UNION ALL", "UNION", "INTERSECT", "EXCEPT", "EXCEPT ALL", "INTERSECT ALL"))
        self.used(operation.lower())
        flows = use == "rows" and operation == "UNION ALL"
        if use == "rows" and not flows and self.misuse("set operation"):
            flows = True
        inner = "rows" if flows else "value"
        branches = []
        for _ in range(2 + (d.below(2) if d.chance(20) else 0)):
            scope = Scope([], parent)
            text = self.from_clause(scope, small=True)
            ctx = Ctx(scope)
            where = f" WHERE {self.bool_(ctx, 1)}" if d.chance(50) else ""
            branches.append(self.select_plain(ctx, text, where, kinds, inner, True))
        cols = []
        for i, kind in enumerate(kinds):
            masks = [b.cols[i].mask for b in branches]
            # A mask that changes nothing in the branch may still be the strictest of them all.
            cols.append(Col(branches[0].cols[i].name, kind, "", strictest(masks)))
        texts = []
        for branch in branches:
            sql = f"({branch.sql})" if " ORDER BY " in branch.sql or d.chance(15) else branch.sql
            if [c.mask for c in branch.cols] != [c.mask for c in cols]:
                sql = self.two(sql, masked_branch(branch, cols))
            texts.append(sql)
        tail, ordered = self.order_limit(cols, None)
        if operation.endswith("ALL") and operation != "UNION ALL":
            tail, ordered = "", False
        return Query(f" {operation} ".join(texts) + tail, cols, ordered)

    # ------------------------------------------------------------------ WITH

    @spanned
    def with_clause(self, *, modify: bool) -> str:
        """WITH and what follows; fills `self.ctes`."""
        d = self.d
        if not d.chance(28):
            return ""
        parts = []
        recursive = False
        for _ in range(1 + d.below(2)):
            form = d.weighted(
                ((10, "shadow"), (12, "plain"), (8, "recursive"), (9 if modify else 0, "modify"))
            )
            self.used(f"cte {form}")
            if form == "recursive":
                parts.append(self.recursive_cte())
                recursive = True
                continue
            names = {c.name for c in self.ctes}
            free = [n for n in ("acct", "item", "evt") if n not in names]
            name = d.pick(free) if form == "shadow" and free else f"w{len(self.ctes)}"
            if recursive and form == "shadow":
                # Under RECURSIVE its body would mean itself.
                name = f"w{len(self.ctes)}"
            if form == "modify":
                made = self.modifying_cte()
                if made is None:
                    continue
                body, cols = made
            else:
                query = self.query(None, None, "rows", small=True)
                body, cols = query.sql, [Col(c.name, c.type, c.trap, c.mask) for c in query.cols]
            shown = ""
            if d.chance(25):
                shown = "(" + ", ".join(f"x{i}" for i in range(len(cols))) + ")"
                for i, col in enumerate(cols):
                    col.name = f"x{i}"
            how = "" if form == "modify" else d.pick(("", "", "MATERIALIZED ", "NOT MATERIALIZED "))
            parts.append(f"{name}{shown} AS {how}({body})")
            self.ctes.append(Cte(name, cols))
        if not parts:
            return ""
        if recursive and len(parts) > 1 and any(p.split(" ")[0].split("(")[0] in self.tables for p in parts):
            # RECURSIVE changes what the table's own name means inside the shadowing ones.
            parts = [p for p in parts if p.split("(")[0].split(" ")[0] not in self.tables] or parts
            self.ctes = [c for c in self.ctes if c.name not in self.tables]
        return f"WITH {'RECURSIVE ' if recursive else ''}{', '.join(parts)} "

    @spanned
    def recursive_cte(self) -> str:
        d = self.d
        name = f"r{len(self.ctes)}"
        start, step, ctx_where = self.alias(), self.alias(), ""
        table = self.tables["acct"]
        extras = [c for c in table.columns if c.name in ("name", "n", "d", "tenant")]
        extra = d.pick(extras)
        union = "UNION ALL" if extra.mask or d.chance(60) else "UNION"
        scope = Scope(
            [Item(step, [Col(c.name, c.type, c.trap, c.mask) for c in table.columns], ("id",), table)]
        )
        if d.chance(40):
            ctx_where = f" AND {self.bool_(Ctx(scope), 1)}"
        first = d.pick((f"{start}.boss IS NULL", f"{start}.id = 1", f"{start}.id < 4"))
        cols = [Col("id", "int"), Col("extra", extra.type, extra.trap, extra.mask), Col("lvl", "int")]
        self.ctes.append(Cte(name, cols))
        return (
            f"{name}(id, extra, lvl) AS ("
            f"SELECT {start}.id, {start}.{extra.name}, 1 FROM public.acct {start} WHERE {first} {union} "
            f"SELECT {step}.id, {step}.{extra.name}, {name}.lvl + 1 FROM public.acct {step} "
            f"JOIN {name} ON {step}.boss = {name}.id WHERE {name}.lvl < 5{ctx_where})"
        )

    # ------------------------------------------------------------------ writes

    @spanned
    def modifying_cte(self) -> tuple[str, list[Col]] | None:
        free = [n for n in ("item", "tag", "base") if n not in self.modified]
        if not free:
            return None
        table = self.tables[self.d.pick(free)]
        form = self.d.pick(("insert", "update", "delete"))
        query = {"insert": self.insert, "update": self.update, "delete": self.delete}[form](
            table, returning=True
        )
        self.writes = True
        return (query.sql, query.cols) if query.cols else None

    @spanned
    def returning(
        self, scope: Scope, table: Table, alias: str, *, always: bool, verb: str
    ) -> tuple[str, list[Col]]:
        d = self.d
        if not (always or d.chance(45)):
            return "", []
        self.used("returning")
        targets, cols = [], []
        own = scope.items[0]
        if d.chance(25) and len(scope.items) == 1 and not always:
            return " RETURNING *", [Col(c.name, c.type, c.trap, c.mask) for c in own.cols]
        for i in range(1 + d.below(2)):
            form = d.weighted(((50, "target"), (10, "old"), (4, "whole")))
            if form == "old" and verb != "delete":
                self.used("old and new")
                col = d.pick(own.cols)
                targets.append(f"{d.pick(('old', 'new'))}.{col.name} AS c{i}")
                cols.append(Col(f"c{i}", col.type, "", col.mask))
                continue
            if form == "whole" and not always:
                targets.append(f"{alias} AS c{i}")
                cols.append(Col(f"c{i}", "record", "", "null!" if any(c.mask for c in own.cols) else ""))
                continue
            made, col = self.target(Ctx(scope), None, "rows", f"c{i}", depth=1)
            targets.append(made)
            cols.append(Col(col.name, col.type, "", col.mask))
        return f" RETURNING {', '.join(targets)}", cols

    def target_item(self, table: Table) -> tuple[str, Item]:
        d = self.d
        cols = [Col(c.name, c.type, c.trap, c.mask) for c in table.columns]
        name = f"public.{table.name}" if any(c.name == table.name for c in self.ctes) else table.name
        if table.only and d.chance(20):
            name = f"ONLY {name}"
        if d.chance(50):
            return name, Item(table.name, cols, table.key, table)
        alias = self.alias()
        return f"{name} AS {alias}", Item(alias, cols, table.key, table)

    def new_value(self, table: Table, column: str, ctx: Ctx | None) -> str:
        """A value to write. What the agent sees must stay free of traps, or an error would say nothing."""
        d = self.d
        if column in table.fixed:
            return table.fixed[column]
        if column == "tenant":
            return d.weighted(_NEW_VALUE_FORMS)
        if column == "n":
            return d.pick(("1", "2", "5", "NULL", "7"))
        if column == "name" and table.name in ("base", "kid"):
            return d.pick(("'acct'", "NULL", "'item'"))
        if column == "name":
            return d.pick(("'1'", "'2'", "NULL", "'3'"))
        if column == "label":
            return d.pick(("'2024-01-03'", "NULL", "'2024-01-01'"))
        if column == "kind":
            return d.pick(("'a'", "'z'", "'b'"))
        if column == "d":
            return d.pick(("date '2024-03-02'", "NULL"))
        if ctx is not None and d.chance(40):
            return self.int_(ctx, 1)
        return str(d.below(12))

    def assignments(self, table: Table, ctx: Ctx) -> str:
        d = self.d
        free = [c.name for c in table.columns if c.name not in ("id", "kind", *table.fixed) and not c.mask]
        made = {}
        for _ in range(1 + d.below(2)):
            column = d.pick(free)
            if column in ("tenant",) and d.chance(20):
                made[column] = "tenant" if len(ctx.scope.items) == 1 else f"{ctx.scope.items[0].alias}.tenant"
                continue
            made[column] = self.new_value(table, column, ctx)
        if len(made) > 1 and d.chance(20):
            self.used("multi assign")
            return f"({', '.join(made)}) = ({', '.join(made.values())})"
        return ", ".join(f"{c} = {v}" for c, v in made.items())

    @spanned
    def where_of(self, own: Item, scope: Scope) -> str:
        """A condition that names a column of the target (a whereless write is refused on purpose)."""
        first = f"{own.alias}.id {self.d.pick(('<', '>', '=', '<>'))} {self.d.below(12)}"
        if self.d.chance(60):
            other = self.bool_(Ctx(scope), 1)
            return f"({other}) AND {first}" if self.d.chance(50) else f"{first} AND {other}"
        return first

    @spanned
    def update(self, table: Table, *, returning: bool = False) -> Query:
        d = self.d
        self.modified.add(table.name)
        self.used("update")
        text, own = self.target_item(table)
        scope = Scope([own])
        source = ""
        where = ""
        if d.chance(30):
            self.used("update from")
            other, item = self.unique_source()
            source = f" FROM {other}"
            scope.items.append(item)
            # One row of the source for each of the target's: else which one wins is up to the plan.
            column = d.pick(("id",) if self.mask_on(own, ("n",)) else ("id", "n"))
            where = f"{own.alias}.{column} = {item.alias}.{item.key[0]} AND "
        assigned = self.assignments(table, Ctx(scope))
        where += self.where_of(own, scope)
        tail, cols = self.returning(scope, table, own.alias, always=returning, verb="update")
        return Query(f"UPDATE {text} SET {assigned}{source} WHERE {where}{tail}", cols)

    def unique_source(self) -> tuple[str, Item]:
        """A relation with a unique single column, by a name of its own."""
        names = ("acct", "item", "tag", "v_acct")
        table = self.tables[self.d.pick(names)]
        alias = self.alias()
        name = f"public.{table.name}" if any(c.name == table.name for c in self.ctes) else table.name
        cols = [Col(c.name, c.type, c.trap, c.mask) for c in table.columns]
        return f"{name} {alias}", Item(alias, cols, table.key, table)

    @spanned
    def delete(self, table: Table, *, returning: bool = False) -> Query:
        d = self.d
        self.modified.add(table.name)
        self.used("delete")
        text, own = self.target_item(table)
        scope = Scope([own])
        using = where = ""
        if d.chance(30):
            self.used("delete using")
            other, item = self.unique_source()
            using = f" USING {other}"
            scope.items.append(item)
            where = f"{own.alias}.id = {item.alias}.{item.key[0]} AND "
        where += self.where_of(own, scope)
        tail, cols = self.returning(scope, table, own.alias, always=returning, verb="delete")
        return Query(f"DELETE FROM {text}{using} WHERE {where}{tail}", cols)

    @spanned
    def insert(self, table: Table, *, returning: bool = False) -> Query:
        d = self.d
        self.modified.add(table.name)
        self.used("insert")
        name = f"public.{table.name}" if any(c.name == table.name for c in self.ctes) else table.name
        alias = table.name
        if d.chance(30):
            alias = self.alias()
        # A value written into a masked column would come back unmasked from the copy: they are left alone.
        columns = [c.name for c in table.columns if not c.mask]
        if d.chance(30):
            columns = [c for c in columns if c in ("id", "tenant", "kind") or d.chance(60)]
        named = f" ({', '.join(columns)})" if d.chance(60) or len(columns) < len(table.columns) else ""
        if d.chance(45):
            self.used("insert select")
            source, item = self.unique_source()
            ctx = Ctx(Scope([item]))
            shift = d.pick((0, 100, 100))
            values = [
                f"{item.alias}.{item.key[0]} + {shift}" if c == "id" else self.new_value(table, c, ctx)
                for c in columns
            ]
            if "tenant" in columns and any(c.name == "tenant" for c in item.cols) and d.chance(60):
                values[columns.index("tenant")] = f"{item.alias}.tenant"
            where = f" WHERE {self.bool_(ctx, 1)}" if d.chance(60) else ""
            body = f"SELECT {', '.join(values)} FROM {source}{where}"
        else:
            first = d.pick((100, 1))
            # A key twice in one VALUES is an error of its own, whichever row comes first.
            rows = []
            for r in range(1 + d.below(3)):
                key = str(first + 3 * r + d.below(3))
                values = [key if c == "id" else self.new_value(table, c, None) for c in columns]
                rows.append(f"({', '.join(values)})")
            body = f"VALUES {', '.join(rows)}"
        own = Item(alias, [Col(c.name, c.type, c.trap, c.mask) for c in table.columns], table.key, table)
        conflict = ""
        if table.primary_key and d.chance(35):
            conflict = self.conflict(table, own)
        tail, cols = self.returning(Scope([own]), table, alias, always=returning, verb="insert")
        shown = f"{name} AS {alias}" if alias != table.name else name
        return Query(f"INSERT INTO {shown}{named} {body}{conflict}{tail}", cols)

    @spanned
    def conflict(self, table: Table, own: Item) -> str:
        d = self.d
        key = f" ({', '.join(table.key)})"
        if d.chance(40):
            self.used("on conflict nothing")
            return f" ON CONFLICT{key if d.chance(50) else ''} DO NOTHING"
        self.used("on conflict update")
        free = [c for c in table.columns if c.name not in ("id", "kind") and not c.mask]
        column = d.pick(free)
        value = (
            f"excluded.{column.name}"
            if d.chance(50) and not column.mask
            else self.new_value(table, column.name, None)
        )
        # Below another scope, for which every name gets its alias: a bare one could mean excluded as well.
        where = f" WHERE {self.bool_(Ctx(Scope([own], Scope([]))), 1)}" if d.chance(30) else ""
        return f" ON CONFLICT{key} DO UPDATE SET {column.name} = {value}{where}"

    @spanned
    def merge(self, table: Table) -> Query:
        d = self.d
        self.modified.add(table.name)
        self.used("merge")
        text, own = self.target_item(table)
        source, item = self.unique_source()
        scope = Scope([own, item])
        if any(c.name.startswith("r") for c in self.ctes):
            return self.update(table)  # PostgreSQL has no MERGE under WITH RECURSIVE
        on = f"{own.alias}.id = {item.alias}.{item.key[0]}"
        if d.chance(30):
            on += f" AND {self.bool_(Ctx(Scope([item])), 1)}"
        clauses: list[str] = []
        for _ in range(1 + d.below(2)):
            form = d.pick(("update", "insert", "delete", "nothing"))
            matched = "WHEN NOT MATCHED THEN" if form == "insert" else "WHEN MATCHED THEN"
            if any(c.startswith(matched) for c in clauses):
                break  # nothing comes after an unconditional one
            if form == "insert":
                columns = [c.name for c in table.columns if not c.mask]
                values = [
                    f"{item.alias}.{item.key[0]} + 200" if c == "id" else self.new_value(table, c, None)
                    for c in columns
                ]
                extra = f" AND {self.bool_(Ctx(Scope([item])), 1)}" if d.chance(25) else ""
                clauses.append(
                    f"WHEN NOT MATCHED{extra} THEN INSERT ({', '.join(columns)}) VALUES ({', '.join(values)})"
                )
                continue
            extra = f" AND {self.bool_(Ctx(scope), 1)}" if d.chance(30) else ""
            action = {
                "update": lambda: f"UPDATE SET {self.assignments(table, Ctx(scope))}",
                "delete": lambda: "DELETE",
                "nothing": lambda: "DO NOTHING",
            }[form]()
            clauses.append(f"WHEN MATCHED{extra} THEN {action}")
        tail, cols = self.returning(scope, table, own.alias, always=False, verb="merge")
        return Query(f"MERGE INTO {text} USING {source} ON {on} {' '.join(clauses)}{tail}", cols)

    @spanned
    def write(self) -> Query:
        d = self.d
        self.writes = True
        names = [
            n
            for n in ("acct", "item", "evt", "evt_a", "base", "kid", "tag", "evt_rest")
            if n not in self.modified
        ]
        if "base" in self.modified:
            names.remove("kid")  # a row must not be changed twice by one statement
        table = self.tables[d.pick(names)]
        form = d.weighted(_WRITE_FORMS)
        if form == "merge":
            return self.merge(table)
        return {"update": self.update, "delete": self.delete, "insert": self.insert}[form](table)

    # ------------------------------------------------------------------ the whole

    def renumber(self, sql: str) -> Callable[[str], str]:
        """Forget the parameters of what was thrown away; gives what renames the others in a text."""
        resolved = self.resolve(sql, 0)
        used = sorted({int(n) for n in _PARAMETER.findall(resolved)})
        self.params = [self.params[n - 1] for n in used]
        places = {str(n): i + 1 for i, n in enumerate(used)}
        return lambda text: _PARAMETER.sub(lambda m: f"${places[m[1]]}", text)

    def statement(self) -> Generated:
        write = self.d.chance(self.g.writes)
        clause = self.with_clause(modify=self.g.writes > 0)
        # Data-modifying CTEs stand at the top level only, and that is where this clause is.
        query = self.write() if write else self.query(None, None, "rows")
        sql = clause + query.sql
        if clause and " ORDER BY " in query.sql and query.sql.startswith("("):
            query.ordered = False
        cols: list[Col] | None = query.cols
        if write and not query.cols:
            cols = None
        params = self.renumber(sql)
        return Generated(
            params(self.resolve(sql, 0)),
            params(self.resolve(sql, 1)),
            self.params,
            cols,
            query.ordered,
            self.writes,
            self.misuses,
            self.features,
            self.dirty,
            self.d.made,
        )


def _weights(text: str) -> tuple[tuple[int, str], ...]:
    """`plain 40, trap 10`: how often each form is drawn, the simplest first."""
    return tuple(
        (int(weight), form) for form, _, weight in (each.strip().rpartition(" ") for each in text.split(","))
    )


_INT_FORMS = _weights(
    "plain 40, trap 10, plus 6, length 4, case 4, coalesce 5, scalar 5, greatest 3, dirty 2, nullif 2"
)
_TEXT_FORMS = _weights(
    "plain 40, trap 8, upper 4, concat 4, cast 4, case 3, coalesce 3, scalar 4, sub 2, row 2"
)
_BOOL_FORMS = _weights(
    "compare 22, trap 12, and 8, or 5, not 3, null 6, in 6, between 4, like 4, exists 6, insub 6, "
    "any 3, distinct 3, expr 3, row 2, anysub 2, column 2, case 2, like_column 2"
)
_ALIAS_FORMS = _weights("alias 60, bare 12, as 10, columns 8, sample 5")
_FROM_ITEM_FORMS = _weights("table 40, join 30, derived 9, lateral 7, values 3, function 3, joinalias 3")
_JOIN_FORMS = _weights(
    "JOIN 30, LEFT JOIN 25, RIGHT JOIN 10, FULL JOIN 9, CROSS JOIN 6, NATURAL 6, LATERAL 8"
)
_SELECT_FORMS = _weights(
    "plain 60, aggregate 10, group 10, pk 5, sets 4, distinct 7, distinct on 4, window 6"
)
_TARGET_FORMS = _weights("int 8, text 6, bool 2, date 2")
_NEW_VALUE_FORMS = _weights("1 12, 3 6, 2 3, NULL 2, 1 4")
_WRITE_FORMS = _weights("update 30, delete 20, insert 35, merge 15")
_COMPARE = ("=", "<>", "<", ">", "<=", ">=")
_PATTERNS = ("'1%'", "'%2%'", "'2024%'", "'_'", "'%'", "'secret%'")
_WEIGHTS = _weights(
    "acct 30, item 22, tag 10, grp 4, evt 8, evt_a 4, evt_rest 3, base 7, kid 5, v_acct 6, v_nest 5, v_agg 4, v_evt 3, v_tag 2"
)
_MASK_WEIGHTS = _weights(
    "acct 30, item 22, tag 10, grp 3, evt 8, evt_a 4, evt_rest 3, base 8, kid 5, v_acct 7, v_nest 6, v_agg 2, v_evt 4, v_tag 2"
)


def strictest(masks: Sequence[str]) -> str:
    """The strictest of several masks; `null!` is NULL because it is no bare column."""
    if "null!" in masks:
        return "null!"
    return max(masks, key=STRENGTH.index)


def mask_sql(column: str, kind: str, type: str) -> str:
    """The mask of a value, as SQL over a value that is not masked."""
    if kind.startswith("null"):
        return f"NULL::{type}"
    if kind == "redact":
        return f"CASE WHEN {column} IS NOT NULL THEN '[redacted]' END" if type == "text" else f"NULL::{type}"
    return f"encode(sha256(convert_to(({column})::text, 'UTF8')), 'hex')"


def masked_branch(branch: Query, cols: Sequence[Col]) -> str:
    """A branch of UNION ALL as the copy has to be asked: with the mask of the strictest branch on what it lacks."""
    names = [f"b{i}" for i in range(len(cols))]
    shown = [
        n if mine.mask == col.mask or col.mask == "null!" else mask_sql(n, col.mask, col.type)
        for n, mine, col in zip(names, branch.cols, cols, strict=True)
    ]
    shown = [f"{value} AS {col.name}" for value, col in zip(shown, branch.cols, strict=True)]
    return f"SELECT {', '.join(shown)} FROM ({branch.sql}) AS branch ({', '.join(names)})"


def _qualified(column: str | None, items: Sequence[Item]) -> str | None:
    """A column reference with its alias."""
    if column is None or "." in column or column[0] in "'$0123456789(":
        return column
    for item in items:
        if any(c.name == column for c in item.cols):
            return f"{item.alias}.{column}"
    return column


def _qualify_bare(target: str, item: Item) -> str:
    return re.sub(
        r"^(\w+) AS ",
        lambda m: f"{item.alias}.{m[1]} AS " if any(c.name == m[1] for c in item.cols) else m[0],
        target,
    )
