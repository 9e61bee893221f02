"""Every field of the profile at work on a live connection: what it stops, and what is nearly the same and passes."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from typing import Any

import psycopg
import pytest

import guarddb
from guarddb.vocabulary import KINDS
from tests.conformance.conftest import Guard
from tests.fix_server import temporary_database

RW = {"access_mode": "read_write"}


def refused(conn: guarddb.Connection[Any], sql: str, rule: str) -> guarddb.PolicyViolation:
    """Assert that `sql` is refused by `rule`; the error."""
    with pytest.raises(guarddb.PolicyViolation) as caught:
        conn.execute(sql.encode())
    assert caught.value.rule == rule, caught.value
    return caught.value


def value(conn: psycopg.Connection[Any], sql: str) -> Any:
    """The one value that `sql` gives."""
    row = conn.execute(sql.encode()).fetchone()
    assert row is not None
    return row[0]


# ------------------------------------------------------------------ name


def test_name_is_the_only_field_a_profile_needs(shop: str) -> None:
    with guarddb.connect(shop, policy={"name": "the label"}, autocommit=True) as conn:
        assert conn.policy is not None
        assert conn.policy.name == "the label"
        error = refused(conn, "DELETE FROM settings WHERE key = 'a'", "read_only")
        assert str(error).startswith('blocked by policy "the label": ')
    for bad in ({}, {"name": ""}, {"name": "x" * 129}, {"name": 7}):
        with pytest.raises(guarddb.PolicyError, match="name"):
            guarddb.connect(shop, policy=bad)


# ------------------------------------------------------------------ access_mode


def test_read_only_is_the_default_and_has_a_second_wall(connect: Guard) -> None:
    conn = connect({})
    refused(conn, "INSERT INTO settings VALUES ('a', 'b')", "read_only")
    assert value(conn, "SHOW default_transaction_read_only") == "on"
    assert value(conn, "SHOW transaction_read_only") == "on"
    with conn.transaction():
        assert value(conn, "SHOW transaction_read_only") == "on"
    # What the guard did not see, the server refuses: here psycopg's own path around it.
    result = conn.pgconn.exec_(b"INSERT INTO settings VALUES ('a', 'b')")
    assert b"read-only transaction" in result.error_message
    with pytest.raises(psycopg.Error):
        conn.read_only = False


def test_read_write_writes(connect: Guard) -> None:
    conn = connect(RW)
    with conn.transaction(force_rollback=True):
        assert conn.execute("INSERT INTO settings VALUES ('a', 'b')").rowcount == 1
        assert value(conn, "SHOW transaction_read_only") == "off"


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO settings VALUES ('a', 'b')",
        "UPDATE settings SET value = 'x' WHERE key = 'theme'",
        "DELETE FROM settings WHERE key = 'theme'",
        "CREATE TABLE t (a int)",
        "COPY settings TO STDOUT",
    ],
)
def test_nothing_lifts_the_access_mode(connect: Guard, sql: str) -> None:
    """Neither an allow of every kind nor the lifted floor."""
    conn = connect(
        {
            "statement_rules": {"allow": list(KINDS)},
            "guarddb": {
                "floor_exceptions": ["destructive_ddl", "whereless_write"],
                "function_allowlist": ["*"],
            },
        }
    )
    refused(conn, sql, "read_only")


# ------------------------------------------------------------------ statement_rules

ONE_OF_EACH = {
    "select": "SELECT 1",
    "insert": "INSERT INTO settings VALUES ('a', 'b')",
    "update": "UPDATE settings SET value = 'x' WHERE key = 'theme'",
    "delete": "DELETE FROM settings WHERE key = 'theme'",
    "ddl": "CREATE TABLE t (a int)",
    "copy": "COPY settings TO STDOUT",
    "set": "SET LOCAL work_mem = '8MB'",
    "show": "SHOW timezone",
    "explain": "EXPLAIN SELECT 1",
    "transaction": "SAVEPOINT s",
    "other": "LOCK TABLE settings",
}


def test_there_is_a_statement_of_every_kind() -> None:
    assert tuple(ONE_OF_EACH) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_allow_admits_only_its_kinds(connect: Guard, kind: str) -> None:
    allow = [kind, "select"] if kind == "explain" else [kind]
    conn = connect({**RW, "statement_rules": {"allow": allow}})
    for other, sql in ONE_OF_EACH.items():
        with conn.transaction(force_rollback=True):
            if other in allow and other == "copy":
                with conn.cursor().copy(sql.encode()) as copy:
                    assert list(copy)
            elif other in allow:
                conn.execute(sql.encode())
            else:
                refused(conn, sql, "statement_not_allowed")


@pytest.mark.parametrize("kind", KINDS)
def test_deny_beats_allow(connect: Guard, kind: str) -> None:
    conn = connect({**RW, "statement_rules": {"allow": list(KINDS), "deny": [kind]}})
    for other, sql in ONE_OF_EACH.items():
        with conn.transaction(force_rollback=True):
            if other == kind or (kind, other) == ("select", "explain"):
                refused(conn, sql, "statement_denied")
            elif other == "copy":
                with conn.cursor().copy(sql.encode()) as copy:
                    assert list(copy)
            else:
                conn.execute(sql.encode())


def test_kinds_of_a_merge_are_all_three(connect: Guard) -> None:
    merge = (
        "MERGE INTO settings s USING (VALUES ('theme')) AS v (k) ON s.key = v.k "
        "WHEN MATCHED THEN UPDATE SET value = 'x' WHEN NOT MATCHED THEN INSERT VALUES (v.k, 'y')"
    )
    for kind in ("insert", "update", "delete"):
        refused(connect({**RW, "statement_rules": {"deny": [kind]}}), merge, "statement_denied")
    conn = connect({**RW, "statement_rules": {"allow": ["insert", "update", "delete"]}})
    with conn.transaction(force_rollback=True):
        assert conn.execute(merge.encode()).rowcount == 1


def test_read_only_opens_set_and_other_by_name_only(connect: Guard) -> None:
    conn = connect({})
    refused(conn, "SET work_mem = '8MB'", "read_only")
    refused(conn, "LISTEN channel", "statement_not_allowed")
    conn = connect({"statement_rules": {"allow": ["select", "set", "other"]}})
    conn.execute("SET work_mem = '8MB'")
    conn.execute("LISTEN channel")
    refused(conn, "SHOW work_mem", "statement_not_allowed")
    refused(connect(RW), "LISTEN channel", "statement_not_allowed")


# ------------------------------------------------------------------ table_allowlist, table_denylist


def test_bare_allowlist_entry_means_public_only(connect: Guard) -> None:
    conn = connect({"table_allowlist": ["orders"]})
    conn.execute("SELECT id, status FROM orders")
    conn.execute("SELECT id FROM public.orders")
    error = refused(conn, "SELECT id FROM hr.orders", "table_not_allowed")
    assert '"hr.orders" is not in this credential\'s allowlist; allowed tables: orders' in str(error)


def test_allowlist_of_a_schema(connect: Guard) -> None:
    conn = connect({"table_allowlist": ["hr.*"]})
    conn.execute("SELECT id FROM hr.orders")
    conn.execute("SELECT day FROM hr.leave_days")
    refused(conn, "SELECT id FROM orders", "table_not_allowed")


@pytest.mark.parametrize(
    ("entry", "admitted", "stopped"),
    [
        ('"Orders Détail"', '"Orders Détail"', '"orders détail"'),
        ("Orders", "orders", "customers"),
        ("ORDERS", "Orders", '"Orders Détail"'),
        ('"orders"', "orders", "customers"),
        ("public.orders", "orders", "hr.orders"),
        ('public."orders"', "orders", "hr.orders"),
        ("hr.orders", "hr.orders", "public.orders"),
    ],
)
def test_allowlist_is_matched_after_resolution(
    connect: Guard, entry: str, admitted: str, stopped: str
) -> None:
    conn = connect({"table_allowlist": [entry]})
    conn.execute(f"SELECT 1 FROM {admitted}".encode())
    refused(conn, f"SELECT 1 FROM {stopped}", "table_not_allowed")


def test_search_path_of_the_session_decides_what_a_bare_name_means(shop: str, connect: Guard) -> None:
    """`orders` is hr.orders for a session that looks there first, whatever the name alone would suggest."""
    conninfo = psycopg.conninfo.make_conninfo(shop, options="-c search_path=hr,public")
    conn = connect({"table_allowlist": ["orders"]}, conninfo=conninfo)
    refused(conn, "SELECT * FROM orders", "table_not_allowed")
    conn.execute("SELECT id FROM public.orders")
    conn = connect({"table_allowlist": ["hr.orders"]}, conninfo=conninfo)
    assert [column.name for column in conn.execute("SELECT * FROM orders").description or ()] == [
        "id",
        "employee_id",
        "item",
    ]


def test_denylist_beats_the_allowlist_and_means_every_schema(connect: Guard) -> None:
    conn = connect({"table_allowlist": ["orders", "hr.*", "customers"], "table_denylist": ["orders"]})
    refused(conn, "SELECT 1 FROM orders", "table_denied")
    refused(conn, "SELECT 1 FROM hr.orders", "table_denied")
    conn.execute("SELECT 1 FROM customers")
    conn.execute("SELECT 1 FROM hr.leave_days")
    conn = connect({"table_denylist": ["hr.orders"]})
    refused(conn, "SELECT 1 FROM hr.orders", "table_denied")
    conn.execute("SELECT 1 FROM public.orders")
    conn = connect({"table_denylist": ["hr.*"]})
    refused(conn, "SELECT 1 FROM hr.leave_days", "table_denied")
    conn.execute("SELECT 1 FROM orders")


def test_denied_base_table_stays_denied_behind_views_and_above_partitions(connect: Guard) -> None:
    conn = connect({"table_denylist": ["customers", "measurements_2024"]})
    for relation in ("customer_contacts", "order_totals", "big_orders", "measurements", "measurements_2024"):
        refused(conn, f"SELECT 1 FROM {relation}", "table_denied")
    for relation in ("order_names", "orders", "measurements_2025"):
        conn.execute(f"SELECT 1 FROM {relation}".encode())


def test_view_in_the_allowlist_is_enough_by_itself(connect: Guard) -> None:
    conn = connect({"table_allowlist": ["order_totals"]})
    conn.execute("SELECT total FROM order_totals")
    refused(conn, "SELECT total FROM orders", "table_not_allowed")


# ------------------------------------------------------------------ system catalogs


def test_catalogs_may_be_read_but_for_what_shows_secrets(connect: Guard) -> None:
    conn = connect({"table_allowlist": ["orders"]})
    conn.execute("SELECT relname FROM pg_class")
    conn.execute("SELECT table_name FROM information_schema.tables")
    refused(conn, "SELECT query FROM pg_stat_activity", "table_not_allowed")
    refused(conn, "SELECT * FROM pg_stats", "table_not_allowed")
    # `schema.*` and a bare name do not name it
    refused(connect({"table_allowlist": ["pg_catalog.*"]}), "SELECT * FROM pg_stats", "table_not_allowed")
    refused(connect({"table_allowlist": ["pg_stats"]}), "SELECT * FROM pg_stats", "table_not_allowed")
    conn = connect({"table_allowlist": ["pg_catalog.pg_stats"]})
    conn.execute("SELECT attname FROM pg_stats")
    refused(conn, "SELECT query FROM pg_stat_activity", "table_not_allowed")


def test_row_counters_are_closed_only_while_a_filter_is_in_force(connect: Guard) -> None:
    counters = (
        "SELECT reltuples FROM pg_class",
        "SELECT * FROM pg_class",
        "SELECT c.relpages FROM pg_catalog.pg_class AS c",
        "SELECT 1 FROM pg_class WHERE reltuples > 100",
        "SELECT n_live_tup FROM pg_stat_user_tables",
        "SELECT n_tup_ins FROM pg_stat_all_tables",
        "SELECT idx_tup_read FROM pg_stat_user_indexes",
        "SELECT heap_blks_read FROM pg_statio_user_tables",
    )
    filtered = connect({"row_filters": [{"table": "orders", "predicate": "tenant_id = 1"}]})
    plain = connect({})
    for sql in counters:
        refused(filtered, sql, "row_filter_unsafe")
        plain.execute(sql.encode())
    filtered.execute("SELECT oid, relname, relkind FROM pg_class")


# ------------------------------------------------------------------ row_filters

ONE = {"row_filters": [{"table": "orders", "predicate": "tenant_id = 1"}]}


def test_filter_hides_rows_of_its_table_only(connect: Guard, plain_shop: psycopg.Connection) -> None:
    conn = connect(ONE)
    assert value(conn, "SELECT count(*) FROM orders") == value(
        plain_shop, "SELECT count(*) FROM orders WHERE tenant_id = 1"
    )
    for untouched in ("hr.orders", "customers", "order_items"):
        sql = f"SELECT count(*) FROM {untouched}"
        assert value(conn, sql) == value(plain_shop, sql)
    decision = conn.execute("SELECT id FROM orders").decision
    assert (decision.verdict, decision.row_filter_predicate) == ("row-filter", "tenant_id = 1")
    assert conn.execute("SELECT id FROM customers").decision.verdict == "allow"


def test_several_filters_of_a_table_must_all_be_true(connect: Guard, plain_shop: psycopg.Connection) -> None:
    conn = connect(
        {
            "row_filters": [
                {"table": "orders", "predicate": "tenant_id = 1 OR tenant_id = 2"},
                {"table": "public.orders", "predicate": "total > 100 OR total < 50"},
            ]
        }
    )
    expected = (
        "SELECT count(*) FROM orders WHERE (tenant_id = 1 OR tenant_id = 2) AND (total > 100 OR total < 50)"
    )
    assert value(conn, "SELECT count(*) FROM orders") == value(plain_shop, expected)
    assert conn.execute("SELECT 1 FROM orders").decision.row_filter_predicate == (
        "(tenant_id = 1 OR tenant_id = 2) AND (total > 100 OR total < 50)"
    )


def test_null_of_a_predicate_hides_the_row(connect: Guard, plain_shop: psycopg.Connection) -> None:
    conn = connect({"row_filters": [{"table": "customers", "predicate": "score > 50"}]})
    shown = value(conn, "SELECT count(*) FROM customers")
    assert shown == value(plain_shop, "SELECT count(*) FROM customers WHERE score > 50")
    everything = value(
        conn, "SELECT count(*) FROM customers WHERE score > 50 OR NOT score > 50 OR score IS NULL"
    )
    assert everything == shown


def test_filter_reads_settings_of_the_caller_only(connect: Guard, plain_shop: psycopg.Connection) -> None:
    fields = {
        **RW,
        "row_filters": [
            {"table": "orders", "predicate": "tenant_id = current_setting('pgbeam.tenant')::int"}
        ],
    }
    counts = {}
    for tenant in ("1", "2", "4"):
        conn = connect(fields, settings={"pgbeam.tenant": tenant})
        counts[tenant] = value(conn, "SELECT count(*) FROM orders")
        assert value(conn, "SELECT DISTINCT tenant_id FROM orders") == int(tenant)
        refused(conn, "SET pgbeam.tenant = '3'", "protected_setting")
        refused(conn, "SELECT set_config('pgbeam.tenant', '3', true)", "protected_setting")
    assert counts == dict(
        plain_shop.execute(
            "SELECT tenant_id::text, count(*) FROM orders WHERE tenant_id <> 3 GROUP BY 1"
        ).fetchall()
    )
    # a value given to connect() wins over the profile's own
    conn = connect({**fields, "guarddb": {"settings": {"PgBeam.Tenant": 2}}})
    assert value(conn, "SELECT count(*) FROM orders") == counts["2"]
    conn = connect({**fields, "guarddb": {"settings": {"pgbeam.tenant": 2}}}, settings={"pgbeam.tenant": "4"})
    assert value(conn, "SELECT count(*) FROM orders") == counts["4"]
    error = refused(connect(fields), "SELECT count(*) FROM orders", "row_filter_unsafe")
    assert "pgbeam.tenant" in str(error)
    assert value(connect(fields), "SELECT count(*) FROM customers") == 120


def test_settings_value_is_a_value_and_no_sql(connect: Guard) -> None:
    fields = {
        "row_filters": [{"table": "orders", "predicate": "status::text = current_setting('app.status')"}]
    }
    for tricky in ("x' OR true --", "x\\", "x'; SELECT 1; --", "'", "$1", "%s", "$$", "Größe"):
        conn = connect(fields, settings={"app.status": tricky})
        assert value(conn, "SELECT count(*) FROM orders") == 0
        assert conn.execute("SELECT count(*) FROM orders WHERE id > %s", (0,)).fetchone() == (0,)


def test_bad_predicate_is_an_error_at_load(shop: str) -> None:
    for predicate in (
        "tenant_id =",
        "SELECT 1",
        "tenant_id = 1; DROP TABLE orders",
        "",
        "count(*) > 1",
        "a.b.c = 1",
    ):
        document = {"name": "x", "row_filters": [{"table": "orders", "predicate": predicate}]}
        with pytest.raises(guarddb.PolicyError) as caught:
            guarddb.connect(shop, policy=document)
        assert "row_filters[0].predicate" in str(caught.value)


# ------------------------------------------------------------------ masking_rules

TYPES = """
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN code AS text CHECK (value <> '');
CREATE DOMAIN small AS int CHECK (value < 100);
CREATE DOMAIN short AS varchar(10);
CREATE DOMAIN shorter AS short;
CREATE TABLE typed (
  id int PRIMARY KEY, a_text text, a_varchar varchar(20), a_char char(8), a_bpchar bpchar, a_name name, a_single "char",
  a_smallint smallint, an_int int, a_bigint bigint, a_numeric numeric, a_real real, a_double double precision,
  a_money money, a_bool bool, a_date date, a_time time, a_timetz timetz, a_timestamp timestamp,
  a_timestamptz timestamptz, an_interval interval, a_json json, a_jsonb jsonb, a_bytea bytea, a_uuid uuid,
  an_inet inet, a_cidr cidr, a_macaddr macaddr, a_bit bit(4), a_varbit varbit, a_point point, a_box box,
  a_range int4range, a_multirange int4multirange, a_tsvector tsvector, a_tsquery tsquery, an_oid oid,
  a_regclass regclass, an_lsn pg_lsn, a_jsonpath jsonpath, ints int[], texts text[], matrix numeric[][],
  bools bool[], dates date[], chars char(4)[], a_mood mood, moods mood[], a_pair pair, pairs pair[], a_code code,
  codes code[], a_small small, a_short short, a_shorter shorter
);
INSERT INTO typed VALUES (
  1, 'Größe ''quoted''', 'varying', 'pad', 'blank  ', 'a name', 'c', -7, 42, 9007199254740993, 1234567890.12345000,
  1.1, 0.1, '12.50', true, '2024-02-29', '12:34:56.789', '12:34:56+02', '2024-02-29 12:34:56.789',
  '2024-02-29 12:34:56.789+02', '1 year 2 mons 3 days 04:05:06', '{"a":  1}', '{"b": [1, 2.50, null], "a": "x"}',
  '\\xdeadbeef', '00112233-4455-6677-8899-aabbccddeeff', '192.168.1.1', '10.0.0.0/8', '08:00:2b:01:02:03', B'1010',
  B'101', '(1.5,2)', '((1,2),(3,4))', '[1,5)', '{[1,3),[5,7)}', 'a b:2', 'a & b', 123, 'pg_class', '16/B374D848',
  '$.a[*]', '{1,NULL,3}', '{"a b","c,d",NULL}', '{{1.0,2},{3,4}}', '{t,f}', '{2024-01-01}', '{ab,c}', 'happy',
  '{sad,happy}', '(1,"a b")', '{"(1,x)"}', 'ABC', '{A,B}', 5, 'short', 'shorter'
);
INSERT INTO typed (id) VALUES (2);
"""
#: What a redacted value of these types is; of every other type it is None.
CHARACTER = ("a_text", "a_varchar", "a_char", "a_bpchar", "a_name", "a_code", "a_short", "a_shorter")


@pytest.fixture(scope="module")
def typed_dsn(server_dsn: str) -> Iterator[str]:
    """A database with one table that has a column of every type, a row of values and a row of NULLs."""
    with temporary_database(server_dsn, "typed") as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(TYPES)
        yield dsn


@pytest.fixture(scope="module")
def rendered(typed_dsn: str) -> dict[str, bytes]:
    """Column -> PostgreSQL's text rendering of its value, as it came over the wire."""
    with psycopg.connect(typed_dsn) as conn:
        result = conn.execute("SELECT * FROM typed WHERE id = 1").pgresult
        assert result is not None
        columns = {result.fname(i).decode(): result.get_value(0, i) for i in range(1, result.nfields)}  # type: ignore[union-attr]
    assert len(columns) == 54
    assert all(columns.values())
    return columns  # type: ignore[return-value]


