"""Definitions, settings, and writes to what the filters read: what an agent may try before it looks.

Each is one statement over the oracles' schema, most of them valid; the parts that could look at rows (constraints, defaults,
expressions, casts of a type) are drawn from what raises on a hidden row, or tells a masked value, and from what does not.
"""

from __future__ import annotations

from tests.oracles.draws import Draws, spanned
from tests.oracles.schema import Table

#: Settings that change how values are read or printed, which plan is taken, or what the guard holds.
SETTINGS_TRIED = (
    ("timezone", ("'UTC'", "167", "'Asia/Tokyo'")),
    ("datestyle", ("'German'", "'ISO, DMY'")),
    ("intervalstyle", ("'iso_8601'",)),
    ("extra_float_digits", ("-14", "1")),
    ("bytea_output", ("'escape'",)),
    ("row_security", ("off", "on")),
    ("session_replication_role", ("replica",)),
    ("search_path", ("pg_catalog", "''", "public")),
    ("app.tenant", ("'2'", "'3'", "''")),
    ("enable_seqscan", ("off",)),
    ("enable_indexscan", ("off",)),
    ("constraint_exclusion", ("on",)),
    ("plan_cache_mode", ("force_generic_plan",)),
    ("transform_null_equals", ("on",)),
    ("array_nulls", ("off",)),
    ("standard_conforming_strings", ("off",)),
    ("client_min_messages", ("debug1", "notice")),
    ("check_function_bodies", ("off",)),
    ("default_table_access_method", ("heap",)),
    ("cursor_tuple_fraction", ("1",)),
    ("debug_print_plan", ("on",)),
    ("log_statement", ("'all'",)),
)
_NAMES = ("tenant", "id", "n", "name", "extra_column", "ok")
_NEW_TABLES = ("probe", "copied")


