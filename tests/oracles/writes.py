"""INSERT, UPDATE, DELETE and MERGE, each with RETURNING, also below WITH."""

from __future__ import annotations

from tests.oracles.draws import spanned
from tests.oracles.grammar import Col, Item, Query, Scope, weights
from tests.oracles.schema import Table
from tests.oracles.selects import Selects


class Writes(Selects):
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
            form = d.weighted(((50, "target"), (10, "old"), (4, "whole"), (8, "sub")))
            if form == "sub" and (made := self.looked_up(scope, own, verb)) is not None:
                targets.append(f"{made} AS c{i}")
                cols.append(Col(f"c{i}", "int"))
                continue
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
            made, col = self.target(scope, None, "rows", f"c{i}", depth=1)
            targets.append(made)
            cols.append(Col(col.name, col.type, "", col.mask))
        return f" RETURNING {', '.join(targets)}", cols

    def looked_up(self, scope: Scope, own: Item, verb: str) -> str | None:
        """A sub-select of RETURNING, which may look at the row as it was and as it is."""
        items = list(scope.items)
        for alias in ("old", "new") if verb != "delete" else ("old",):
            if self.d.chance(40) and not any(item.alias == alias for item in items):
                items.append(Item(alias, own.cols, whole=False))
        made = self.scalar("int", Scope(items))
        if made is not None:
            self.used("returning sub-select")
        return made

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

    def new_value(self, table: Table, column: str, here: Scope | None) -> str:
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
        if column == "mood":
            return d.pick(("'calm'::mood", "NULL", "'loud'::mood"))
        if column == "home":
            return d.pick(("ROW('street 1', 2)::home", "NULL"))
        if column == "d":
            return d.pick(("date '2024-03-02'", "NULL"))
        if here is not None and d.chance(40):
            return self.int_(here, 1)
        return str(d.below(12))

    def assignments(self, table: Table, here: Scope) -> str:
        d = self.d
        free = [
            c.name
            for c in table.columns
            if c.name not in ("id", *table.fixed) and not c.mask and not c.generated
        ]
        made = {}
        for _ in range(1 + d.below(2)):
            column = d.pick(free)
            if column in ("tenant",) and d.chance(20):
                made[column] = "tenant" if len(here.items) == 1 else f"{here.items[0].alias}.tenant"
                continue
            made[column] = self.new_value(table, column, here)
        if len(made) > 1 and d.chance(20):
            self.used("multi assign")
            return f"({', '.join(made)}) = ({', '.join(made.values())})"
        return ", ".join(f"{c} = {v}" for c, v in made.items())

    @spanned
    def where_of(self, own: Item, scope: Scope) -> str:
        """A condition that names a column of the target (a whereless write is refused on purpose)."""
        first = f"{own.alias}.id {self.d.pick(('<', '>', '=', '<>'))} {self.d.below(12)}"
        if self.d.chance(60):
            other = self.bool_(scope, 1)
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
        assigned = self.assignments(table, scope)
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
        columns = [c.name for c in table.columns if not c.mask and not c.generated]
        given = sum(not c.generated for c in table.columns)
        if d.chance(30):
            columns = [c for c in columns if c in ("id", "tenant", "kind") or d.chance(60)]
        named = f" ({', '.join(columns)})" if d.chance(60) or len(columns) < given else ""
        if d.chance(45):
            self.used("insert select")
            source, item = self.unique_source()
            here = Scope([item])
            shift = d.pick((0, 100, 100))
            values = [
                f"{item.alias}.{item.key[0]} + {shift}" if c == "id" else self.new_value(table, c, here)
                for c in columns
            ]
            if "tenant" in columns and any(c.name == "tenant" for c in item.cols) and d.chance(60):
                values[columns.index("tenant")] = f"{item.alias}.tenant"
            where = f" WHERE {self.bool_(here, 1)}" if d.chance(60) else ""
            body = f"SELECT {', '.join(values)} FROM {source}{where}"
        else:
            first = d.pick((100, 1))
            # A key twice in one VALUES is an error of its own, whichever row comes first.
            rows = []
            for r in range(1 + d.below(3)):
                key = str(first + 3 * r + d.below(3))
                values = [key if c == "id" else self.new_value(table, c, None) for c in columns]
                if d.chance(5) and columns[-1] not in table.fixed:
                    self.used("default")
                    values[-1] = "DEFAULT"
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
        free = [c for c in table.columns if c.name not in ("id", "kind") and not c.mask and not c.generated]
        column = d.pick(free)
        value = (
            f"excluded.{column.name}"
            if d.chance(50) and not column.mask
            else self.new_value(table, column.name, None)
        )
        # Below another scope, for which every name gets its alias: a bare one could mean excluded as well.
        where = f" WHERE {self.bool_(Scope([own], Scope([])), 1)}" if d.chance(30) else ""
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
            on += f" AND {self.bool_(Scope([item]), 1)}"
        clauses: list[str] = []
        for _ in range(1 + d.below(2)):
            form = d.pick(("update", "insert", "delete", "nothing"))
            matched = "WHEN NOT MATCHED THEN" if form == "insert" else "WHEN MATCHED THEN"
            if any(c.startswith(matched) for c in clauses):
                break  # nothing comes after an unconditional one
            if form == "insert":
                columns = [c.name for c in table.columns if not c.mask and not c.generated]
                values = [
                    f"{item.alias}.{item.key[0]} + 200" if c == "id" else self.new_value(table, c, None)
                    for c in columns
                ]
                extra = f" AND {self.bool_(Scope([item]), 1)}" if d.chance(25) else ""
                clauses.append(
                    f"WHEN NOT MATCHED{extra} THEN INSERT ({', '.join(columns)}) VALUES ({', '.join(values)})"
                )
                continue
            extra = f" AND {self.bool_(scope, 1)}" if d.chance(30) else ""
            action = {
                "update": lambda: f"UPDATE SET {self.assignments(table, scope)}",
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


_NEW_VALUE_FORMS = weights("1 12, 3 6, 2 3, NULL 2, 1 4")
_WRITE_FORMS = weights("update 30, delete 20, insert 35, merge 15")