def masks(kind: str) -> list[dict[str, str]]:
    columns = [
        line.split()[0] for line in TYPES[TYPES.index("id int") :].split(");")[0].split(",") if line.strip()
    ]
    names = [name for name in columns if name not in ("id",) and not name[0].isdigit()]
    return [{"table": "typed", "column": name, "kind": kind} for name in names]


def shown(kind: str, rendered: dict[str, bytes], key: bytes | None = None) -> dict[str, str | None]:
    """What an agent is to see of the first row."""
    if kind == "null":
        return dict.fromkeys(rendered)
    if kind == "redact":
        return {name: "[redacted]" if name in CHARACTER else None for name in rendered}

    def digest(text: bytes) -> str:
        return hmac.new(key, text, "sha256").hexdigest() if key else hashlib.sha256(text).hexdigest()

    return {name: None if name == "a_bytea" else digest(text) for name, text in rendered.items()}


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest.mark.parametrize("how", ["SELECT * FROM typed ORDER BY id", "one by one"])
@pytest.mark.parametrize("kind", ["redact", "null", "hash", "keyed hash"])
def test_mask_of_every_type(
    typed_dsn: str,
    rendered: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    how: str,
    binary: bool,
) -> None:
    """NULL stays NULL, redact is text for character types only, hash is that of the text rendering, bytea is None."""
    key = b"a secret key" if kind == "keyed hash" else None
    monkeypatch.setenv("GUARDDB_TEST_KEY", "a secret key")
    policy: dict[str, Any] = {"name": f"types {kind}", "masking_rules": masks("hash" if key else kind)}
    if key:
        policy["guarddb"] = {"hash_key_env": "GUARDDB_TEST_KEY"}
    expected = shown("hash" if key else kind, rendered, key)
    with guarddb.connect(typed_dsn, policy=policy, autocommit=True) as conn:
        cursor = conn.cursor(binary=binary, row_factory=psycopg.rows.dict_row)
        if how != "one by one":
            first, second = cursor.execute(how.encode()).fetchall()
        else:
            first, second = {"id": 1}, {"id": 2}
            for name in rendered:
                both = cursor.execute(f"SELECT {name} FROM typed ORDER BY id".encode()).fetchall()
                first.update(both[0])
                second.update(both[1])
        assert first == {"id": 1, **expected}
        assert second == {"id": 2, **dict.fromkeys(rendered)}


