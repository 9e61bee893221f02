"""SELECT in all its forms, set operations, and WITH."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.oracles.draws import spanned
from tests.oracles.expressions import COMPARISONS
from tests.oracles.grammar import Col, Cte, Item, Query, Scope, mask_sql, qualify_bare, strictest, weights
from tests.oracles.sources import Sources


class Selects(Sources):
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
        here = scope
        where = f" WHERE {self.bool_(here, 2)}" if d.chance(55) else ""
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
        return make(here, text, where, wanted, use, small)

    def table_command(self) -> Query:
        table = self.tables[self.d.pick(("acct", "item", "evt", "kid", "v_acct", "v_nest"))]
        self.used("table command")
        name = f"public.{table.name}" if any(c.name == table.name for c in self.ctes) else table.name
        return Query(f"TABLE {name}", [Col(c.name, c.type, c.trap, c.mask) for c in table.columns])

    @spanned
    def target(self, here: Scope, type: str | None, use: str, name: str, depth: int = 2) -> tuple[str, Col]:
        """A target and its column. Masked columns stand here bare, for that is what they are for."""
        d = self.d
        if self.masks and use in ("rows", "exists"):
            found = [c for c in self.columns(here, type or "*", masked=True) if c[0] is here and c[2].mask]
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
            found = [c for c in self.columns(here, kind) if c[0] is here]
            if found:
                _, item, col = d.pick(found)
                return f"{self.ref(here, item, col)} AS {name}", Col(name, kind, col.trap)
        before = len(self.misuses)
        made = self.expr(kind, here, depth)
        if len(self.misuses) == before + 1 and use in ("rows", "exists"):
            bare = [
                c
                for _, i, c in self.columns(here, kind, masked=True)
                if made in (c.name, f"{i.alias}.{c.name}")
            ]
            if bare and bare[0].mask:
                # Nothing came of the misuse: the whole target is the column.
                self.misuses.pop()
                return f"{made} AS {name}", Col(name, kind, bare[0].trap, bare[0].mask)
        return f"{made} AS {name}", Col(name, kind)

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
        self, here: Scope, text: str, where: str, types: list[str] | None, use: str, small: bool
    ) -> Query:
        d = self.d
        scope = here
        cols: list[Col] = []
        targets: list[str] = []
        if types is not None:
            for i, type in enumerate(types):
                made, col = self.target(here, type, use, f"c{i}")
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
                made, col = special or self.target(here, None, use, f"c{i}")
                targets.append(made)
                cols.append(col)
        names = [c.name for c in cols]
        if small and len(set(names)) < len(names):
            # A derived table needs names that can be told apart.
            targets, cols = targets[-1:], cols[-1:]
        tail, ordered = self.order_limit(cols, scope)
        if use == "rows" and not small and scope.parent is None and d.chance(4):
            tail += self.locking(scope, text)
        return Query(f"SELECT {', '.join(targets)} FROM {text}{where}{tail}", cols, ordered)

    def locking(self, scope: Scope, text: str) -> str:
        """FOR UPDATE and the like, where PostgreSQL takes it: not over an outer join."""
        tables = [i for i in scope.items if i.table is not None and i.table.kind != "v"]
        if " JOIN " in text or not tables:
            return ""
        self.used("locking")
        return f" FOR {self.d.pick(('UPDATE', 'SHARE', 'NO KEY UPDATE'))} OF {self.d.pick(tables).alias}"

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
            if scope is not None and d.chance(15) and (trap := self.trap("int", scope)) is not None:
                self.used("order by trap")
                order = f"{trap}, {order}"
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
        self, here: Scope, types: list[str] | None, count: int, depth: int = 1
    ) -> tuple[list[str], list[Col]]:
        """Targets that may be compared with each other: none of them masked."""
        targets, cols = [], []
        kinds = types or [self.d.weighted(((6, "int"), (4, "text"), (1, "date"))) for _ in range(count)]
        for i, kind in enumerate(kinds):
            column = self.column(here, kind, own=True)
            made = column if column is not None and self.d.chance(70) else self.expr(kind, here, depth)
            targets.append(f"{made} AS c{i}")
            cols.append(Col(f"c{i}", kind))
        return targets, cols

    def select_distinct(
        self, here: Scope, text: str, where: str, types: list[str] | None, use: str, small: bool
    ) -> Query:
        targets, cols = self.unmasked_targets(here, types, 1 + self.d.below(2))
        tail, ordered = self.order_limit(cols, None)
        return Query(f"SELECT DISTINCT {', '.join(targets)} FROM {text}{where}{tail}", cols, ordered)

    def select_distinct_on(
        self, here: Scope, text: str, where: str, types: list[str] | None, use: str, small: bool
    ) -> Query:
        targets, cols = self.unmasked_targets(here, types, 2)
        on = ", ".join(str(i + 1) for i in range(1 + self.d.below(len(cols))))
        order = ", ".join(str(i + 1) for i in range(len(cols)))
        return Query(
            f"SELECT DISTINCT ON ({on}) {', '.join(targets)} FROM {text}{where} ORDER BY {order}", cols, True
        )

    def aggregate(self, type: str, here: Scope) -> str:
        d = self.d
        where = f" FILTER (WHERE {self.bool_(here, 1)})" if d.chance(15) else ""
        if type == "int":
            form = d.pick(("count", "countx", "sum", "max", "distinct", "avg", "whole"))
            if form == "count":
                return f"count(*){where}"
            if form == "countx":
                return f"count({self.plain(d.pick(('text', 'int')), here)}){where}"
            if form == "distinct":
                return f"count(DISTINCT {self.plain('int', here)}){where}"
            if form == "max":
                return f"{d.pick(('max', 'min'))}({self.int_(here, 1)}){where}"
            if form == "whole":
                item = self.whole_item(here)
                return f"count({item.alias}){where}" if item is not None else f"count(*){where}"
            return f"sum({self.int_(here, 1)}){where}::int"
        if type == "text":
            value = self.text(here, 1)
            return (
                f"string_agg({value}, ',' ORDER BY {value}){where}"
                if d.chance(60)
                else f"min({value}){where}"
            )
        if type == "date":
            return f"max({self.plain('date', here)}){where}"
        return f"bool_or({self.bool_(here, 1)}){where}"

    @spanned
    def aggregates(self, here: Scope, types: list[str] | None, first: int = 0) -> tuple[list[str], list[Col]]:
        kinds = types
        if kinds is None:
            kinds = [
                self.d.weighted(((8, "int"), (3, "text"), (1, "bool"))) for _ in range(1 + self.d.below(2))
            ]
        cols = [Col(f"c{first + i}", kind) for i, kind in enumerate(kinds)]
        # count is bigint: as int it can meet other ints in a UNION.
        targets = [
            f"({self.aggregate(kind, here)}){'::int' if kind == 'int' else ''} AS c{first + i}"
            for i, kind in enumerate(kinds)
        ]
        return targets, cols

    @spanned
    def having(self, here: Scope) -> str:
        if not self.d.chance(30):
            return ""
        self.used("having")
        return f" HAVING {self.aggregate('int', here)} {self.d.pick(COMPARISONS)} {self.d.below(4)}"

    def select_aggregate(
        self, here: Scope, text: str, where: str, types: list[str] | None, use: str, small: bool
    ) -> Query:
        targets, cols = self.aggregates(here, types)
        return Query(f"SELECT {', '.join(targets)} FROM {text}{where}{self.having(here)}", cols)

    def group_keys(self, here: Scope, count: int) -> list[tuple[str, str]]:
        keys = []
        for _ in range(count):
            type = self.d.pick(("int", "text"))
            column = self.column(here, type, own=True)
            if column is not None:
                keys.append((column, type))
        return keys

    def select_group(
        self, here: Scope, text: str, where: str, types: list[str] | None, use: str, small: bool
    ) -> Query:
        d = self.d
        keys = self.group_keys(here, 1 + d.below(2))
        if not keys or types is not None:
            return self.select_aggregate(here, text, where, types, use, small)
        targets = [f"{k} AS g{i}" for i, (k, _) in enumerate(keys)]
        cols = [Col(f"g{i}", t) for i, (_, t) in enumerate(keys)]
        more, extra = self.aggregates(here, None)
        group = [str(i + 1) if d.chance(20) else k for i, (k, _) in enumerate(keys)]
        if d.chance(15):
            # An expression that can raise as a key.
            made = self.trap("int", here)
            if made is not None:
                targets.append(f"{made} AS e")
                cols.append(Col("e", "int"))
                group.append(made)
        tail, ordered = self.order_limit([*cols, *extra], None)
        return Query(
            f"SELECT {', '.join([*targets, *more])} FROM {text}{where} GROUP BY {', '.join(group)}{self.having(here)}{tail}",
            [*cols, *extra],
            ordered,
        )

    def select_sets(
        self, here: Scope, text: str, where: str, types: list[str] | None, use: str, small: bool
    ) -> Query:
        keys = self.group_keys(here, 2)
        if len(keys) < 2 or types is not None or keys[0][0] == keys[1][0]:
            return self.select_group(here, text, where, types, use, small)
        (a, ta), (b, tb) = keys
        sets = self.d.pick((f"ROLLUP ({a}, {b})", f"CUBE ({a}, {b})", f"GROUPING SETS (({a}), ({b}), ())"))
        more, extra = self.aggregates(here, None)
        targets = [f"{a} AS g0", f"{b} AS g1", f"GROUPING({a}) AS gr", *more]
        return Query(
            f"SELECT {', '.join(targets)} FROM {text}{where} GROUP BY {sets}{self.having(here)}",
            [Col("g0", ta), Col("g1", tb), Col("gr", "int"), *extra],
        )

    def select_pk(
        self, here: Scope, text: str, where: str, types: list[str] | None, use: str, small: bool
    ) -> Query:
        """GROUP BY the primary key, with columns that are not grouped: PostgreSQL knows that they depend on it."""
        d = self.d
        scope = here
        found = [
            i
            for i in scope.items
            if i.table is not None and i.table.kind == "r" and i.table.primary_key and i.key
        ]
        if not found or types is not None:
            return self.select_group(here, text, where, types, use, small)
        item = d.pick(found)
        group = ", ".join(f"{item.alias}.{k}" for k in item.key)
        targets, cols = [group], [Col(k, "int") for k in item.key]
        if len(item.key) > 1:
            cols = [c for k in item.key for c in item.cols if c.name == k]
        own = Scope([item], None)
        for i in range(1 + d.below(2)):
            made, col = self.target(own, None, use, f"p{i}", depth=1)
            targets.append(qualify_bare(made, item))
            cols.append(col)
        more, extra = self.aggregates(here, None)
        names = [c.name for c in cols]
        if len(set(names)) < len(names):
            return self.select_group(here, text, where, types, use, small)
        return Query(
            f"SELECT {', '.join([*targets, *more])} FROM {text}{where} GROUP BY {group}{self.having(here)}",
            [*cols, *extra],
        )

    def select_window(
        self, here: Scope, text: str, where: str, types: list[str] | None, use: str, small: bool
    ) -> Query:
        d = self.d
        if types is not None:
            return self.select_plain(here, text, where, types, use, small)
        partition = self.column(here, "int", own=True)
        order = self.column(here, d.pick(("int", "text")), own=True)
        over = f"PARTITION BY {partition}" if partition and d.chance(60) else ""
        by = f" ORDER BY {order}" if order else ""
        trap = self.trap("int", here) if d.chance(25) else None
        if trap:
            by = f" ORDER BY {trap}"
        calls = [f"rank() OVER ({over}{by})", f"count(*) OVER ({over})", f"dense_rank() OVER ({over}{by})"]
        value = self.column(here, "int", own=True)
        if value:
            calls += [f"max({value}) OVER ({over}{by})", f"sum({value}) OVER ({over})"]
            if by:
                frame = d.pick(("RANGE UNBOUNDED PRECEDING", "GROUPS BETWEEN 1 PRECEDING AND CURRENT ROW"))
                calls.append(f"sum({value}) OVER ({over}{by} {frame})")
        targets = [f"({d.pick(calls)})::int AS w"]
        cols = [Col("w", "int")]
        for i in range(1 + d.below(2)):
            made, col = self.target(here, None, use, f"c{i}", depth=1)
            targets.append(made)
            cols.append(col)
        named = ""
        if d.chance(20):
            self.used("named window")
            targets[0], named = "rank() OVER w1 AS w", f" WINDOW w1 AS ({over}{by})"
            cols[0] = Col("w", "bigint")
        tail, ordered = self.order_limit(cols, None)
        return Query(f"SELECT {', '.join(targets)} FROM {text}{where}{named}{tail}", cols, ordered)

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
            here = scope
            where = f" WHERE {self.bool_(here, 1)}" if d.chance(50) else ""
            branches.append(self.select_plain(here, text, where, kinds, inner, True))
        cols = []
        for i, kind in enumerate(kinds):
            masks = [b.cols[i].mask for b in branches]
            # A mask that changes nothing in the branch may still be the strictest of them all.
            mask = strictest(masks)
            if mask == "null!" and set(masks) != {"null!"}:
                mask = "null"  # of this branch only
            cols.append(Col(branches[0].cols[i].name, kind, "", mask))
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
        start, step, more = self.alias(), self.alias(), ""
        table = self.tables["acct"]
        extras = [c for c in table.columns if c.name in ("name", "n", "d", "tenant")]
        extra = d.pick(extras)
        union = "UNION ALL" if extra.mask or d.chance(60) else "UNION"
        scope = Scope(
            [Item(step, [Col(c.name, c.type, c.trap, c.mask) for c in table.columns], ("id",), table)]
        )
        if d.chance(40):
            more = f" AND {self.bool_(scope, 1)}"
        first = d.pick((f"{start}.boss IS NULL", f"{start}.id = 1", f"{start}.id < 4"))
        cols = [Col("id", "int"), Col("extra", extra.type, extra.trap, extra.mask), Col("lvl", "int")]
        self.ctes.append(Cte(name, cols))
        return (
            f"{name}(id, extra, lvl) AS ("
            f"SELECT {start}.id, {start}.{extra.name}, 1 FROM public.acct {start} WHERE {first} {union} "
            f"SELECT {step}.id, {step}.{extra.name}, {name}.lvl + 1 FROM public.acct {step} "
            f"JOIN {name} ON {step}.boss = {name}.id WHERE {name}.lvl < 5{more})"
        )


def masked_branch(branch: Query, cols: Sequence[Col]) -> str:
    """A branch of UNION ALL as the copy has to be asked: with the mask of the strictest branch on what has one.

    What has none stays as it is, but for a hash, which all branches share: it is a text.
    """
    names = [f"b{i}" for i in range(len(cols))]
    shown = [
        n
        if mine.mask == col.mask or col.mask == "null!" or not (mine.mask or col.mask == "hash")
        else mask_sql(n, col.mask, col.type)
        for n, mine, col in zip(names, branch.cols, cols, strict=True)
    ]
    shown = [f"{value} AS {col.name}" for value, col in zip(shown, branch.cols, strict=True)]
    return f"SELECT {', '.join(shown)} FROM ({branch.sql}) AS branch ({', '.join(names)})"


_SELECT_FORMS = weights("plain 60, aggregate 10, group 10, pk 5, sets 4, distinct 7, distinct on 4, window 6")
_TARGET_FORMS = weights("int 8, text 6, bool 2, date 2")
