"""A listed function may change a setting that a filter follows: refused where its text says so, undone where it does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import guarddb
from guarddb import Catalog, PolicyProfile, evaluate
from guarddb.lint.profile import lint
from tests.fix_server import temporary_database

SCHEMA = """
CREATE TABLE docs (id int PRIMARY KEY, tenant int, day date DEFAULT '2024-01-01', role text, timezone text);
INSERT INTO docs (id, tenant) VALUES (1, 1), (2, 2);
CREATE TABLE noted (id int);
CREATE TYPE word AS (w text);
CREATE FUNCTION is_mine(int) RETURNS bool LANGUAGE sql STABLE AS
  $$ SELECT $1 = coalesce(nullif(current_setting('app.tenant', true), ''), '2')::int $$;
CREATE FUNCTION as_two() RETURNS text LANGUAGE sql AS $$ SELECT set_config('app.tenant', '2', false) $$;
CREATE FUNCTION as_two_here() RETURNS text LANGUAGE sql AS $$ SELECT pg_catalog . set_config ( 'App.Tenant'::text, '2', true) $$;
CREATE FUNCTION atomic() RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT set_config('app.tenant', '2', false); END;
CREATE FUNCTION by_command() RETURNS int LANGUAGE plpgsql AS $$ BEGIN SET app.tenant = '2'; RETURN 1; END $$;
CREATE FUNCTION by_local() RETURNS int LANGUAGE plpgsql AS $$ BEGIN SET /* so */ LOCAL app.tenant TO '2'; RETURN 1; END $$;
CREATE FUNCTION by_reset() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RESET app.tenant; RETURN 1; END $$;
CREATE FUNCTION all_reset() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RESET ALL; RETURN 1; END $$;
CREATE FUNCTION zone() RETURNS int LANGUAGE plpgsql AS $$ BEGIN SET TIME ZONE 'UTC+12'; RETURN 1; END $$;
CREATE FUNCTION path() RETURNS int LANGUAGE plpgsql AS $$ BEGIN SET search_path = pg_temp; RETURN 1; END $$;
CREATE FUNCTION other() RETURNS int LANGUAGE plpgsql AS $$ BEGIN SET ROLE NONE; RETURN 1; END $$;
CREATE FUNCTION dynamic() RETURNS int LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'SET app.tenant = ''2'''; RETURN 1; END $$;
CREATE FUNCTION within() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN as_two(); END $$;
CREATE FUNCTION named(text, text) RETURNS text LANGUAGE sql AS $$ SELECT set_config($1, $2, false) $$;
CREATE FUNCTION same(word, word) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN PERFORM as_two(); RETURN true; END $$;
CREATE OPERATOR === (FUNCTION = same, LEFTARG = word, RIGHTARG = word);
CREATE FUNCTION put_together() RETURNS int LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'S' || 'ET app.tenant = ''2'''; RETURN 1; END $$;
CREATE FUNCTION on_note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN SET app.tenant = '2'; RETURN new; END $$;
CREATE TRIGGER t BEFORE INSERT ON noted FOR EACH ROW EXECUTE FUNCTION on_note();
CREATE FUNCTION mine() RETURNS text LANGUAGE sql AS $$ SELECT set_config('app.mine', '2', false) $$;
CREATE FUNCTION update_role() RETURNS int LANGUAGE plpgsql AS
  $$ BEGIN UPDATE docs SET role = 'x', timezone = 'y' WHERE id < 0; RETURN 1; END $$;
CREATE FUNCTION reads() RETURNS text LANGUAGE sql STABLE AS $$ SELECT current_setting('app.tenant') $$;
CREATE TABLE moments (id int, at timestamptz);
INSERT INTO moments VALUES (1, '2024-01-01 12:00+00'), (2, '2023-12-31 20:00+00');
CREATE FUNCTION in_tokyo() RETURNS int LANGUAGE plpgsql AS
  $$ BEGIN EXECUTE 'S' || 'ET timezone = ''Asia/Tokyo'''; RETURN 1; END $$;