@pytest.mark.parametrize("kind", ["redact", "null", "hash"])
def test_mask_in_copy_cursors_and_returning(typed_dsn: str, rendered: dict[str, bytes], kind: str) -> None:
    """Ways out that the row loaders of a driver do not see."""
    expected = {"id": "1", **shown(kind, rendered)}
    policy = {"name": f"out {kind}", **RW, "masking_rules": masks(kind)}
    with guarddb.connect(typed_dsn, policy=policy, autocommit=True) as conn:
        for sql in (
            "COPY typed TO STDOUT",
            "COPY (SELECT * FROM typed ORDER BY id) TO STDOUT",
            "COPY (TABLE typed) TO STDOUT",
        ):
            with conn.cursor().copy(sql.encode()) as copy:
                row, _ = copy.rows()
            assert row == tuple(expected.values()), sql
        result = conn.execute("SELECT * FROM typed WHERE id = 1").pgresult
        assert result is not None
        raw = [result.get_value(0, i) for i in range(result.nfields)]
        assert raw == [None if v is None else v.encode() for v in expected.values()]
        with conn.transaction(force_rollback=True):
            row = conn.execute("UPDATE typed SET id = 3 WHERE id = 1 RETURNING *").fetchone()
            assert row == (3, *list(expected.values())[1:])
            row = conn.execute(
                "INSERT INTO typed (id, a_text) VALUES (9, 'mine') RETURNING id, a_text"
            ).fetchone()
            mine = {"redact": "[redacted]", "null": None, "hash": hashlib.sha256(b"mine").hexdigest()}
            assert row == (9, mine[kind])
        with conn.transaction(), conn.cursor("named") as cursor:
            cursor.execute("SELECT * FROM typed ORDER BY id")
            assert cursor.fetchone() == (1, *list(expected.values())[1:])


