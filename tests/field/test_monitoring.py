"""What clients and health checks ask of the server runs under a policy that hides nothing, and is closed where it would tell."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

import guarddb
from tests.fix_server import temporary_database

OPEN: dict[str, Any] = {"name": "open"}
WRITER: dict[str, Any] = {"name": "writer", "access_mode": "read_write"}
MASKED: dict[str, Any] = {
    "name": "masked",
    "masking_rules": [{"table": "customers", "column": "ssn", "kind": "redact"}],
}
#: Every policy shows these.
ALWAYS = (
    "SELECT um.umid, um.srvname, um.usename FROM pg_catalog.pg_user_mappings AS um ORDER BY 2, 3",
    "SELECT umuser, umserver FROM pg_user_mapping",
    "SELECT name, vartype, enumvals FROM pg_show_all_settings() WHERE context IN ('user', 'superuser') AND vartype = 'bool'",
)
#: Only a policy that hides nothing shows these.
UNLESS_HIDDEN = (
    "SELECT count(*) FILTER (WHERE size > 0) >= 0 FROM pg_ls_waldir()",
    "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name ~ 'ready'",
    "SELECT count(*) >= 0 FROM pg_ls_tmpdir()",
    # (What PostgreSQL shows to superusers only it shows to whom it likes, but for secrets.)
    "SHOW data_directory",
    "SELECT current_setting('hba_file'), current_setting('log_directory')",
)
#: Lists that every policy shows; one that hides something, without what superusers alone are shown.
LISTS = (
    "SHOW ALL",
    "SELECT * FROM pg_settings",
    "SELECT s.name, pg_catalog.current_setting(s.name) FROM pg_catalog.pg_settings s WHERE s.source <> 'default'",
    "SELECT name, pg_catalog.current_setting(s.name) FROM pg_show_all_settings() s ORDER BY 1",
)
#: Secrets and samples come as NULL: what is asked, and the same with NULL written by hand.
AS_NULL = (
    (
        "SELECT srvname, umoptions FROM pg_user_mappings",
        "SELECT srvname, NULL::text[] AS umoptions FROM pg_user_mappings",
    ),
    (
        (
            "SELECT um.srvname AS \"Server\", CASE WHEN umoptions IS NULL THEN '' ELSE '(' || pg_catalog.array_to_string(ARRAY("
            "SELECT pg_catalog.quote_ident(option_name) FROM pg_catalog.pg_options_to_table(umoptions)), ', ') || ')' END AS o "
            "FROM pg_catalog.pg_user_mappings um ORDER BY 1"
        ),
        "SELECT srvname AS \"Server\", '' AS o FROM pg_user_mappings ORDER BY 1",
    ),
    (
        (
            "SELECT sub.oid, subname, split_part(subconninfo, ' ', 1) AS host, subconninfo FROM pg_catalog.pg_subscription sub "
            "JOIN pg_roles pga ON sub.subowner = pga.oid"
        ),
        "SELECT oid, subname, NULL::text AS host, NULL::text AS subconninfo FROM pg_subscription",
    ),
    (
        (
            "SELECT attname AS a, most_common_vals AS v, histogram_bounds, most_common_elems FROM pg_stats "
            "WHERE tablename = 'products' ORDER BY attname"
        ),
        (
            "SELECT attname AS a, NULL::text AS v, NULL::text AS histogram_bounds, NULL::text AS most_common_elems FROM pg_stats "
            "WHERE tablename = 'products' ORDER BY attname"
        ),
    ),
    (
        (
            "SELECT staattnum, CASE 1 WHEN stakind1 THEN stavalues1 WHEN stakind2 THEN stavalues2 END AS v FROM pg_statistic "
            "WHERE starelid = 'products'::regclass ORDER BY 1"
        ),
        "SELECT staattnum, NULL::text AS v FROM pg_statistic WHERE starelid = 'products'::regclass ORDER BY 1",
    ),
    (
        "SELECT q.attname FROM (SELECT attname, most_common_vals AS v FROM pg_stats WHERE tablename = 'orders') AS q ORDER BY 1",
        "SELECT attname FROM pg_stats WHERE tablename = 'orders' ORDER BY 1",
    ),
    (
        "COPY (SELECT umuser, umoptions FROM pg_user_mapping) TO STDOUT",
        "COPY (SELECT umuser, NULL::text FROM pg_user_mapping) TO STDOUT",
    ),
)
#: No policy shows these, but for an entry that names the relation.
NEVER = (
    "SELECT m FROM pg_user_mapping AS m",
    "SELECT * FROM pg_user_mappings",
    "SELECT umoptions FROM pg_user_mappings",
    "SELECT srvname FROM pg_user_mappings WHERE umoptions::text LIKE '%pass%'",
    "SELECT srvname, umoptions FROM pg_user_mappings ORDER BY 2",
    "SELECT srvname FROM pg_user_mappings ORDER BY umoptions",
    "SELECT umoptions, count(*) FROM pg_user_mapping GROUP BY 1",
    "SELECT DISTINCT srvname, umoptions FROM pg_user_mappings",
    "SELECT srvname, umoptions FROM pg_user_mappings UNION SELECT 'a', NULL",
    "SELECT u.c, u.f FROM pg_user_mappings AS u (a, b, c, d, e, f)",
    "SELECT attname FROM pg_stats ORDER BY most_common_vals::text",
    "SELECT attname, most_common_vals FROM pg_stats WHERE most_common_vals::text LIKE '%a%'",
    "SELECT attname FROM (SELECT attname, most_common_vals::text AS v FROM pg_stats) AS q WHERE v LIKE '%a%'",
    "SELECT rolname, rolpassword FROM pg_authid",
    "SHOW primary_conninfo",
    "SELECT current_setting('ssl_passphrase_command')",
)


#: Stands in what is secret here.
TOKEN = "TOP-SECRET"
_SECRETS = f"""
CREATE FOREIGN DATA WRAPPER far;
CREATE SERVER away FOREIGN DATA WRAPPER far;
CREATE USER MAPPING FOR CURRENT_USER SERVER away OPTIONS (password '{TOKEN}');
CREATE SUBSCRIPTION news CONNECTION 'host=nowhere password={TOKEN}' PUBLICATION p WITH (connect = false, slot_name = NONE);
UPDATE products SET description = '{TOKEN}' WHERE id > 1;
ANALYZE products, orders;
"""


@pytest.fixture(scope="module")
def monitored(server_dsn: str, shop_template: str) -> Iterator[str]:
    """A shop with secrets and samples in the server's own relations."""
    with temporary_database(server_dsn, "monitored", shop_template) as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            for statement in _SECRETS.split(";"):
                conn.execute(statement.encode())
        yield dsn
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("DROP SUBSCRIPTION news")


