"""What is closed under every policy (secrets of the server, its settings' walls) is closed behind views that somebody made, too.

The policy hides no data, so nothing else would notice: the views are ordinary relations to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

import guarddb
from tests.fix_server import temporary_database

TOKEN = "TOP-SECRET"
SCHEMA = f"""
CREATE FOREIGN DATA WRAPPER far;
CREATE SERVER away FOREIGN DATA WRAPPER far;
CREATE USER MAPPING FOR CURRENT_USER SERVER away OPTIONS (password '{TOKEN}');
CREATE TABLE notes (id int PRIMARY KEY, note text);
INSERT INTO notes SELECT i, '{TOKEN}' FROM generate_series(1, 500) AS i;
ANALYZE notes;
CREATE TABLE pg_stat_statements (query text);
INSERT INTO pg_stat_statements VALUES ('{TOKEN}');
CREATE VIEW maps AS SELECT umuser, umoptions FROM pg_user_mapping;
CREATE VIEW again (a, b) AS SELECT umuser, upper(umoptions::text) FROM maps;
CREATE VIEW thrice AS SELECT x.b AS c FROM (SELECT * FROM again UNION ALL SELECT * FROM again) AS x;
CREATE VIEW mappings AS SELECT srvname, umoptions FROM pg_user_mappings;
CREATE VIEW options AS SELECT option_value FROM information_schema.user_mapping_options;
CREATE VIEW rows_of AS SELECT m AS w FROM pg_user_mapping AS m;
CREATE VIEW chosen AS SELECT umuser FROM pg_user_mapping WHERE umoptions::text LIKE '%TOP%';
CREATE VIEW sub AS SELECT id, (SELECT max(umoptions::text) FROM pg_user_mapping) AS o FROM notes;
CREATE VIEW lateral_one AS SELECT l.o FROM pg_user_mapping AS m, LATERAL (SELECT m.umoptions AS o) AS l;
CREATE VIEW roles_all AS SELECT rolname, rolpassword FROM pg_authid;
CREATE VIEW shadow AS WITH s AS (SELECT passwd FROM pg_shadow) SELECT * FROM s;
CREATE VIEW sampled AS SELECT attname, most_common_vals::text AS v FROM pg_stats WHERE tablename = 'notes';
CREATE VIEW activity AS SELECT pid, query FROM pg_stat_activity;
CREATE VIEW statements AS SELECT query FROM pg_stat_statements;
CREATE MATERIALIZED VIEW copied AS SELECT umuser, umoptions::text AS o FROM pg_user_mapping;
CREATE MATERIALIZED VIEW copied_roles AS SELECT rolname, rolpassword FROM pg_authid;
CREATE VIEW read_file AS SELECT pg_read_file('PG_VERSION') AS f;
CREATE VIEW ran AS SELECT query_to_xml('SELECT umoptions FROM pg_user_mapping', true, true, '')::text AS x;
CREATE VIEW everybodys AS SELECT query FROM pg_stat_get_activity(NULL);
CREATE FUNCTION options_of() RETURNS text LANGUAGE sql STABLE SECURITY DEFINER AS
  'SELECT string_agg(umoptions::text, '','') FROM pg_user_mapping';
CREATE FUNCTION above_it() RETURNS text LANGUAGE sql STABLE AS 'SELECT options_of()';
CREATE FUNCTION sessions() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM pg_stat_activity';
CREATE VIEW called AS SELECT above_it() AS o;
CREATE VIEW all_settings AS SELECT name, setting FROM pg_settings;
CREATE VIEW listed AS SELECT s.setting FROM pg_show_all_settings() AS s;
CREATE VIEW conninfo AS SELECT current_setting('Primary_Conninfo', true) AS c;
CREATE VIEW any_setting AS SELECT current_setting(note, true) AS c FROM notes;
CREATE VIEW sets_it AS SELECT set_config('search_path', 'pg_temp', false) AS s;
DO $$ BEGIN
  FOR i IN 1..40 LOOP
    EXECUTE format('CREATE VIEW deep%s AS SELECT * FROM %s', i, CASE i WHEN 1 THEN 'mappings' ELSE 'deep' || i - 1 END);
  END LOOP;
END $$;