def test_rendering_of_a_hash_follows_no_setting_of_the_agent(
    typed_dsn: str, rendered: dict[str, bytes]
) -> None:
    """The agent cannot set what the text of a hash follows; the hash covers what a plain session would print."""
    policy = {"name": "rendering", **RW, "masking_rules": masks("hash")}
    with (
        guarddb.connect(typed_dsn, policy=policy, autocommit=True) as conn,
        psycopg.connect(typed_dsn) as plain,
    ):
        for setting in (
            "SET TIME ZONE 'Asia/Tokyo'",
            "SET datestyle = 'German'",
            "SET intervalstyle = 'iso_8601'",
        ):
            with pytest.raises(guarddb.PolicyViolation) as refused:
                conn.execute(setting.encode())
            assert refused.value.rule == "protected_setting"
        sql = b"SELECT a_date, a_timestamptz, an_interval FROM typed WHERE id = 1"
        result = plain.execute(sql).pgresult
        assert result is not None
        values = [result.get_value(0, i) for i in range(3)]
        assert conn.execute(sql).fetchone() == tuple(hashlib.sha256(v or b"").hexdigest() for v in values)


def test_mask_is_keyed_on_the_source_column(connect: Guard) -> None:
    conn = connect({"masking_rules": [{"table": "customers", "column": "ssn", "kind": "redact"}]})
    for sql in (
        "SELECT ssn FROM customers WHERE id = 1",
        "SELECT ssn AS name FROM customers WHERE id = 1",
        "SELECT c.s FROM (SELECT ssn AS s, id FROM customers) AS c WHERE c.id = 1",
        "WITH c (i, s) AS (SELECT id, ssn FROM customers) SELECT s FROM c WHERE i = 1",
    ):
        assert value(conn, sql) == "[redacted]"
    # the same output name from another column is not masked
    assert value(conn, "SELECT name AS ssn FROM customers WHERE id = 1") == "Customer 001"
    assert value(conn, "SELECT 'x' AS ssn") == "x"