@pytest.mark.parametrize("policy", [OPEN, MASKED], ids=lambda policy: policy["name"])
@pytest.mark.parametrize("sql", ALWAYS + UNLESS_HIDDEN + NEVER)
def test_what_the_server_is_asked(monitored: str, policy: dict[str, Any], sql: str) -> None:
    with psycopg.connect(monitored) as plain, guarddb.connect(monitored, policy=policy) as conn:
        plain.execute("SET default_transaction_read_only = on")  # (as guarddb sets it: some of them show it)
        plain.commit()
        if sql in ALWAYS or (sql in UNLESS_HIDDEN and policy is OPEN):
            assert conn.execute(sql.encode()).fetchall() == plain.execute(sql.encode()).fetchall()
        else:
            with pytest.raises(guarddb.PolicyViolation):
                conn.execute(sql.encode())


@pytest.mark.parametrize("sql", LISTS)
def test_a_list_of_settings_is_whole_where_nothing_is_hidden(monitored: str, sql: str) -> None:
    with psycopg.connect(monitored) as plain, guarddb.connect(monitored, policy=OPEN) as conn:
        plain.execute("SET default_transaction_read_only = on")
        plain.commit()
        here = conn.execute(sql.encode()).fetchall()
        there = plain.execute(sql.encode()).fetchall()
        assert sorted(map(repr, here)) == sorted(map(repr, there))
    with guarddb.connect(monitored, policy=MASKED) as conn:
        assert 0 < len(conn.execute(sql.encode()).fetchall()) <= len(there)


@pytest.mark.parametrize("pair", AS_NULL, ids=lambda pair: pair[0][:40])
def test_a_secret_that_is_only_shown_comes_as_null(monitored: str, pair: tuple[str, str]) -> None:
    asked, meant = pair
    with psycopg.connect(monitored) as plain, guarddb.connect(monitored, policy=WRITER) as conn:
        if asked.startswith("COPY"):
            with conn.cursor().copy(asked.encode()) as copy, plain.cursor().copy(meant.encode()) as wanted:
                assert list(copy.rows()) == list(wanted.rows())
            return
        shown, wanted = conn.execute(asked.encode()), plain.execute(meant.encode())
        rows = shown.fetchall()
        assert rows == wanted.fetchall()
        assert rows
        assert TOKEN not in str(rows)
        assert [c.name for c in shown.description or ()] == [c.name for c in wanted.description or ()]
        assert "umoptions" not in asked or any("comes as NULL" in note for note in shown.decision.notes)


@pytest.mark.parametrize(
    "sql", ["SELECT * FROM pg_settings", "SHOW ALL", "SELECT current_setting(lower('PRIMARY_CONNINFO'))"]
)
def test_a_setting_with_a_password_is_in_no_list(server_dsn: str, sql: str) -> None:
    with (
        psycopg.connect(server_dsn, autocommit=True) as admin,
        guarddb.connect(server_dsn, policy=OPEN) as conn,
    ):
        assert "primary_conninfo" in str(conn.execute(sql.encode()).fetchall()) or "lower" in sql
        admin.execute(f"ALTER SYSTEM SET primary_conninfo = 'host=nowhere password={TOKEN}'".encode())
        try:
            admin.execute("SELECT pg_reload_conf()")
            while TOKEN not in str(admin.execute("SHOW primary_conninfo").fetchone()):
                pass
            conn.rollback()
            answer = ""
            with contextlib.suppress(psycopg.errors.UndefinedObject):
                answer = str(conn.execute(sql.encode()).fetchall())
            assert TOKEN not in answer
        finally:
            admin.execute("ALTER SYSTEM RESET primary_conninfo")
            admin.execute("SELECT pg_reload_conf()")
