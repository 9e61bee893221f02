"""What PostgreSQL shows to superusers only is in no list of settings while a policy restricts data, whoever the agent is."""

from __future__ import annotations

import psycopg
import pytest

import guarddb

POLICY = {"name": "writer", "access_mode": "read_write", "table_denylist": ["secrets"]}
LISTS = (
    "SHOW ALL",
    "show all;",
    "SELECT name, setting FROM pg_settings",
    "SELECT * FROM pg_catalog.pg_settings AS s (n, v) WHERE n LIKE '%dir%'",
    "SELECT s FROM pg_settings s",
    "TABLE pg_settings",
    "SELECT * FROM pg_show_all_settings()",
    "SELECT pg_show_all_settings.name, setting FROM pg_catalog . pg_show_all_settings ( /* all */ ) ORDER BY 1",
    "SELECT s, v, t.setting FROM pg_show_all_settings() AS t, LATERAL pg_show_all_settings() AS s (n, v) WHERE t.name = n",
    "EXPLAIN (COSTS off) SELECT setting FROM pg_show_all_settings() s WHERE context IN ('user', 'superuser')",
    "WITH s AS (SELECT * FROM pg_settings) SELECT setting FROM s JOIN pg_settings p USING (setting)",
    "COPY (SELECT setting FROM pg_settings) TO STDOUT",
    "SELECT current_setting(n, true) FROM unnest(ARRAY['data_directory', 'DATA_DIRECTORY', 'config_file']) AS n",
    "SELECT current_setting('data' || '_directory', true)",
    "SELECT pg_catalog.current_setting((SELECT 'data_directory'), true)",
    "SELECT current_setting(CASE WHEN true THEN 'config_file' END, true), current_setting(name, true) FROM pg_settings",
)


@pytest.fixture
def secrets(dsn: str) -> tuple[str, ...]:
    with psycopg.connect(dsn) as conn:
        found = conn.execute(
            "SELECT setting FROM pg_settings WHERE name IN ('data_directory', 'config_file', 'hba_file')"
        )
        return tuple(row[0] for row in found.fetchall())


@pytest.mark.parametrize("sql", LISTS)
def test_no_list_shows_where_the_server_keeps_its_files(dsn: str, secrets: tuple[str, ...], sql: str) -> None:
    assert len(secrets) == 3
    with guarddb.connect(dsn, policy=POLICY) as conn:
        if sql.startswith("COPY"):
            with conn.cursor().copy(sql) as copy:
                answer = str(list(copy.rows()))
        else:
            answer = str(conn.execute(sql.encode()).fetchall())
    assert not [secret for secret in secrets if secret in answer]


def test_a_parameter_names_no_such_setting(dsn: str, secrets: tuple[str, ...]) -> None:
    with guarddb.connect(dsn, policy=POLICY) as conn:
        ask = "SELECT current_setting(%s, true)"
        assert conn.execute(ask, ("Data_Directory",)).fetchone() == (None,)
        assert conn.execute(ask, ("work_mem",)).fetchone() == ("4MB",)
        with pytest.raises(guarddb.PolicyViolation):
            conn.execute("SELECT (pg_show_all_settings()).setting")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT (pg_show_all_settings()).*",
        "SELECT * FROM pg_show_all_settings() WITH ORDINALITY",
        "SELECT * FROM ROWS FROM (pg_show_all_settings(), generate_series(1, 3))",
        "SELECT * FROM pg_show_all_settings() AS s WHERE EXISTS (SELECT (pg_show_all_settings()).setting)",
    ],
)
def test_where_it_cannot_be_replaced_the_function_is_refused(dsn: str, sql: str) -> None:
    with guarddb.connect(dsn, policy=POLICY) as conn, pytest.raises(guarddb.PolicyViolation) as refused:
        conn.execute(sql.encode())
    assert refused.value.rule == "protected_setting"


def test_everything_else_is_there(dsn: str) -> None:
    with psycopg.connect(dsn) as plain, guarddb.connect(dsn, policy=POLICY) as conn:
        there = {row[0] for row in plain.execute("SHOW ALL").fetchall()}
        shown = conn.execute("SHOW ALL")
        assert [column.name for column in shown.description or ()] == ["name", "setting", "description"]
        names = {row[0] for row in shown.fetchall()}
        assert names <= there
        assert "work_mem" in names
        assert 10 < len(there - names) < 40
        counted = conn.execute("SELECT count(*) FROM pg_settings WHERE name = 'work_mem'").fetchone()
        assert counted == (1,)


def test_a_view_over_the_settings_is_refused_where_they_are_closed(fresh_dsn: str) -> None:
    with psycopg.connect(fresh_dsn, autocommit=True) as plain:
        plain.execute("CREATE VIEW v AS SELECT name, setting FROM pg_settings")
        plain.execute("CREATE VIEW above AS SELECT setting FROM v")
        plain.execute(
            "CREATE VIEW files AS SELECT setting, sourcefile FROM pg_settings WHERE name = 'hba_file'"
        )
    for profile, closed in ((POLICY, True), ({"name": "open", "max_rows": 1000}, False)):
        with guarddb.connect(fresh_dsn, policy=profile, autocommit=True) as conn:
            for sql in (
                "SELECT * FROM v",
                "SELECT count(*) FROM above WHERE setting LIKE '/%'",
                "TABLE files",
            ):
                if closed or sql != "TABLE files":  # (Of all settings, one could hold a password.)
                    with pytest.raises(guarddb.PolicyViolation, match="shows settings"):
                        conn.execute(sql)
                else:
                    assert conn.execute(sql).fetchall()