def test_mask_of_one_schema_leaves_the_other_alone(connect: Guard) -> None:
    conn = connect({"masking_rules": [{"table": "orders", "column": "id", "kind": "null"}]})
    assert value(conn, "SELECT id FROM hr.orders ORDER BY item LIMIT 1") is not None
    assert value(conn, "SELECT id FROM orders LIMIT 1") is None


def test_mask_reports_columns_and_kinds(connect: Guard) -> None:
    conn = connect(
        {
            "masking_rules": [
                {"table": "customers", "column": "ssn", "kind": "redact"},
                {"table": "customers", "column": "email", "kind": "hash"},
            ]
        }
    )
    both = [{"column": "ssn", "kind": "redact"}, {"column": "email", "kind": "hash"}]

    def columns(sql: str) -> list[dict[str, str]]:
        decision = conn.execute(sql.encode()).decision
        assert decision.verdict == "mask"
        return decision.to_dict()["masked_columns"]

    assert columns("SELECT name FROM customers") == both  # touched, not projected
    assert columns("SELECT ssn AS s FROM customers") == [*both, {"column": "s", "kind": "redact"}]
    whole = columns("SELECT c, (SELECT ssn FROM customers LIMIT 1) AS one FROM customers c")
    assert {"column": "c", "kind": "null"} in whole
    assert {"column": "one", "kind": "null"} in whole
    assert columns("SELECT count(*) FROM customer_contacts")
    assert conn.execute("SELECT name FROM employees").decision.verdict == "allow"


def test_strictest_mask_wins_where_sources_meet(connect: Guard) -> None:
    conn = connect(
        {
            "masking_rules": [
                {"table": "customers", "column": "name", "kind": "hash"},
                {"table": "employees", "column": "name", "kind": "redact"},
                {"table": "categories", "column": "name", "kind": "null"},
            ]
        }
    )
    hashed = hashlib.sha256(b"Customer 001").hexdigest()
    assert value(conn, "SELECT name FROM customers WHERE id = 1") == hashed
    for tables, expected in (
        (("customers", "employees"), "[redacted]"),
        (("employees", "customers"), "[redacted]"),
        (("customers", "categories"), None),
        (("categories", "employees", "customers"), None),
        (("customers", "products"), hashed),
    ):
        sql = " UNION ALL ".join(f"SELECT name FROM {table} WHERE id = 1" for table in tables)
        rows = conn.execute(sql.encode()).fetchall()
        if tables == ("customers", "products"):
            assert rows[0] == (hashed,)
            assert all(len(name) == 64 for (name,) in rows)
        else:
            assert rows == [(expected,)] * len(tables)


# ------------------------------------------------------------------ guarddb.mask_uses, guarddb.hash_key_env


