"""FROM: relations, joins of every kind, derived tables, functions."""

from __future__ import annotations

from collections.abc import Sequence

from tests.oracles.draws import spanned
from tests.oracles.expressions import Expressions
from tests.oracles.grammar import Col, Item, Scope, qualified, weights
from tests.oracles.schema import Table


class Sources(Expressions):
    @spanned
    def table_item(self, *, plain: bool = False) -> tuple[str, Item]:
        """A relation or a CTE: its text and what it brings into scope."""
        d = self.d
        self.relations += 1
        # Drawn also where there is nothing to choose: without the WITH clause the same draws make the same rest.
        if d.chance(45) and self.ctes:
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
        # Ten rows each: more than a handful of them crossed would take minutes.
        count = 1 if self.relations > 3 else d.weighted(((60, 1), (25, 2), (6, 3)))
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
        form = "table" if self.relations > 5 else d.weighted(_FROM_ITEM_FORMS)
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
            on = "true" if d.chance(60) else self.bool_(scope, 1)
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
        here = both
        one, other = self.column(Scope(mine), "int"), self.column(Scope(inner.items), "int")
        # Without the alias a name that is unique on one side may be on the other as well.
        one, other = qualified(one, mine), qualified(other, inner.items)
        if kind == "FULL JOIN":
            # PostgreSQL can merge or hash equality only.
            on = f"{one} = {other}" if one and other else "true"
        else:
            on = f"{one} = {other}" if one and other and d.chance(80) else self.bool_(here, 1)
            if d.chance(30):
                on += f" AND {self.bool_(here, 1)}"
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
        one = self.column(Scope([left[1]]), "int")
        other = self.column(Scope([right[1]]), "int")
        one, other = qualified(one, [left[1]]), qualified(other, [right[1]])
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


_ALIAS_FORMS = weights("alias 60, bare 12, as 10, columns 8, sample 5")
_FROM_ITEM_FORMS = weights("table 40, join 30, derived 9, lateral 7, values 3, function 3, joinalias 3")
_JOIN_FORMS = weights("JOIN 30, LEFT JOIN 25, RIGHT JOIN 10, FULL JOIN 9, CROSS JOIN 6, NATURAL 6, LATERAL 8")
_WEIGHTS = weights(
    "acct 30, item 22, tag 10, grp 4, evt 8, evt_a 4, evt_rest 3, base 7, kid 5, v_acct 6, v_nest 5, v_agg 4, v_evt 3, v_tag 2"
)
_MASK_WEIGHTS = weights(
    "acct 30, item 22, tag 10, grp 3, evt 8, evt_a 4, evt_rest 3, base 8, kid 5, v_acct 7, v_nest 6, v_agg 2, v_evt 4, v_tag 2"
)