CREATE FUNCTION ends_in_tokyo(int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN SET timezone = 'Asia/Tokyo'; RETURN 1; END $$;
CREATE AGGREGATE adds_up(int) (sfunc = int4pl, stype = int, finalfunc = ends_in_tokyo);
CREATE FUNCTION by_the_view() RETURNS int LANGUAGE plpgsql AS
  $$ BEGIN UPDATE pg_settings SET setting = 'Asia/Tokyo' WHERE name = 'TimeZone'; RETURN 1; END $$;
CREATE FUNCTION reads_the_view() RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM pg_settings WHERE name = 'TimeZone' $$;
CREATE TABLE noted_late (id int);
CREATE FUNCTION on_late_note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM in_tokyo(); RETURN NULL; END $$;
CREATE TRIGGER t AFTER INSERT ON noted_late EXECUTE FUNCTION on_late_note();
CREATE TABLE above (id int PRIMARY KEY);
CREATE TABLE below (id int REFERENCES above ON DELETE CASCADE);
INSERT INTO above SELECT generate_series(1, 9);
INSERT INTO below SELECT id FROM above;
CREATE TRIGGER t AFTER DELETE ON below FOR EACH ROW EXECUTE FUNCTION on_late_note();
CREATE FUNCTION tax(int) RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT $1 * 2 $$;
CREATE FUNCTION scoped() RETURNS text LANGUAGE sql SET timezone = 'UTC' AS $$ SELECT 'x' $$;
"""
POLICY: dict[str, Any] = {
    "name": "listed",
    "access_mode": "read_write",
    "row_filters": [
        {"table": "docs", "predicate": "is_mine(tenant) AND day <= current_date"},
        {"table": "moments", "predicate": "at::date = '2024-01-01'"},
    ],
    "guarddb": {"function_allowlist": ["public.*"], "settings": {"app.tenant": "1"}},
}
REFUSED = (
    "as_two()", "as_two_here()", "atomic()", "by_command()", "by_local()", "by_reset()", "all_reset()", "zone()", "path()",
    "other()", "dynamic()", "within()", "by_the_view()", "named('app.tenant', '2')", "ROW('x')::word === ROW('x')::word",
)  # fmt: skip
RUN = ("put_together()", "mine()", "update_role()", "reads()", "tax(2)", "scoped()", "reads_the_view()")


@pytest.fixture(scope="module")
def listed(server_dsn: str) -> Iterator[str]:
    with temporary_database(server_dsn, "listed") as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(SCHEMA)
        yield dsn


@pytest.fixture(scope="module")
def catalog(listed: str) -> Catalog:
    with psycopg.connect(listed) as conn:
        return Catalog.from_connection(conn)


def connected(dsn: str, **options: Any) -> guarddb.Connection[Any]:
    return guarddb.connect(dsn, policy=POLICY, **options)


@pytest.mark.parametrize("call", REFUSED)
def test_a_function_that_sets_what_a_filter_follows_is_refused(catalog: Catalog, call: str) -> None:
    for sql in (
        f"SELECT {call}, id FROM docs",
        f"PREPARE p AS SELECT id FROM docs WHERE ({call}) IS NOT NULL",
    ):
        decision = evaluate(sql, POLICY, catalog)
        assert decision.rule == "protected_setting", sql


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("call", RUN)
def test_others_run_and_the_next_statement_sees_what_it_saw(listed: str, call: str, autocommit: bool) -> None:
    with connected(listed, autocommit=autocommit) as conn:
        conn.execute(f"SELECT {call}".encode())
        assert conn.execute("SELECT id FROM docs").fetchall() == [(1,)]
        conn.rollback()
        assert conn.execute("SELECT id FROM docs").fetchall() == [(1,)]


@pytest.mark.parametrize("autocommit", [True, False])
def test_so_it_is_after_a_trigger_and_in_a_pipeline(listed: str, autocommit: bool) -> None:
    with connected(listed, autocommit=autocommit) as conn:
        for sql in ("INSERT INTO noted VALUES (1)", "SELECT put_together()"):
            with conn.pipeline():
                conn.execute("SELECT 1")
                conn.execute(sql.encode())
                seen = conn.execute("SELECT id FROM docs")
            assert seen.fetchall() == [(1,)]
            conn.rollback()
            assert conn.execute("SELECT id FROM docs").fetchall() == [(1,)]
            conn.rollback()


#: They change the time zone where no text shows it.
TO_TOKYO = (
    "SELECT in_tokyo()",
    "SELECT adds_up(1)",
    "INSERT INTO noted_late VALUES (1)",
    "DELETE FROM above WHERE id = (SELECT min(id) FROM above)",
)


@pytest.mark.parametrize("way", ["one by one", "autocommit", "pipeline", "cursor"])
@pytest.mark.parametrize("sql", TO_TOKYO)
def test_a_setting_of_postgresqls_own_is_what_it_was_too(listed: str, sql: str, way: str) -> None:
    """Of the day in Tokyo the filter would show another row."""
    with connected(listed, autocommit=way == "autocommit") as conn:
        if way == "pipeline":
            with conn.pipeline():
                conn.execute(sql.encode())
                seen = conn.execute("SELECT id FROM moments")
            assert seen.fetchall() == [(1,)]
        elif way == "cursor":
            conn.execute("DECLARE c CURSOR FOR SELECT id FROM moments")
            conn.execute(sql.encode())
            assert conn.execute("FETCH ALL FROM c").fetchall() == [(1,)]
        else:
            conn.execute(sql.encode())
            assert conn.execute("SELECT id FROM moments").fetchall() == [(1,)]
        conn.rollback()
        assert conn.execute("SELECT id FROM moments").fetchall() == [(1,)]


def test_it_is_what_it_was_when_the_session_began(listed: str) -> None:
    with connected(make_conninfo(listed, options="-c timezone=Asia/Tokyo")) as conn:
        conn.execute("SELECT in_tokyo()")
        assert conn.execute("SELECT id FROM moments ORDER BY id").fetchall() == [(1,), (2,)]
        assert conn.execute("SHOW timezone").fetchone() == ("Asia/Tokyo",)


def test_check_names_functions_that_set(catalog: Catalog) -> None:
    said = {
        finding.message.split()[0 if finding.level == "warning" else 1]: finding.level
        for finding in lint(PolicyProfile.model_validate(POLICY), catalog)
        if finding.path.startswith("guarddb.function_allowlist")
    }
    for function in ("as_two", "atomic", "by_command", "zone", "within", "named", "mine"):
        assert said[f"public.{function}"] == "warning"
    assert said["public.put_together"] == "advice"
    assert not {"public.tax", "public.reads", "public.update_role", "public.scoped"} & said.keys()
