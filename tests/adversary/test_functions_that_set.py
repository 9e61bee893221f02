"""A listed function may change a setting that a filter follows: refused where its text says so, undone where it does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

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
CREATE FUNCTION tax(int) RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT $1 * 2 $$;
CREATE FUNCTION scoped() RETURNS text LANGUAGE sql SET timezone = 'UTC' AS $$ SELECT 'x' $$;
"""
POLICY: dict[str, Any] = {
    "name": "listed",
    "access_mode": "read_write",
    "row_filters": [{"table": "docs", "predicate": "is_mine(tenant) AND day <= current_date"}],
    "guarddb": {"function_allowlist": ["public.*"], "settings": {"app.tenant": "1"}},
}
REFUSED = (
    "as_two()", "as_two_here()", "atomic()", "by_command()", "by_local()", "by_reset()", "all_reset()", "zone()", "path()",
    "other()", "dynamic()", "within()", "named('app.tenant', '2')", "ROW('x')::word === ROW('x')::word",
)  # fmt: skip
RUN = ("put_together()", "mine()", "update_role()", "reads()", "tax(2)", "scoped()")


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
