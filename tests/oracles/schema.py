"""The database of the oracles: small tables in which every hidden row is a trap.

What an agent may see never makes an expression raise: `n` is never 0, `name` is a numeral or a relation's name, `label` a
date. What is hidden always does. So an error of class 22 on a guarded connection is a hidden row that was looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Column:
    """A column. `trap` says how a hidden value of it raises: `n` (division, overflow), `num`, `reg` and
    `date` (casts of a text), `mood` (a user's cast), `home` (division by a field of the row)."""

    name: str
    type: str
    trap: str = ""
    mask: str = ""
    generated: bool = False


@dataclass(frozen=True)
class Table:
    """A relation to generate statements over. `key` is unique; `kind` is PostgreSQL's relkind."""

    name: str
    columns: tuple[Column, ...]
    kind: str = "r"
    key: tuple[str, ...] = ("id",)
    filtered: bool = True
    writable: bool = True
    only: bool = False
    #: the value that its partition key must have, in SQL
    fixed: dict[str, str] = field(default_factory=dict)
    #: for a view: what its masked outputs are, by name (the columns have them too)
    primary_key: bool = True


_TENANT = Column("tenant", "int")


def generated_mask(of: str) -> str:
    """The mask of what is generated from a masked column: it inherits NULL, and a token in place of a hash."""
    return "redact" if of == "hash" else of


def tables(masks: dict[str, str] | None = None) -> dict[str, Table]:
    """Every relation. `masks`: `table.column` -> kind, for the statements about masking."""
    masks = masks or {}

    def column(table: str, name: str, type: str, trap: str = "") -> Column:
        return Column(name, type, trap, masks.get(f"{table}.{name}", ""))

    def row(table: str, *extra: tuple[str, str, str]) -> tuple[Column, ...]:
        return (
            column(table, "id", "int"),
            column(table, "tenant", "int"),
            column(table, "n", "int", "n"),
            *(column(table, *e) for e in extra),
        )

    acct = (
        *row("acct", ("name", "text", "num"), ("d", "date", ""), ("boss", "int", "")),
        column("acct", "mood", "mood", "mood"),
        column("acct", "home", "home", "home"),
        Column("loud", "text", "", generated_mask(masks.get("acct.name", "")), generated=True),
    )
    item = row("item", ("acct_id", "int", ""), ("label", "text", "date"))
    evt = row("evt", ("kind", "text", ""))
    base = row("base", ("name", "text", "reg"))
    by_name = {c.name: c for c in acct}
    label = next(c for c in item if c.name == "label")
    found = [
        Table("acct", acct),
        Table("item", item),
        Table(
            "tag",
            (
                column("tag", "id", "int"),
                column("tag", "n", "int", "n"),
                column("tag", "name", "text", "num"),
                column("tag", "k", "int"),
            ),
            filtered=False,
        ),
        Table(
            "grp",
            (_TENANT, Column("ok", "bool"), Column("title", "text")),
            key=("tenant",),
            filtered=False,
            writable=False,
        ),
        Table("evt", evt, kind="p", key=("id", "kind"), only=True),
        Table("evt_a", evt, key=("id", "kind"), fixed={"kind": "'a'"}),
        Table("evt_rest", evt, key=("id", "kind"), fixed={"kind": "'z'"}),
        Table("base", base, only=True, primary_key=False),
        Table("kid", (*base, Column("extra", "int")), primary_key=False),
        Table(
            "v_acct",
            tuple(by_name[c] for c in ("id", "tenant", "n", "name", "boss")),
            kind="v",
            writable=False,
        ),
        Table(
            "v_nest",
            (by_name["id"], by_name["name"], Column("label", "text", "date", label.mask), Column("m", "int")),
            kind="v",
            key=(),
            writable=False,
        ),
        Table("v_agg", (_TENANT, Column("c", "int"), Column("s", "int")), kind="v", key=(), writable=False),
        Table("v_evt", tuple(evt[i] for i in (0, 2, 3)), kind="v", key=(), writable=False),
        Table("v_tag", (Column("id", "int"), Column("k", "int")), kind="v", filtered=False, writable=False),
    ]
    return {t.name: t for t in found}


#: The types of the columns that a hash mask turns into text, in the copy whose columns are overwritten.
def schema_sql(types: dict[str, str] | None = None, *, generated: bool = True) -> str:
    """The tables and views. `types`: `table.column` -> another type. Without `generated`, columns are all plain ones."""
    types = types or {}
    loud = "loud text GENERATED ALWAYS AS (upper(name)) STORED" if generated else "loud text"

    def columns(table: str, *definitions: str) -> str:
        made = []
        for definition in definitions:
            name, type = definition.split(" ")[:2]
            rest = definition.split(" ")[2:]
            made.append(" ".join([name, types.get(f"{table}.{name}", type), *rest]))
        return ", ".join(made)

    return f"""
SET ROLE keeper;
CREATE TYPE mood AS ENUM ('mute', 'calm', 'loud');
CREATE TYPE home AS (street text, no int);
CREATE FUNCTION mood_rank(mood) RETURNS int LANGUAGE sql IMMUTABLE AS
  $$ SELECT 12 / (array_position(ARRAY['mute', 'calm', 'loud']::mood[], $1) - 1) $$;
CREATE CAST (mood AS int) WITH FUNCTION mood_rank(mood);
CREATE FUNCTION apart(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 12 / $1 - $2';
CREATE OPERATOR <~> (FUNCTION = apart, LEFTARG = int, RIGHTARG = int);
CREATE TABLE acct (id int PRIMARY KEY, tenant int, {columns("acct", "n int", "name text", "d date")}, boss int,
  mood mood, home home, {loud});
CREATE TABLE item (id int PRIMARY KEY, tenant int, {columns("item", "n int")}, acct_id int, {columns("item", "label text")});
CREATE INDEX ON item (acct_id);
CREATE INDEX ON item (label);
CREATE INDEX ON acct (n);
CREATE INDEX ON acct (name);
CREATE FUNCTION moves_out() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN IF NEW.acct_id = 9 THEN NEW.tenant := 2; END IF; RETURN NEW; END $$;
CREATE TRIGGER moves_out BEFORE INSERT OR UPDATE ON item FOR EACH ROW EXECUTE FUNCTION moves_out();
CREATE TABLE tag (id int PRIMARY KEY, {columns("tag", "n int", "name text")}, k int);
CREATE TABLE grp (tenant int PRIMARY KEY, ok bool NOT NULL, title text);
CREATE TABLE evt (id int, tenant int, {columns("evt", "n int")}, kind text, PRIMARY KEY (id, kind)) PARTITION BY LIST (kind);
CREATE TABLE evt_a PARTITION OF evt FOR VALUES IN ('a');
CREATE TABLE evt_rest PARTITION OF evt DEFAULT;
CREATE TABLE base (id int, tenant int, {columns("base", "n int", "name text")});
CREATE TABLE kid (extra int) INHERITS (base);
CREATE VIEW v_acct AS SELECT id, tenant, n, name, boss FROM acct WHERE id > 0;
CREATE VIEW v_nest AS SELECT v.id, v.name, i.label, i.id + 1 AS m FROM v_acct v LEFT JOIN item i ON i.acct_id = v.id;
CREATE VIEW v_agg AS SELECT tenant, count(*)::int AS c, sum(id)::int AS s FROM item GROUP BY tenant;
CREATE VIEW v_evt AS SELECT id, n, kind FROM evt;
CREATE VIEW v_tag AS SELECT id, k FROM tag;
GRANT ALL ON ALL TABLES IN SCHEMA public TO agent;
RESET ROLE;
"""


#: Relations with rows of their own, and what each column's value is made of.
_FILTERED = ("acct", "item", "evt", "base", "kid")

VISIBLE_TENANTS = ("1", "3")


def rows_sql(variant: int = 0) -> str:
    """The rows. `variant` 1 has the same visible rows and other hidden ones."""
    statements: list[str] = []

    def insert(table: str, *rows: str) -> None:
        statements.append(f"INSERT INTO {table} VALUES {', '.join(rows)};")

    # The trigger moves a row out of the filter, whatever the statement itself assigns; these rows stay as they are.
    statements.append("ALTER TABLE item DISABLE TRIGGER moves_out;")
    insert("grp", "(1, true, 'one')", "(2, false, 'two')", "(3, true, 'three')")
    traps = ("0", "2147483647", "-2147483648")
    words = ("secret", "hidden", "no_such_relation") if variant == 0 else ("other", "private", "another_name")
    for table in _FILTERED:
        made = []
        for i in range(1, 15):
            hidden = i % 3 == 2 or i % 7 == 4
            if hidden:
                tenant = "NULL" if i % 2 else "2"
                number, numeral, date = traps[(i + variant) % 3], f"'{words[i % 3]}'", f"'{words[i % 3]} day'"
                relation = numeral
                when = "NULL" if (i + variant) % 4 == 0 else f"'2020-02-{i + variant:02}'"
                reference = str((i * 3 + variant) % 15)
            else:
                tenant = "3" if i % 5 == 1 else "1"
                number = "NULL" if i % 6 == 0 else str(i % 9 + 1)
                numeral = "NULL" if i % 9 == 0 else f"'{i % 4 + 1}'"
                relation = "NULL" if i % 9 == 0 else ("'acct'", "'item'", "'pg_class'")[i % 3]
                date = "NULL" if i % 10 == 0 else f"'2024-01-{i % 5 + 1:02}'"
                when = "NULL" if i % 4 == 0 else f"'2024-03-{i % 3 + 1:02}'"
                reference = str((i * 3) % 15)
            if hidden:
                mood, home = "'mute'", f"({numeral}, 0)"
            else:
                mood = "NULL" if i % 8 == 0 else ("'calm'", "'loud'")[i % 2]
                home = "NULL" if i % 8 == 1 else f"('street {i % 3}', {i % 4 + 1})"
            boss = "NULL" if i in (1, 2) else str(i // 2)
            # The same keys in both variants: that a key is taken shows through its index, as with native row security.
            kind = ("'a'", "'z'", "'b'")[i % 3]
            made.append(
                {
                    "acct": f"({i}, {tenant}, {number}, {numeral}, {when}, {boss}, {mood}, {home})",
                    "item": f"({i}, {tenant}, {number}, {reference}, {date})",
                    "evt": f"({i}, {tenant}, {number}, {kind})",
                    "base": f"({i}, {tenant}, {number}, {relation})",
                    "kid": f"({i + 20}, {tenant}, {number}, {relation}, {i % 3})",
                }[table]
            )
        insert(table, *made)
    insert("tag", *(f"({i}, {i % 4 + 1}, '{i % 5}', {i % 3 or 'NULL'})" for i in range(1, 9)))
    statements.append("ALTER TABLE item ENABLE TRIGGER moves_out;")
    return "\n".join(statements)


def more_rows_sql() -> str:
    """More hidden rows, to be put behind all others, so that the visible ones keep their ctid."""
    rows = {
        "acct": "({0}, 2, 0, 'more', NULL, 1, 'mute', ('more', 0))",
        "item": "({0}, 2, 0, 1, 'more')",
        "evt": "({0}, 2, 0, 'a')",
        "base": "({0}, 2, 0, 'more')",
        "kid": "({0}, 2, 0, 'more', 1)",
    }
    return "\n".join(
        f"INSERT INTO {table} VALUES {', '.join(row.format(900 + i) for i in range(5))};"
        for table, row in rows.items()
    )


CONTENTS_SQL = """
CREATE SCHEMA admin;
CREATE FUNCTION admin.contents() RETURNS text SECURITY DEFINER LANGUAGE sql AS $$
  SELECT string_agg(t, E'\\n') FROM (
    SELECT 'acct' || a::text t FROM acct a UNION ALL SELECT 'item' || a::text FROM item a
    UNION ALL SELECT 'tag' || a::text FROM tag a UNION ALL SELECT 'evt' || a::text FROM evt a
    UNION ALL SELECT 'base' || a::text FROM ONLY base a UNION ALL SELECT 'kid' || a::text FROM kid a ORDER BY 1) x $$;
GRANT USAGE ON SCHEMA admin TO agent;
"""


@dataclass(frozen=True)
class Filter:
    """One predicate for every filtered table. `{a}` is the row: nothing in a policy, a qualifier in the sent text."""

    name: str
    source: str
    #: what stands in the sent text, where it differs from the source
    sent: str = ""

    def policy(self, table: str) -> str:
        return self.source.format(a="", t=f"{table}.")

    def expected(self, alias: str) -> str:
        quoted = '"' + alias.replace('"', '""') + '"'
        return (self.sent or self.source).format(a=f"{quoted}.", t=f"{quoted}.")


FILTERS = (
    Filter("constant", "{a}tenant = 1"),
    Filter("in", "{a}tenant IN (1, 3)"),
    Filter(
        "setting",
        "{a}tenant = current_setting('app.tenant')::int",
        "{a}tenant = '1'::pg_catalog.text::int",
    ),
    Filter("or_null", "{a}tenant = 1 OR ({a}tenant = 3 AND {a}n IS NOT NULL)"),
    Filter("not_null", "{a}tenant <> 2"),
    Filter("sublink", "{a}tenant IN (SELECT g.tenant FROM grp g WHERE g.ok)"),
    Filter("correlated", "EXISTS (SELECT 1 FROM grp g WHERE g.tenant = {t}tenant AND g.ok)"),
)
FILTERED_TABLES = ("acct", "item", "evt", "base")
SECURED_TABLES = ("acct", "item", "evt", "evt_a", "evt_rest", "base", "kid")
SETTINGS = {"app.tenant": "1"}

#: What the agent may call of what the schema brings: behind an operator, and behind a cast.
ADMITTED_FUNCTIONS = ("apart", "mood_rank")

#: Which condition PostgreSQL tries first is up to the plan, so each filter and each set of masks has planners of its own.
PLANNERS: tuple[dict[str, str], ...] = (
    {},
    {"enable_seqscan": "off"},
    {"enable_hashjoin": "off", "enable_mergejoin": "off"},
    {"enable_nestloop": "off", "enable_sort": "off"},
    {"join_collapse_limit": "1", "from_collapse_limit": "1", "enable_bitmapscan": "off"},
    {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_material": "off", "enable_memoize": "off"},
    {"cpu_operator_cost": "100", "enable_indexscan": "off"},
)


@dataclass(frozen=True)
class Masking:
    """One set of masks: `table.column` -> kind. Children have their parents'."""

    name: str
    masks: dict[str, str]


MASKINGS = (
    Masking(
        "redact", {"acct.name": "redact", "acct.n": "redact", "item.label": "redact", "base.name": "redact"}
    ),
    Masking(
        "null",
        {"acct.name": "null", "item.n": "null", "item.label": "null", "evt.n": "null", "base.n": "null"},
    ),
    Masking(
        "hash",
        {"acct.name": "hash", "acct.n": "hash", "item.label": "hash", "evt.n": "hash", "tag.name": "hash"},
    ),
    Masking(
        "mixed",
        {
            "acct.name": "hash",
            "acct.d": "redact",
            "item.label": "redact",
            "tag.name": "null",
            "acct.n": "null",
        },
    ),
)