def test_mask_uses_open_one_use_each(connect: Guard) -> None:
    rules = [{"table": "customers", "column": "email", "kind": "hash"}]
    statements = {
        "equality": "SELECT id FROM customers WHERE email = 'customer1@example.org'",
        "group": "SELECT email, count(*) FROM customers GROUP BY email",
        "join": "SELECT c.id FROM customers c JOIN customers d ON c.email = d.email",
    }
    never = (
        "SELECT id FROM customers WHERE email LIKE 'c%'",
        "SELECT id FROM customers WHERE email < 'd'",
        "SELECT id FROM customers ORDER BY email",
        "SELECT max(email) FROM customers",
    )
    for use in ("equality", "group", "join"):
        uses = {"mask_uses": [{"table": "customers", "column": "email", "allow": [use]}]}
        conn = connect({"masking_rules": rules, "guarddb": uses})
        for other, sql in statements.items():
            if other == use:
                conn.execute(sql.encode())
            else:
                refused(conn, sql, "masked_column_predicate")
        for sql in never:
            with pytest.raises(guarddb.PolicyViolation):
                conn.execute(sql.encode())
    assert [
        row[0]
        for row in connect(
            {
                "masking_rules": rules,
                "guarddb": {"mask_uses": [{"table": "customers", "column": "email", "allow": ["equality"]}]},
            }
        ).execute("SELECT id FROM customers WHERE email = 'customer1@example.org'")
    ] == [1]


@pytest.mark.parametrize(
    ("condition", "passes"),
    [
        ("email IN ('customer1@example.org', 'x')", True),
        ("email = ANY (ARRAY['customer1@example.org', 'x'])", True),
        ("email = ANY (ARRAY['customer1@example.org', NULL]::text[])", True),
        ("email = ANY ('{customer1@example.org}')", True),
        ("email = ANY (ARRAY['customer1@example.org'::text, $$x$$])", True),
        ("email = ANY (ARRAY[lower(name), 'x'])", False),
        ("email = ANY (ARRAY[name])", False),
        ("email = ANY (ARRAY(SELECT name FROM products))", False),
        ("email <> ALL (ARRAY['x'])", False),
        ("email <> ANY (ARRAY['x'])", False),
        ("email = ALL (ARRAY['customer1@example.org'])", False),
        ("'x' = ANY (ARRAY[email])", False),
    ],
)
def test_an_equality_is_with_values_that_the_text_gives(connect: Guard, condition: str, passes: bool) -> None:
    uses = {"mask_uses": [{"table": "customers", "column": "email", "allow": ["equality"]}]}
    rules = [{"table": "customers", "column": "email", "kind": "hash"}]
    conn = connect({"masking_rules": rules, "guarddb": uses})
    sql = f"SELECT id FROM customers WHERE {condition}"
    if passes:
        assert conn.execute(sql.encode()).fetchall() == [(1,)]
    else:
        with pytest.raises(guarddb.PolicyViolation):
            conn.execute(sql.encode())


def test_grouped_hash_keeps_its_groups_and_its_mask(connect: Guard, plain_shop: psycopg.Connection) -> None:
    uses = {"mask_uses": [{"table": "customers", "column": "city", "allow": ["group"]}]}
    conn = connect(
        {"masking_rules": [{"table": "customers", "column": "city", "kind": "hash"}], "guarddb": uses}
    )
    expected = {
        hashlib.sha256(city.encode()).hexdigest(): count
        for city, count in plain_shop.execute("SELECT city, count(*) FROM customers GROUP BY city")
    }
    assert dict(conn.execute("SELECT city, count(*) FROM customers GROUP BY city").fetchall()) == expected
    assert {row[0] for row in conn.execute("SELECT DISTINCT city FROM customers")} == expected.keys()
    refused(conn, "SELECT DISTINCT ON (city) id FROM customers ORDER BY city", "masked_column_predicate")