CREATE VIEW classes AS SELECT oid, relname, reltuples FROM pg_class;
CREATE VIEW counted AS SELECT relname, n_live_tup FROM pg_stat_user_tables WHERE relname = 'notes';
CREATE VIEW role_names AS SELECT rolname FROM pg_roles;
CREATE VIEW servers AS SELECT srvname FROM pg_user_mappings;
CREATE VIEW of_app AS SELECT current_setting('app.tenant', true) AS a, current_setting('app.' || 'x', true) AS b;
CREATE VIEW some_settings AS SELECT name, setting FROM pg_settings WHERE name IN ('work_mem', 'block_size') AND setting <> '';
CREATE VIEW one_setting AS SELECT (SELECT setting::int FROM pg_settings WHERE name = 'block_size') AS b;
CREATE VIEW sampled_notes AS SELECT count(*) >= 0 AS n FROM notes TABLESAMPLE bernoulli (50);
CREATE VIEW how_many AS SELECT sessions() > 0 AS n;
CREATE VIEW plain AS SELECT id, length(note) AS l FROM notes WHERE id = 1;
"""
#: Of each of them `SELECT *` would show what is closed.
CLOSED = (
    *(
        "maps",
        "again",
        "thrice",
        "mappings",
        "options",
        "rows_of",
        "sub",
        "lateral_one",
        "roles_all",
        "shadow",
    ),
    *(
        "sampled",
        "activity",
        "statements",
        "copied",
        "copied_roles",
        "read_file",
        "ran",
        "everybodys",
        "called",
    ),
    *("all_settings", "listed", "conninfo", "any_setting", "sets_it", "deep1", "deep40", "chosen"),
)
#: Every way to read one that leaves out no column.
WAYS = (
    "SELECT * FROM {v}",
    "TABLE {v}",
    "SELECT v FROM {v} AS v",
    "SELECT to_jsonb(v) FROM {v} AS v",
    "SELECT v::text FROM {v} AS v",
    "SELECT q.* FROM (SELECT v.* FROM {v} AS v) AS q",
    "WITH w AS MATERIALIZED (SELECT * FROM {v}) SELECT * FROM w",
    "SELECT (SELECT to_json(v) FROM {v} AS v LIMIT 1)",
    "EXPLAIN ANALYZE SELECT * FROM {v}",
    "COPY (SELECT * FROM {v}) TO STDOUT",
    "DECLARE c CURSOR FOR SELECT * FROM {v}",
    "PREPARE p AS SELECT * FROM {v}",
    "CREATE TABLE taken AS SELECT * FROM {v}",
    "CREATE VIEW above AS SELECT * FROM {v}",
    "INSERT INTO notes SELECT 1000, v::text FROM {v} AS v",
    "UPDATE notes SET note = (SELECT max(v::text) FROM {v} AS v) WHERE id = 1 RETURNING note",
)
REFUSED = (
    "SELECT umoptions FROM maps",
    "SELECT umuser FROM maps WHERE umoptions::text LIKE '%a%'",
    "SELECT umuser FROM maps ORDER BY umoptions",
    "SELECT (m).umoptions FROM maps AS m",
    "SELECT y FROM maps AS m (x, y)",
    "SELECT (w).umoptions FROM rows_of",
    "SELECT count(*) FROM chosen",
    "SELECT rolname FROM roles_all",
    "COPY copied TO STDOUT",
    "COPY copied (o) TO STDOUT",
    # They compute with every row, and an error shows what they met.
    "CREATE INDEX ON copied ((o::int))",
    "CREATE INDEX ON copied (umuser) WHERE o::int > 0",
    "CREATE UNIQUE INDEX ON copied (o)",
    "CREATE STATISTICS s ON (o::int), umuser FROM copied",
    "CREATE INDEX ON copied_roles (rolname)",
    # PostgreSQL passes the write on: to a setting, to its own tables.
    "UPDATE all_settings SET setting = 'pg_temp' WHERE name = 'search_path'",
    "UPDATE some_settings SET setting = '64kB' WHERE name = 'work_mem'",
    "UPDATE classes SET relname = 'x' WHERE relname = 'notes'",
    "DELETE FROM classes WHERE relname = 'notes'",
    "INSERT INTO classes (relname) VALUES ('x')",
    "MERGE INTO classes USING notes ON false WHEN NOT MATCHED THEN INSERT (relname) VALUES ('x')",
)
OPEN = (
    "SELECT umuser FROM maps",
    "SELECT count(*) FROM maps",
    "SELECT a FROM again",
    "SELECT srvname FROM mappings",
    "SELECT count(pid) > 0 FROM activity",
    "SELECT attname FROM sampled",
    "SELECT relname, reltuples FROM classes WHERE relname = 'notes'",
    "SELECT * FROM counted",
    "SELECT count(*) > 0 FROM role_names",
    "SELECT * FROM servers",
    "SELECT * FROM of_app",
    "SELECT * FROM some_settings ORDER BY name",
    "SELECT * FROM one_setting",
    "SELECT * FROM sampled_notes",
    "SELECT * FROM how_many",
    "SELECT * FROM plain",
    "EXPLAIN (COSTS OFF) SELECT * FROM plain",
    "COPY copied (umuser) TO STDOUT",
    "CREATE INDEX ON copied (umuser)",
    "COMMENT ON VIEW maps IS 'who is where'",
    "ALTER VIEW maps RENAME TO mapped",
    "SELECT has_table_privilege('roles_all', 'SELECT')",
)
POLICIES: tuple[dict[str, Any], ...] = (
    {"name": "hides nothing", "access_mode": "read_write"},
    {
        "name": "masks",
        "access_mode": "read_write",
        "masking_rules": [{"table": "notes", "column": "id", "kind": "null"}],
    },
    {"name": "lists", "access_mode": "read_write", "table_allowlist": ["public.*"]},
)


@pytest.fixture(scope="module")
def database(server_dsn: str) -> Iterator[str]:
    with temporary_database(server_dsn, "behind") as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(SCHEMA.encode())
        yield dsn


def answer(conn: psycopg.Connection[Any], sql: str) -> str:
    """What comes back; all of it is undone."""
    try:
        with conn.transaction(force_rollback=True):
            if sql.startswith("COPY"):
                with conn.cursor().copy(sql.encode()) as copy:
                    return str(b"".join(map(bytes, copy)))
            cur = conn.execute(sql.encode())
            return str(cur.fetchall()) if cur.description else str(cur.statusmessage)
    except guarddb.PolicyViolation as ex:
        return f"refused: {ex.decision.rule}"


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy["name"])
def test_no_view_shows_what_is_closed_under_every_policy(database: str, policy: dict[str, Any]) -> None:
    with guarddb.connect(database, policy=policy, autocommit=True) as conn:
        ways = (way.format(v=view) for n, view in enumerate(CLOSED) for way in WAYS[n % 4 :: 4])
        for sql in (*ways, *REFUSED):
            assert answer(conn, sql).startswith("refused"), sql
        assert "public" in answer(conn, "SHOW search_path")


def test_what_shows_none_of_it_passes(database: str) -> None:
    with (
        psycopg.connect(database, autocommit=True) as plain,
        guarddb.connect(database, policy=POLICIES[0], autocommit=True) as conn,
    ):
        for sql in OPEN:
            assert answer(conn, sql) == answer(plain, sql), sql


def test_an_entry_for_what_is_behind_opens_the_view(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        catalog = guarddb.Catalog.from_connection(conn)
    by_view, by_what_it_reads = (
        {"table_allowlist": ["public.notes", "public.maps", "public.roles_all", *more]}
        for more in ((), ("pg_catalog.pg_user_mapping", "pg_catalog.pg_authid"))
    )
    for sql in ("SELECT umoptions FROM maps", "SELECT * FROM roles_all"):
        refused = guarddb.evaluate(sql, by_view, catalog)
        assert refused.rule == "table_not_allowed"
        assert "pg_catalog.pg_" in (refused.reason or "")
        assert "roles_all" not in (guarddb.evaluate("SELECT * FROM role", by_view, catalog).hint or "")
        assert guarddb.evaluate(sql, by_what_it_reads, catalog).rule == "ok"


def test_a_profile_that_forbids_nothing_leaves_them_to_the_server(database: str) -> None:
    everything: dict[str, Any] = {
        "name": "everything",
        "access_mode": "read_write",
        "statement_rules": {"allow": list(guarddb.vocabulary.KINDS)},
        "guarddb": {"floor_exceptions": list(guarddb.vocabulary.FLOOR_RULES)},
    }
    with guarddb.connect(database, policy=everything, autocommit=True) as conn:
        assert TOKEN in answer(conn, "SELECT * FROM maps")


def test_a_view_that_nobody_understands_is_not_read(database: str) -> None:
    """Of a newer PostgreSQL, for instance."""
    with psycopg.connect(database, autocommit=True) as conn:
        catalog = guarddb.Catalog.from_connection(conn)
    relations = {
        oid: replace(each, definition="SELECT GRAPH_TABLE OF notes") if each.name == "plain" else each
        for oid, each in catalog.relations.items()
    }
    newer = replace(catalog, relations=relations, version="another")
    for policy in POLICIES:
        assert guarddb.evaluate("SELECT id FROM plain", policy, newer).rule == "statement_not_allowed"
        assert guarddb.evaluate("COMMENT ON VIEW plain IS ''", policy, newer).rule == "ok"