class Definitions:
    """One statement in the making."""

    def __init__(self, draws: Draws, tables: dict[str, Table], features: list[str]) -> None:
        self.d = draws
        self.tables = {n: t for n, t in tables.items() if t.kind in "rp"}
        self.features = features

    def make(self) -> str:
        """The statement."""
        form = self.d.weighted(
            (
                (14, "index"),
                (16, "alter column"),
                (12, "add column"),
                (12, "add constraint"),
                (6, "rename"),
                (12, "create table"),
                (5, "view"),
                (10, "type"),
                (8, "upkeep"),
                (14, "set"),
                (16, "what filters read"),
                (5, "key"),
                (4, "into the new table"),
                (3, "code"),
            )
        )
        self.features.append(form)
        made: str = getattr(self, form.replace(" ", "_"))()
        return made

    # ------------------------------------------------------------------ parts

    def table(self) -> Table:
        names = ("acct", "item", "base", "tag", "evt", "kid", "grp")
        return self.tables[self.d.pick([n for n in names if n in self.tables])]

    def column(self, table: Table, *types: str) -> str:
        found = [c.name for c in table.columns if not types or c.type in types]
        return self.d.pick(found) if found else "id"

    @spanned
    def condition(self, table: Table) -> str:
        n, text = self.column(table, "int"), self.column(table, "text")
        return self.d.pick(
            (
                f"{n} > 0",
                f"1 / {n} >= 0",
                f"{text} <> 'secret'",
                f"{text}::int > 0",
                f"{n} IS NOT NULL",
                f"{n} + 1 > 0",
                f"{text} LIKE 's%'",
                f"({n} <~> 2) > 0",
                f"length({text}) < 6",
            )
        )

    def expression(self, table: Table) -> str:
        n, text = self.column(table, "int"), self.column(table, "text")
        return self.d.pick((f"({n} + 1)", f"(12 / {n})", f"upper({text})", f"({text}::int)", f"({n}::text)"))

    # ------------------------------------------------------------------ tables

    @spanned
    def index(self) -> str:
        table = self.table()
        unique = "UNIQUE " if self.d.chance(30) else ""
        method = self.d.pick(("", "", "USING hash ", "USING brin ")) if not unique else ""
        what = self.expression(table) if self.d.chance(30) else self.column(table)
        include = f" INCLUDE ({self.column(table)})" if not method and self.d.chance(15) else ""
        where = f" WHERE {self.condition(table)}" if self.d.chance(25) else ""
        return f"CREATE {unique}INDEX ON {table.name} {method}({what}){include}{where}"

    @spanned
    def alter_column(self) -> str:
        table = self.table()
        column = self.column(table)
        action = self.d.pick(
            (
                "SET DEFAULT NULL",
                "SET NOT NULL",
                "DROP NOT NULL",
                "SET STATISTICS 10",
                f"TYPE text USING {column}::text",
                "TYPE varchar(3)",
                f"TYPE int USING {self.expression(table)}",
                "TYPE bigint",
                "SET STORAGE PLAIN",
                "ADD GENERATED ALWAYS AS IDENTITY",
                "DROP EXPRESSION",
            )
        )
        return f"ALTER TABLE {table.name} ALTER COLUMN {column} {action}"

    @spanned
    def add_column(self) -> str:
        table = self.table()
        rest = self.d.pick(
            (
                "int",
                "int DEFAULT 0",
                "int NOT NULL",
                "serial",
                "int GENERATED ALWAYS AS IDENTITY",
                f"text GENERATED ALWAYS AS ({self.expression(table)}::text) STORED",
                f"text GENERATED ALWAYS AS ({self.expression(table)}::text)",
                f"int CHECK ({self.condition(table)})",
                "int DEFAULT 1 REFERENCES acct",
                "float8 DEFAULT random()",
                "mood DEFAULT 'calm'",
                "home",
                "int UNIQUE",
                "text DEFAULT 'x' COLLATE \"C\"",
            )
        )
        return f"ALTER TABLE {table.name} ADD COLUMN extra_column {rest}"

    @spanned
    def add_constraint(self) -> str:
        table = self.table()
        made = self.d.pick(
            (
                f"ADD CONSTRAINT probe CHECK ({self.condition(table)})",
                f"ADD CONSTRAINT probe CHECK ({self.condition(table)}) NOT VALID",
                f"ADD CONSTRAINT probe UNIQUE ({self.column(table)})",
                f"ADD CONSTRAINT probe FOREIGN KEY ({self.column(table, 'int')}) REFERENCES acct",
                f"ADD CONSTRAINT probe FOREIGN KEY ({self.column(table, 'int')}) REFERENCES grp NOT VALID",
                "VALIDATE CONSTRAINT probe",
                f"ADD EXCLUDE USING btree ({self.column(table)} WITH =)",
                "DROP CONSTRAINT acct_pkey",
                "CLUSTER ON acct_pkey",
                "CLUSTER ON acct_name_idx",
                "REPLICA IDENTITY FULL",
                "SET WITHOUT CLUSTER",
                "ENABLE ROW LEVEL SECURITY",
                "DISABLE TRIGGER ALL",
            )
        )
        return f"ALTER TABLE {table.name} {made}"

    def rename(self) -> str:
        table = self.table()
        other = self.d.pick(
            (
                f"RENAME TO {self.d.pick(('old_one', 'tag2'))}",
                f"RENAME COLUMN {self.column(table)} TO {self.d.pick(_NAMES)}",
                "SET SCHEMA admin",
                "INHERIT tag",
                "NO INHERIT base",
            )
        )
        return f"ALTER TABLE {table.name} {other}"

    @spanned
    def create_table(self) -> str:
        table = self.table()
        name = self.d.pick(_NEW_TABLES)
        columns = ", ".join(dict.fromkeys(self.column(table) for _ in range(2)))
        return self.d.pick(
            (
                f"CREATE TABLE {name} (id int)",
                f"CREATE TABLE {name} (id int REFERENCES {table.name})",
                f"CREATE TABLE {name} (LIKE {table.name} INCLUDING ALL)",
                f"CREATE TABLE {name} AS SELECT {columns} FROM {table.name}",
                f"CREATE TABLE {name} AS SELECT * FROM {table.name} WHERE {self.condition(table)}",
                f"SELECT {columns} INTO {name} FROM {table.name}",
                f"CREATE TEMP TABLE {name} AS TABLE {table.name}",
                f"CREATE TABLE {name} PARTITION OF evt FOR VALUES IN ('q')",
                f"CREATE TABLE {name} () INHERITS (base)",
                f"CREATE MATERIALIZED VIEW {name} AS SELECT {columns} FROM {table.name}",
                f"CREATE TABLE {name} (id int, CHECK (id < 5), UNIQUE (id))",
            )
        )

    def into_the_new_table(self) -> str:
        name = self.d.pick(_NEW_TABLES)
        return self.d.pick(
            (
                f"INSERT INTO {name} (id) VALUES ({self.d.below(15)})",
                f"SELECT * FROM {name}",
                f"INSERT INTO {name} SELECT id FROM acct",
                f"ALTER TABLE {name} ADD FOREIGN KEY (id) REFERENCES item",
            )
        )

    def view(self) -> str:
        table = self.table()
        replace = self.d.pick(("", "OR REPLACE "))
        name = self.d.pick(("v_mine", "v_acct", "v_tag"))
        return f"CREATE {replace}VIEW {name} AS SELECT id, {self.column(table)} AS k FROM {table.name}"

    # ------------------------------------------------------------------ types, upkeep, code

    def type(self) -> str:
        return self.d.pick(
            (
                "CREATE TYPE tone AS ENUM ('low', 'high')",
                "CREATE DOMAIN short AS text CHECK (length(value) < 6)",
                "CREATE DOMAIN short AS int CHECK (1 / value > 0)",
                "ALTER TYPE mood RENAME VALUE 'mute' TO 'dumb'",
                "ALTER TYPE mood ADD VALUE 'shrill'",
                "ALTER TYPE home ADD ATTRIBUTE zip int CASCADE",
                "ALTER TYPE home RENAME ATTRIBUTE no TO number",
                "ALTER TYPE home ALTER ATTRIBUTE no TYPE text CASCADE",
                "ALTER TABLE acct ALTER COLUMN name TYPE short",
                "ALTER TABLE tag ALTER COLUMN n TYPE short",
                "ALTER TABLE acct ALTER COLUMN mood TYPE int USING mood::int",
                "ALTER TABLE tag ADD COLUMN extra_column mood DEFAULT 'calm'",
                "ALTER TYPE mood RENAME TO humour",
                "DROP TYPE home CASCADE",
                "DROP CAST (mood AS int)",
            )
        )

    def upkeep(self) -> str:
        table = self.table()
        return self.d.pick(
            (
                f"ANALYZE {table.name}",
                f"ANALYZE VERBOSE {table.name}",
                f"COMMENT ON TABLE {table.name} IS 'x'",
                f"COMMENT ON COLUMN {table.name}.{self.column(table)} IS 'x'",
                f"CLUSTER {table.name} USING {table.name}_pkey",
                "CLUSTER acct USING acct_name_idx",
                f"REINDEX TABLE {table.name}",
                f"LOCK TABLE {table.name} IN SHARE MODE",
                f"CREATE STATISTICS s ON id, {self.column(table)} FROM {table.name}",
                "DROP VIEW v_tag",
                "DROP INDEX acct_name_idx",
                "TRUNCATE tag",
                f"GRANT SELECT ON {table.name} TO PUBLIC",
                "CREATE SEQUENCE numbers",
                "DROP TABLE tag",
            )
        )

    def code(self) -> str:
        return self.d.pick(
            (
                "CREATE FUNCTION more() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM acct'",
                "CREATE OPERATOR === (FUNCTION = int4eq, LEFTARG = int, RIGHTARG = int)",
                "CREATE CAST (int AS mood) WITH INOUT",
                "CREATE RULE more AS ON INSERT TO tag DO ALSO UPDATE grp SET ok = true",
                "CREATE TRIGGER more BEFORE INSERT ON tag FOR EACH ROW EXECUTE FUNCTION moves_out()",
                "DO 'BEGIN UPDATE grp SET ok = true; END'",
                "CREATE OR REPLACE FUNCTION mood_rank(mood) RETURNS int LANGUAGE sql AS 'SELECT 1'",
                "DROP OPERATOR <~> (int, int)",
            )
        )

    # ------------------------------------------------------------------ settings, and writes

    @spanned
    def set(self) -> str:
        name, values = self.d.pick(SETTINGS_TRIED)
        value = self.d.pick(values)
        quoted = value if value.startswith("'") else f"'{value}'"
        return self.d.pick(
            (
                f"SET {name} = {value}",
                f"SET LOCAL {name} = {value}",
                f"SELECT set_config('{name}', {quoted}, false)",
                f"RESET {name}",
                f"SET {name} TO DEFAULT",
                f"ALTER ROLE CURRENT_USER SET {name} = {value}",
                "RESET ALL",
                "DISCARD ALL",
                "DISCARD PLANS",
            )
        )

    @spanned
    def what_filters_read(self) -> str:
        tenant = self.d.pick(("2", "4", "1"))
        return self.d.pick(
            (
                f"UPDATE grp SET ok = true WHERE tenant = {tenant}",
                "INSERT INTO grp VALUES (4, true, 'four')",
                f"INSERT INTO grp VALUES ({tenant}, true, 'x') ON CONFLICT (tenant) DO UPDATE SET ok = true",
                f"INSERT INTO grp VALUES ({tenant}, true, 'x') ON CONFLICT DO NOTHING",
                "UPDATE grp SET tenant = 9 WHERE tenant = 1",
                f"DELETE FROM grp WHERE tenant = {tenant}",
                f"MERGE INTO grp USING (VALUES ({tenant})) v(k) ON grp.tenant = v.k WHEN MATCHED THEN UPDATE SET ok = true",
                f"WITH u AS (UPDATE grp SET ok = true WHERE tenant = {tenant} RETURNING tenant) SELECT * FROM u",
                "ALTER TABLE grp RENAME TO old_grp",
                "CREATE TABLE grp (tenant int, ok bool, title text)",
                "CREATE TEMP TABLE grp AS SELECT 2 AS tenant, true AS ok, 'x' AS title",
                "ALTER TABLE grp RENAME COLUMN ok TO good",
                "ALTER TABLE grp ADD COLUMN extra_column int",
                "CREATE VIEW grp2 AS SELECT * FROM grp",
                "TRUNCATE grp",
            )
        )

    @spanned
    def key(self) -> str:
        """A write that tells by a constraint, or by where a conflict is found."""
        table = self.d.pick(("acct", "item", "tag"))
        key = self.d.below(16)
        return self.d.pick(
            (
                f"INSERT INTO {table} (id) VALUES ({key}) ON CONFLICT DO NOTHING",
                f"INSERT INTO {table} (id, n) VALUES ({key}, 1) ON CONFLICT (id) DO UPDATE SET n = 2 RETURNING n",
                f"UPDATE {table} SET id = {key} WHERE id = 1",
                f"INSERT INTO tag (id, n) VALUES ({key + 100}, (SELECT n FROM tag WHERE id = 1))",
                f"UPDATE {table} SET n = n WHERE id = {key} RETURNING (SELECT count(*) FROM item WHERE item.id = {table}.id)",
            )
        )