def test_keyed_hash_needs_its_key_and_keeps_it_out_of_the_sql(
    shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = {
        "name": "keyed",
        **RW,
        "masking_rules": [{"table": "customers", "column": "email", "kind": "hash"}],
        "guarddb": {"hash_key_env": "GUARDDB_TEST_KEY"},
    }
    monkeypatch.setenv("GUARDDB_TEST_KEY", "the key")
    with guarddb.connect(shop, policy=policy, autocommit=True) as conn:
        expected = hmac.new(b"the key", b"customer1@example.org", "sha256").hexdigest()
        cursor = conn.execute("SELECT email FROM customers WHERE id = 1")
        assert cursor.fetchone() == (expected,)
        assert "the key" not in cursor.decision.rewritten_sql
        nested = "SELECT e FROM (SELECT email AS e FROM customers WHERE id = 1) q UNION ALL SELECT NULL"
        assert conn.execute(nested.encode()).fetchall() == [(expected,), (None,)]
        refused(conn, "COPY (SELECT email FROM customers) TO STDOUT", "masked_column_expression")
        refused(conn, "COPY customers TO STDOUT", "masked_column_expression")
        with conn.cursor().copy("COPY (SELECT id FROM customers) TO STDOUT") as copy:
            assert list(copy)
    monkeypatch.delenv("GUARDDB_TEST_KEY")
    with pytest.raises(guarddb.PolicyUnavailable) as caught, guarddb.connect(shop, policy=policy) as conn:
        conn.execute("SELECT email FROM customers")
    assert caught.value.rule == "policy_unavailable"


# ------------------------------------------------------------------ budgets


def test_queries_per_hour(connect: Guard) -> None:
    conn = connect({"name": f"hour {id(connect)}", "budget_queries_per_hour": 3})
    for _ in range(3):
        conn.execute("SELECT 1")
    with pytest.raises(guarddb.BudgetExceeded) as caught:
        conn.execute("SELECT 1")
    error = caught.value
    assert (error.rule, error.sqlstate) == ("query_budget_hour", "53400")
    assert isinstance(error, psycopg.errors.ConfigurationLimitExceeded)
    assert datetime.now(UTC) < error.resets_at <= datetime.now(UTC) + timedelta(hours=1)
    assert error.resets_at.strftime("%Y-%m-%dT%H:%M") in str(error)
    # a refusal by the policy is told first, and costs nothing
    refused(conn, "DELETE FROM settings", "whereless_write")


def test_queries_per_day(connect: Guard) -> None:
    conn = connect(
        {"name": f"day {id(connect)}", "budget_queries_per_day": 2, "budget_queries_per_hour": 100}
    )
    before = datetime.now(UTC)
    conn.execute("SELECT 1")
    refused(conn, "SELECT pg_sleep(1)", "forbidden_function")
    conn.execute("SELECT 1")
    with pytest.raises(guarddb.BudgetExceeded) as caught:
        [conn.execute("SELECT 1") for _ in range(3)]  # (two more than it takes, for a run over midnight)
    assert caught.value.rule == "query_budget_day"
    resets_at = caught.value.resets_at
    assert before < resets_at <= datetime.now(UTC) + timedelta(days=1)
    assert resets_at.time() == time(0)


def test_egress_stops_where_the_budget_does(connect: Guard) -> None:
    """Bytes are counted as rows are handed out."""
    conn = connect({"name": f"egress {id(connect)}", "egress_bytes_per_day": 1000})
    cursor = conn.execute("SELECT repeat('x', 100) FROM generate_series(1, 100)")
    assert len(cursor.fetchmany(10)) == 10
    with pytest.raises(guarddb.BudgetExceeded) as caught:
        cursor.fetchone()
    assert caught.value.rule == "egress_budget"
    with pytest.raises(guarddb.BudgetExceeded):
        conn.execute("SELECT 'x'").fetchall()
    conn = connect({"name": f"egress of its own {id(connect)}", "egress_bytes_per_day": 10_000})
    assert len(conn.execute("SELECT repeat('x', 100) FROM generate_series(1, 100)").fetchall()) == 100


def test_zero_is_no_limit(connect: Guard) -> None:
    conn = connect(
        {
            "budget_queries_per_hour": 0,
            "budget_queries_per_day": 0,
            "egress_bytes_per_day": 0,
            "max_rows": 0,
            "statement_timeout_ms": 0,
        }
    )
    for _ in range(20):
        cursor = conn.execute("SELECT repeat('x', 100) FROM generate_series(1, 1000)")
        assert len(cursor.fetchall()) == 1000
        assert not cursor.truncated


# ------------------------------------------------------------------ max_rows


def test_max_rows_truncates_and_says_so(connect: Guard) -> None:
    conn = connect({"max_rows": 5})
    notices: list[str] = []
    conn.add_notice_handler(lambda diagnostic: notices.append(diagnostic.message_primary or ""))
    for count in (0, 4, 5):
        cursor = conn.execute(f"SELECT * FROM generate_series(1, {count})".encode())
        assert len(cursor.fetchall()) == cursor.rowcount == count
        assert not cursor.truncated
    assert notices == []
    cursor = conn.execute("SELECT * FROM generate_series(1, 6)")
    assert cursor.fetchall() == [(1,), (2,), (3,), (4,), (5,)]
    assert cursor.truncated
    assert cursor.rowcount == 5
    assert len(notices) == 1
    assert "5" in notices[0]


def test_server_is_asked_for_one_row_more_and_no_further(connect: Guard) -> None:
    conn = connect({"max_rows": 5})
    cursor = conn.execute("SELECT generate_series(1, 100000000)")  # would take half a minute
    assert len(cursor.fetchall()) == 5
    assert "6" in cursor.decision.rewritten_sql
    for sql, rows in (
        ("SELECT id FROM orders ORDER BY id LIMIT 3", 3),
        ("SELECT id FROM orders ORDER BY id LIMIT 50", 5),
        ("SELECT id FROM orders ORDER BY id LIMIT ALL", 5),
        ("SELECT id FROM orders ORDER BY id OFFSET 298", 2),
        ("SELECT id FROM orders ORDER BY id FETCH FIRST 2 ROWS ONLY", 2),
        ("SELECT id FROM orders ORDER BY id OFFSET 1 FETCH FIRST 50 ROWS ONLY", 5),
        ("SELECT quantity FROM order_items ORDER BY quantity FETCH FIRST 1 ROW WITH TIES", 5),
        ("SELECT id FROM orders UNION ALL SELECT id FROM orders ORDER BY id", 5),
        ("SELECT * FROM (SELECT id FROM orders ORDER BY id LIMIT 4) AS q LIMIT 50", 4),
        ("VALUES (1), (2), (3), (4), (5), (6), (7)", 5),
        ("TABLE orders", 5),
        ("WITH o AS (SELECT id FROM orders) SELECT * FROM o", 5),
        ("SELECT id FROM orders -- a comment at the end", 5),
        ("SELECT id FROM orders;", 5),
        ("SELECT unnest(ARRAY[1,2,3]) FROM orders", 5),
        ("SELECT count(*) FROM orders", 1),
        ("SHOW ALL", 5),
        ("EXPLAIN (ANALYZE, VERBOSE) SELECT 1 FROM orders a, orders b, orders c, orders d WHERE false", 5),
    ):
        assert len(conn.execute(sql.encode()).fetchall()) == rows, sql
    assert value(conn, "SELECT count(*) FROM orders") == 300
    cursor = conn.execute("SELECT id FROM orders WHERE id > %s LIMIT %s", (10, 40))
    assert len(cursor.fetchall()) == 5
    assert cursor.truncated


@pytest.mark.parametrize(
    "way", ["stream", "server", "declared", "copy", "binary", "iterate", "fetchmany", "pipeline", "returning"]
)
def test_max_rows_on_every_way_out(connect: Guard, way: str) -> None:
    conn = connect({**RW, "max_rows": 5})
    sql = "SELECT g FROM generate_series(1, 50) AS g"
    if way == "stream":
        rows = list(conn.cursor().stream(sql.encode()))
    elif way == "server":
        with conn.transaction(), conn.cursor("named") as cursor:
            cursor.execute(sql.encode())
            rows = cursor.fetchmany(3) + cursor.fetchall()
    elif way == "declared":
        with conn.transaction():
            conn.execute(f"DECLARE d CURSOR FOR {sql}".encode())
            rows = [r for _ in range(4) for r in conn.execute("FETCH 4 FROM d").fetchall()]
    elif way == "copy":
        with conn.cursor().copy(f"COPY ({sql}) TO STDOUT".encode()) as copy:
            rows = [(int(row[0]),) for row in copy.rows()]
    elif way == "pipeline":
        with conn.pipeline():
            rows = conn.execute(sql.encode()).fetchall()
    elif way == "returning":
        with conn.transaction(force_rollback=True):
            cursor = conn.execute("UPDATE orders SET comment = 'x' WHERE id <= 50 RETURNING 1")
            assert cursor.truncated
            assert value(conn, "SELECT count(*) FROM orders WHERE comment = 'x'") == 50
            rows = [(i,) for i, _ in enumerate(cursor.fetchall(), 1)]
    else:
        cursor = conn.cursor(binary=way == "binary")
        cursor.execute(sql.encode())
        rows = list(cursor) if way == "iterate" else cursor.fetchmany(100)
    assert rows == [(1,), (2,), (3,), (4,), (5,)]


def test_max_rows_leaves_subqueries_and_writes_alone(connect: Guard) -> None:
    conn = connect({**RW, "max_rows": 2})
    assert value(conn, "SELECT count(*) FROM (SELECT id FROM orders) AS q") == 300
    assert value(conn, "SELECT sum(x) FROM generate_series(1, 100) AS x") == 5050
    with conn.transaction(force_rollback=True):
        assert (
            conn.execute("INSERT INTO settings SELECT 'k' || g, 'v' FROM generate_series(1, 9) g").rowcount
            == 9
        )
        assert conn.execute("CREATE TABLE t AS SELECT g FROM generate_series(1, 9) g").rowcount == 9


# ------------------------------------------------------------------ statement_timeout_ms


def test_statement_timeout_is_set_and_the_agent_cannot_change_it(connect: Guard) -> None:
    conn = connect({**RW, "statement_timeout_ms": 400})
    assert value(conn, "SHOW statement_timeout") == "400ms"
    refused(conn, "SET statement_timeout = 0", "protected_setting")
    with pytest.raises(psycopg.errors.QueryCanceled) as caught:
        conn.execute("SELECT count(*) FROM generate_series(1, 10000) a, generate_series(1, 100000) b")
    assert caught.value.sqlstate == "57014"
    assert value(conn, "SELECT 1") == 1


def test_no_timeout_leaves_the_sessions_own(shop: str, connect: Guard) -> None:
    conninfo = psycopg.conninfo.make_conninfo(shop, options="-c statement_timeout=54321")
    assert value(connect({}, conninfo=conninfo), "SHOW statement_timeout") == "54321ms"
    assert (
        value(connect({"statement_timeout_ms": 43210}, conninfo=conninfo), "SHOW statement_timeout")
        == "43210ms"
    )


# ------------------------------------------------------------------ guarddb.function_allowlist, floor_exceptions


def test_function_allowlist(connect: Guard) -> None:
    refused(connect({}), "SELECT order_count(8)", "function_not_allowed")
    for entry in ("order_count", "ORDER_COUNT", "public.order_count", "public.*", "*", '"order_count"'):
        conn = connect({"guarddb": {"function_allowlist": [entry]}})
        assert value(conn, "SELECT order_count(8)") == 3
        refused(conn, "SELECT pg_sleep(0)", "forbidden_function")
    for entry in ("hr.order_count", "hr.*", "order_coun", '"Order_Count"', "pg_catalog.*"):
        conn = connect({"guarddb": {"function_allowlist": [entry]}})
        refused(conn, "SELECT order_count(8)", "function_not_allowed")


def test_sequences_need_an_entry_and_read_write(connect: Guard) -> None:
    sql = "SELECT nextval('orders_id_seq')"
    entry = {"guarddb": {"function_allowlist": ["pg_catalog.nextval"]}}
    refused(connect(RW), sql, "forbidden_function")
    refused(connect(entry), sql, "forbidden_function")
    conn = connect({**RW, **entry})
    assert value(conn, sql) > 0
    refused(conn, "SELECT setval('orders_id_seq', 1)", "forbidden_function")


LIFTED = [
    ("destructive_ddl", "TRUNCATE settings", "DELETE FROM settings", "whereless_write"),
    ("whereless_write", "DELETE FROM settings", "TRUNCATE settings", "destructive_ddl"),
    (
        "whereless_write",
        "UPDATE settings SET value = 'x' WHERE true",
        "SET search_path = hr",
        "search_path_change",
    ),
    ("search_path_change", "SET LOCAL search_path = public", "SET ROLE agent", "role_change"),
    ("role_change", "SET LOCAL ROLE agent", "SET row_security = off", "protected_setting"),
    ("protected_setting", "SET LOCAL statement_timeout = 700000", "DO $$ BEGIN END $$", "anonymous_code"),
    ("anonymous_code", "DO $$ BEGIN NULL; END $$", "SELECT pg_sleep(0)", "forbidden_function"),
    ("forbidden_function", "SELECT pg_sleep(0)", "SELECT order_count(1)", "function_not_allowed"),
    ("function_not_allowed", "SELECT order_count(1)", "SELECT pg_sleep(0)", "forbidden_function"),
]


@pytest.mark.parametrize(("rule", "passes", "stopped", "by"), LIFTED)
def test_floor_exception_lifts_its_rule_alone(
    connect: Guard, rule: str, passes: str, stopped: str, by: str
) -> None:
    every_kind = {"allow": list(KINDS)}  # DO is of kind other
    conn = connect({**RW, "statement_rules": every_kind, "guarddb": {"floor_exceptions": [rule]}})
    with conn.transaction(force_rollback=True):
        conn.execute(passes.encode())
        refused(conn, stopped, by)
    refused(connect(RW), passes, rule)


def test_floor_exceptions_are_rules_of_the_floor() -> None:
    for rule in ("table_denied", "read_only", "nothing", "masked_column_write"):
        with pytest.raises(guarddb.PolicyError, match="destructive_ddl"):
            guarddb.PolicyProfile.model_validate({"name": "x", "guarddb": {"floor_exceptions": [rule]}})
