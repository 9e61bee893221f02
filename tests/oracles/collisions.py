"""Statements whose names are chosen to collide: what a name means is all that they ask.

Columns are called like system columns, like tables, like functions, like columns that only other versions have; aliases and
alias lists give such names to other things. Nothing is run: the statements are read, by PostgreSQL and by guarddb.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.oracles.draws import Draws, spanned
from tests.oracles.grammar import Generated

SCHEMA_SQL = """
CREATE TYPE pair AS (id int, ssn text);
CREATE TYPE wide AS (xmin text, oid int, raw text, old text);
CREATE DOMAIN dpair AS pair;
CREATE TYPE mood AS ENUM ('calm', 'loud');
CREATE FUNCTION rank_of(mood) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE FUNCTION mood_of(pair) RETURNS mood LANGUAGE sql IMMUTABLE AS 'SELECT NULL::mood';
CREATE CAST (mood AS int) WITH FUNCTION rank_of(mood);
CREATE CAST (pair AS mood) WITH FUNCTION mood_of(pair);
CREATE DOMAIN code AS varchar(20);
CREATE TABLE customers (
  id int PRIMARY KEY, name text, ssn text, email text NOT NULL, tenant int, born date, score numeric, addr pair, code code,
  low text GENERATED ALWAYS AS (lower(email)) STORED, tag text GENERATED ALWAYS AS (upper(ssn)) STORED,
  mood mood
);
CREATE TABLE plain (id int, name text, old text, "new" int, daticulocale text, customers text, oid int, f text, raw text);
CREATE TABLE docs (id int PRIMARY KEY, tenant int, note text, name text, owner int, doc jsonb);
CREATE TABLE docs_more (extra text) INHERITS (docs);
CREATE TABLE parts (id int, region text, ssn text, n int) PARTITION BY LIST (n);
CREATE TABLE parts_a PARTITION OF parts FOR VALUES IN (1);
CREATE TABLE parts_z PARTITION OF parts DEFAULT;
CREATE VIEW v_customers AS SELECT id, ssn AS social, name, 'x'::text AS xmin, tenant FROM customers;
CREATE VIEW v_shared (ctid, oid, ssn) AS SELECT c.id, d.id, c.email FROM customers c JOIN docs d ON d.owner = c.id;
CREATE VIEW v_plain AS SELECT id, name AS old, raw AS ssn FROM plain;
CREATE VIEW v_notes AS SELECT d.id, d.name, d.note, upper(d.name) AS loud, d.tenant FROM docs d;
CREATE FUNCTION leak(customers) RETURNS text LANGUAGE sql STABLE AS 'SELECT $1.ssn';
CREATE FUNCTION email(plain) RETURNS text LANGUAGE sql STABLE AS 'SELECT $1.name';
CREATE FUNCTION one_pair(int) RETURNS pair LANGUAGE sql STABLE AS 'SELECT $1, NULL::text';
CREATE FUNCTION some_plain() RETURNS SETOF plain LANGUAGE sql STABLE AS 'SELECT * FROM plain';
CREATE FUNCTION named(OUT ssn text, OUT xmin int) LANGUAGE sql STABLE AS 'SELECT NULL::text, 1';
CREATE FUNCTION yes(text, text) RETURNS bool LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR =~= (FUNCTION = yes, LEFTARG = text, RIGHTARG = text);
"""

_CUSTOMERS = ("id", "name", "ssn", "email", "tenant", "born", "score", "addr", "code", "low", "tag", "mood")
_DOCS = ("id", "tenant", "note", "name", "owner", "doc")
#: Relations and their columns; those of the system are not all there, a star over them brings more.
RELATIONS: dict[str, tuple[str, ...]] = {
    "customers": _CUSTOMERS,
    "plain": ("id", "name", "old", "new", "daticulocale", "customers", "oid", "f", "raw"),
    "docs": _DOCS,
    "docs_more": (*_DOCS, "extra"),
    "parts": ("id", "region", "ssn", "n"),
    "parts_a": ("id", "region", "ssn", "n"),
    "v_customers": ("id", "social", "name", "xmin", "tenant"),
    "v_shared": ("ctid", "oid", "ssn"),
    "v_plain": ("id", "old", "ssn"),
    "v_notes": ("id", "name", "note", "loud", "tenant"),
    "pg_class": ("oid", "relname", "relkind"),
    "pg_roles": ("rolname", "oid"),
    "pg_database": ("oid", "datname", "datlocale"),
}
#: What stands in FROM like a function, and its columns; empty where the alias names the only one.
FUNCTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("generate_series(1, 2)", ()),
    ("unnest(ARRAY['a', 'b'])", ()),
    ("CAST(ROW(1, 'x') AS pair)", ("id", "ssn")),
    ("CAST(ROW(1, 'x') AS dpair)", ("id", "ssn")),
    ("COALESCE(CAST(ROW('x', 1, 'r', 'o') AS wide), NULL)", ("xmin", "oid", "raw", "old")),
    ("NULLIF(CAST(ROW(1, 'x') AS pair), ROW(1, 'y')::pair)", ("id", "ssn")),
    ("unnest(ARRAY[ROW(1, 'x')::pair])", ("id", "ssn")),
    ("jsonb_populate_record(NULL::plain, '{}')", RELATIONS["plain"]),
    ("jsonb_each('{}')", ("key", "value")),
    ("jsonb_each_text('{}')", ("key", "value")),
    ("one_pair(1)", ("id", "ssn")),
    ("some_plain()", RELATIONS["plain"]),
    ("named()", ("ssn", "xmin")),
    ("current_date", ()),
    ("CAST('x' AS text)", ()),
    ("COLLATION FOR ('a')", ()),
    ("CAST(NULL AS customers)", _CUSTOMERS),
    ("GREATEST('a', 'b')", ()),
)
NAMES = (
    "id", "name", "ssn", "email", "tenant", "note", "raw", "xmin", "ctid", "tableoid", "cmin", "oid", "old", "new", "excluded",
    "c", "p", "d", "daticulocale", "datlocale", "count", "text", "customers", "plain", "docs", "social", "column1", "f",
    "unnest", "coalesce", "nullif", "row", "case", "ordinality", "low", "addr", "owner", "pair", "leak", "lower", "max", "emial",
    "mood",
)  # fmt: skip
#: Names that need quotes where they stand alone.
_QUOTED = frozenset(
    ("row", "case", "old", "new", "coalesce", "nullif", "text", "pair", "count", "unnest", "max", "lower")
)
ALIASES = (
    "c",
    "p",
    "d",
    "f",
    "j",
    "q",
    "old",
    "customers",
    "docs",
    "plain",
    "excluded",
    "count",
    "id",
    "ssn",
    "x",
)


@dataclass
class _Item:
    alias: str
    columns: list[str]


@dataclass
class _Scope:
    items: list[_Item] = field(default_factory=list)
    parent: _Scope | None = None


def _quote(name: str) -> str:
    return f'"{name}"' if name in _QUOTED else name


class Collisions:
    """One statement in the making."""

    def __init__(self, draws: Draws) -> None:
        self.d = draws
        self.features: list[str] = []
        self.depth = 0
        self.ctes: list[_Item] = []
        self.aliases: set[str] = set()

    def make(self) -> Generated:
        form = self.d.weighted(((70, "select"), (9, "insert"), (9, "update"), (6, "delete"), (6, "merge")))
        self.features.append(form)
        sql = self.with_clause() if self.d.chance(15) else ""
        sql += {
            "select": lambda: self.query(None)[0],
            "insert": self.insert,
            "update": self.update,
            "delete": self.delete,
            "merge": self.merge,
        }[form]()
        return Generated(sql, sql, [], None, False, form != "select", [], self.features, False, self.d.made)

    # ------------------------------------------------------------------ names

    def name(self) -> str:
        return self.d.pick(NAMES)

    def new_alias(self) -> str:
        """An alias; one that the statement has already is drawn seldom."""
        alias = self.d.pick(ALIASES)
        if alias in self.aliases and not self.d.chance(10):
            alias = next((a for a in ALIASES if a not in self.aliases), alias)
        self.aliases.add(alias)
        return alias

    def known(self, scope: _Scope) -> tuple[_Item, str] | None:
        levels: list[_Item] = list(scope.items)
        if scope.parent is not None and (not levels or self.d.chance(25)):
            levels += scope.parent.items
        items = [item for item in levels if item.columns]
        if not items:
            return None
        item = self.d.pick(items)
        return item, self.d.pick(item.columns)

    @spanned
    def ref(self, scope: _Scope) -> str:
        """A column, or what looks like one."""
        form = self.d.weighted(
            ((46, "qualified"), (26, "bare"), (12, "any"), (5, "row"), (6, "attribute"), (5, "field"))
        )
        if form == "row" and scope.items:
            return _quote(self.d.pick(scope.items).alias)
        if form == "attribute" and scope.items:
            return f"{_quote(self.d.pick(scope.items).alias)}.{_quote(self.name())}"
        if form == "field" and scope.items:
            return f"({_quote(self.d.pick(scope.items).alias)}).{_quote(self.name())}"
        found = self.known(scope)
        if form == "any" or found is None:
            return _quote(self.name())
        item, column = found
        if form == "bare" and (sum(column in i.columns for i in scope.items) <= 1 or self.d.chance(8)):
            return _quote(column)
        return f"{_quote(item.alias)}.{_quote(column)}"

    # ------------------------------------------------------------------ expressions

    @spanned
    def expression(self, scope: _Scope, depth: int = 2) -> str:
        form = self.d.weighted(
            (
                (50, "ref"),
                (8, "constant"),
                (9, "scalar"),
                (4, "coalesce"),
                (4, "case"),
                (4, "call"),
                (3, "aggregate"),
                (3, "cast"),
                (2, "json"),
                (2, "window"),
            )
        )
        if depth <= 0 or form == "ref":
            return self.ref(scope)
        if form == "constant":
            return self.d.pick(("1", "'x'", "NULL"))
        if form == "scalar" and self.depth < 4:
            self.features.append("scalar")
            return f"({self.query(scope, small=True)[0]} LIMIT 1)"
        if form == "coalesce":
            return f"COALESCE({self.ref(scope)}, {self.ref(scope)})"
        if form == "case":
            return f"CASE WHEN {self.condition(scope)} THEN {self.expression(scope, depth - 1)} END"
        if form == "call":
            return f"{self.d.pick(('lower', 'row_to_json', 'length', 'to_jsonb', 'leak', 'pg_typeof'))}({self.ref(scope)})"
        if form == "aggregate":
            return f"{self.d.pick(('count', 'max', 'count', 'array_agg'))}({self.ref(scope)})"
        if form == "cast":
            return f"{self.ref(scope)}::{self.d.pick(('text', 'text', 'text', 'int', 'mood', 'pair'))}"
        if form == "json":
            return f"json_build_object('k', {self.ref(scope)})"
        if form == "window":
            return f"count(*) OVER (PARTITION BY {self.ref(scope)})"
        return self.ref(scope)

    @spanned
    def condition(self, scope: _Scope) -> str:
        form = self.d.weighted(
            ((5, "true"), (4, "null"), (4, "equal"), (2, "exists"), (2, "in"), (1, "row"), (1, "operator"))
        )
        if form == "null":
            return f"{self.ref(scope)} IS NOT NULL"
        if form == "equal":
            return f"{self.ref(scope)}::text = {self.ref(scope)}::text"
        if form == "exists" and self.depth < 4:
            return f"EXISTS ({self.query(scope, small=True)[0]})"
        if form == "in" and self.depth < 4:
            return f"{self.ref(scope)} IN ({self.query(scope, small=True)[0]})"
        if form == "row":
            return f"({self.ref(scope)}, 1) IS NOT DISTINCT FROM ({self.ref(scope)}, 1)"
        if form == "operator":
            return f"{self.ref(scope)}::text =~= 'x'"
        return "true"

    # ------------------------------------------------------------------ FROM

    @spanned
    def item(self, scope: _Scope, outer: _Scope | None) -> tuple[str, list[_Item]]:
        form = self.d.weighted(
            (
                (40, "relation"),
                (14, "function"),
                (16, "join"),
                (10, "joined"),
                (14, "subquery"),
                (6, "cte"),
                (4, "rows from"),
            )
        )
        if form == "function":
            return self.function_item(scope)
        if form in ("join", "joined") and self.depth < 4:
            return self.join(scope, outer, aliased=form == "joined")
        if form == "subquery" and self.depth < 4:
            lateral = self.d.chance(25)
            self.features.append("lateral" if lateral else "derived")
            text, columns = self.query(scope if lateral else outer)
            alias, listed, columns = self.aliased(columns, always=True)
            return f"{'LATERAL ' if lateral else ''}({text}) AS {alias}{listed}", [
                _Item(alias.strip('"'), columns)
            ]
        if form == "cte" and self.ctes:
            self.features.append("cte")
            cte = self.d.pick(self.ctes)
            alias, listed, columns = self.aliased(cte.columns, name=cte.alias)
            return f"{_quote(cte.alias)}{alias}{listed}", [
                _Item(alias.strip(' "').removeprefix('AS "') or cte.alias, columns)
            ]
        if form == "rows from":
            self.features.append("rows from")
            one, other = self.d.pick(FUNCTIONS), self.d.pick(FUNCTIONS)
            columns = [*(one[1] or (self.name(),)), *(other[1] or (self.name(),))]
            ordinality = self.d.chance(40)
            alias, listed, columns = self.aliased(
                [*columns, "ordinality"] if ordinality else columns, always=True
            )
            with_ = " WITH ORDINALITY" if ordinality else ""
            return f"ROWS FROM ({one[0]}, {other[0]}){with_} AS {alias}{listed}", [
                _Item(alias.strip('"'), columns)
            ]
        return self.relation_item()

    def relation_item(self) -> tuple[str, list[_Item]]:
        relation = self.d.pick(tuple(RELATIONS))
        alias, listed, columns = self.aliased(
            list(RELATIONS[relation]), name=relation, always=relation in self.aliases
        )
        self.aliases.add(relation)
        if alias and not alias.startswith(" AS "):
            alias = f" AS {alias}"
        schema = "public." if not relation.startswith("pg_") and self.d.chance(8) else ""
        only = "ONLY " if self.d.chance(4) else ""
        shown = alias.removeprefix(" AS ").strip('"') or relation
        return f"{only}{schema}{relation}{alias}{listed}", [_Item(shown, columns)]

    def function_item(self, scope: _Scope) -> tuple[str, list[_Item]]:
        self.features.append("function")
        call, columns = self.d.pick(FUNCTIONS)
        if self.d.chance(4) and "r" not in self.aliases:
            self.aliases.add("r")
            call = "json_to_record('{}')"
            return f"{call} AS r(id int, ssn text)", [_Item("r", ["id", "ssn"])]
        if self.d.chance(8) and (found := self.known(scope)) is not None:
            call, columns = f"unnest(ARRAY[{_quote(found[0].alias)}.{_quote(found[1])}])", ()
        alias, listed, columns_ = self.aliased(list(columns), always=True)
        name = alias.strip('"')
        ordinality = " WITH ORDINALITY" if self.d.chance(15) else ""
        return f"{call}{ordinality} AS {alias}{listed}", [_Item(name, columns_ or [name])]

    def aliased(
        self, columns: list[str], *, name: str = "", always: bool = False
    ) -> tuple[str, str, list[str]]:
        """(alias as written, column list as written, columns then). `name`: it needs no alias."""
        d = self.d
        if not always and d.chance(40):
            return "", "", columns
        alias = _quote(self.new_alias())
        listed = ""
        if d.chance(25):
            self.features.append("column list")
            many = max(1, d.below(len(columns) + 1)) if columns else 1
            names = [self.name() for _ in range(many)]
            listed = f"({', '.join(_quote(n) for n in names)})"
            columns = names + columns[many:]
        return (alias if always else f" AS {alias}"), listed, columns

    @spanned
    def join(self, scope: _Scope, outer: _Scope | None, *, aliased: bool) -> tuple[str, list[_Item]]:
        self.depth += 1
        d = self.d
        left, items = self.item(scope, outer)
        within = _Scope([*scope.items, *items], scope.parent)
        right, more = self.item(within, outer)
        self.depth -= 1
        kind = d.weighted(
            (
                (6, "JOIN"),
                (3, "LEFT JOIN"),
                (1, "RIGHT JOIN"),
                (2, "FULL JOIN"),
                (2, "CROSS JOIN"),
                (2, "NATURAL"),
            )
        )
        both = [c for i in items for c in i.columns if any(c in o.columns for o in more)]
        columns = [c for i in (*items, *more) for c in i.columns]
        merged = ""
        if kind == "CROSS JOIN":
            text = f"{left} CROSS JOIN {right}"
        elif kind == "NATURAL":
            self.features.append("natural")
            text = f"{left} NATURAL {d.pick(('JOIN', 'LEFT JOIN', 'FULL JOIN'))} {right}"
            columns = [*dict.fromkeys(both), *(c for c in columns if c not in both)]
        elif both and d.chance(60):
            self.features.append("using")
            names = list(dict.fromkeys(d.pick(both) for _ in range(1 + d.below(2))))
            if d.chance(20):
                merged = self.new_alias()
            text = f"{left} {kind} {right} USING ({', '.join(_quote(n) for n in names)})"
            text += f" AS {_quote(merged)}" if merged else ""
            columns = [*names, *(c for c in columns if c not in names)]
            if merged:
                more = [*more, _Item(merged, names)]
        else:
            text = f"{left} {kind} {right} ON {self.condition(_Scope([*items, *more], outer))}"
        if aliased:
            self.features.append("aliased join")
            alias, listed, columns = self.aliased(columns, always=True)
            return f"({text}) AS {alias}{listed}", [_Item(alias.strip('"'), columns)]
        return (f"({text})" if d.chance(20) else text), [*items, *more]

    # ------------------------------------------------------------------ queries

    def with_clause(self) -> str:
        made = []
        for _ in range(1 + self.d.below(2)):
            name = self.d.pick(("w", "customers", "docs", "q", "old"))
            if any(c.alias == name for c in self.ctes):
                continue
            if self.d.chance(15):
                text, columns = self.update(), [self.name()]
            else:
                text, columns = self.query(None)
            listed = ""
            if self.d.chance(30) and columns:
                columns = [self.name() for _ in columns]
                listed = f"({', '.join(_quote(n) for n in columns)})"
            made.append(f"{_quote(name)}{listed} AS ({text})")
            self.ctes.append(_Item(name, columns))
        return f"WITH {', '.join(made)} " if made else ""

    @spanned
    def query(self, parent: _Scope | None, *, small: bool = False) -> tuple[str, list[str]]:
        self.depth += 1
        d = self.d
        try:
            if d.chance(7):
                left, columns = self.query(parent, small=True)
                right, others = self.query(parent, small=True)
                self.features.append("set operation")
                if len(columns) != len(others):
                    columns = ["n"]
                    left, right = f"SELECT 'n' AS n FROM ({left}) AS l", f"SELECT 'n' FROM ({right}) AS r"
                return f"({left}) {d.pick(('UNION ALL', 'UNION', 'EXCEPT ALL'))} ({right})", columns
            if d.chance(2):
                return f"TABLE {d.pick(tuple(RELATIONS))}", []
            scope = _Scope([], parent)
            texts = []
            for _ in range(1 if small or d.chance(65) else 2):
                text, items = self.item(scope, parent)
                texts.append(text)
                scope.items += items
            targets, columns = [], []
            for _ in range(1 if small else 1 + d.below(3)):
                target, names = self.target(scope)
                targets.append(target)
                columns += names
            sql = f"SELECT {', '.join(targets)} FROM {', '.join(texts)}"
            if d.chance(35):
                sql += f" WHERE {self.condition(scope)}"
            if d.chance(3):
                by = self.ref(scope)
                more = f", {self.ref(scope)} AS more" if d.chance(40) else ""
                self.features.append("group by")
                sql = f"SELECT {by}, count(*){more} FROM {', '.join(texts)} GROUP BY {d.pick((by, '1'))}"
                columns = [by.rpartition(".")[2].strip('"'), "count", *(["more"] if more else [])]
            if d.chance(10):
                sql += f" ORDER BY {d.pick(('1', self.ref(scope), _quote(self.name())))}"
            return sql, columns
        finally:
            self.depth -= 1

    @spanned
    def target(self, scope: _Scope) -> tuple[str, list[str]]:
        d = self.d
        form = d.weighted(((50, "ref"), (14, "expression"), (12, "star"), (10, "item star"), (3, "row star")))
        if form == "star" and scope.items:
            self.features.append("star")
            return "*", [c for i in scope.items for c in i.columns]
        if form == "item star" and scope.items:
            self.features.append("item star")
            item = d.pick(scope.items)
            return f"{_quote(item.alias)}.*", list(item.columns)
        if form == "row star" and scope.items:
            self.features.append("row star")
            item = d.pick(scope.items)
            return f"({_quote(item.alias)}).*", list(item.columns)
        text = self.ref(scope) if form == "ref" else self.expression(scope)
        if d.chance(30):
            label = self.name()
            return f"{text} AS {_quote(label)}", [label]
        name = text.rpartition(".")[2].strip('"')
        return text, [name if name.isidentifier() else "?column?"]

    # ------------------------------------------------------------------ writes

    def returning(self, scope: _Scope) -> str:
        d = self.d
        if not d.chance(60):
            return ""
        self.features.append("returning")
        with_ = ""
        scope = _Scope([*scope.items], scope.parent)
        target = scope.items[0]
        if d.chance(25):
            one, other = d.pick(ALIASES), d.pick(ALIASES)
            with_ = f"WITH (OLD AS {_quote(one)}, NEW AS {_quote(other)}) "
            scope.items += [_Item(one, target.columns), _Item(other, target.columns)]
        elif d.chance(50):
            scope.items += [_Item("old", target.columns), _Item("new", target.columns)]
        return f" RETURNING {with_}{', '.join(self.target(scope)[0] for _ in range(1 + d.below(2)))}"

    def written(self, *, parts: bool = True) -> tuple[str, _Item]:
        relation = self.d.pick(("customers", "plain", "docs", *(("parts",) if parts else ())))
        if self.d.chance(40):
            alias = self.new_alias()
            return f"{relation} AS {_quote(alias)}", _Item(alias, list(RELATIONS[relation]))
        return relation, _Item(relation, list(RELATIONS[relation]))

    def insert(self) -> str:
        text, item = self.written(parts=False)
        scope = _Scope([item])
        if self.d.chance(30):
            sql = f"INSERT INTO {text} (id) {self.query(None, small=True)[0]}"
        else:
            sql = f"INSERT INTO {text} (id) VALUES (1)"
        if not text.startswith("plain") and self.d.chance(25):
            self.features.append("on conflict")
            conflict = _Scope([item, _Item("excluded", item.columns)])
            if self.d.chance(20):
                sql += f" ON CONFLICT{self.d.pick((' (id)', ''))} DO NOTHING"
            else:
                sql += f" ON CONFLICT (id) DO UPDATE SET id = 1 WHERE {self.condition(conflict)}"
        return sql + self.returning(scope)

    def update(self) -> str:
        text, item = self.written()
        scope = _Scope([item])
        sql = f"UPDATE {text} SET {self.d.pick(('id = 1', 'id = id'))}"
        if self.d.chance(35):
            source, items = self.item(scope, None)
            scope.items += items
            sql += f" FROM {source}"
        if self.d.chance(70):
            sql += f" WHERE {self.condition(scope)}"
        return sql + self.returning(scope)

    def delete(self) -> str:
        text, item = self.written()
        scope = _Scope([item])
        sql = f"DELETE FROM {text}"
        if self.d.chance(35):
            source, items = self.item(scope, None)
            scope.items += items
            sql += f" USING {source}"
        if self.d.chance(70):
            sql += f" WHERE {self.condition(scope)}"
        return sql + self.returning(scope)

    def merge(self) -> str:
        text, item = self.written()
        scope = _Scope([item])
        source, items = self.item(scope, None)
        scope.items += items
        sql = f"MERGE INTO {text} USING {source} ON {self.condition(scope)}"
        sql += f" WHEN MATCHED THEN {self.d.pick(('DELETE', 'UPDATE SET id = 1', 'DO NOTHING'))}"
        return sql + self.returning(scope)
