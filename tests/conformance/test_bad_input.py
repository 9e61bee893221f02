"""What no client should send, and faults of our own: a refusal or a psycopg error each time, and the session lives on."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus

import guarddb
from guarddb.sql.rewriting.rewriter import Rewriter
from tests.conformance.cases import FILTERS, MASKS, PROFILES
from tests.conformance.conftest import Guard, attempt

FULL = {
    "name": "full",
    "access_mode": "read_write",
    "masking_rules": MASKS,
    "row_filters": FILTERS,
    "max_rows": 1000,
}

# ------------------------------------------------------------------ connecting


@pytest.mark.parametrize(
    ("conninfo", "error"),
    [
        ("this is no conninfo", psycopg.ProgrammingError),
        ("host=", psycopg.OperationalError),
        ("postgresql://[", psycopg.ProgrammingError),
        ("nonsense=1", psycopg.ProgrammingError),
        ("host=/nonexistent connect_timeout=1", psycopg.OperationalError),
        ("host=127.0.0.1 port=1 connect_timeout=1", psycopg.OperationalError),
        ("port=abc", psycopg.Error),
    ],
)
def test_bad_conninfo_is_psycopgs_own_error(
    monkeypatch: pytest.MonkeyPatch, conninfo: str, error: type[Exception]
) -> None:
    monkeypatch.setenv("PGHOST", "/nonexistent")
    with pytest.raises(error) as guarded:
        guarddb.connect(conninfo, policy={"name": "x"})
    with pytest.raises(error) as plain:
        psycopg.connect(conninfo)
    assert type(guarded.value) is type(plain.value)
    assert str(guarded.value) == str(plain.value)


def test_unknown_database_and_role(shop: str) -> None:
    for changes in ({"dbname": "no_such_database"}, {"user": "no_such_role"}):
        with pytest.raises(psycopg.OperationalError):
            guarddb.connect(make_conninfo(shop, **changes), policy={"name": "x"})


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"name": "x", "acces_mode": "read_only"},
        {"name": "x", "access_mode": "write_only"},
        {"name": "x", "max_rows": -1},
        {"name": "x", "max_rows": "10"},
        {"name": "x", "table_allowlist": ["a.b.c"]},
        {"name": "x", "table_denylist": ["a b"]},
        {"name": "x", "masking_rules": [{"table": "t", "column": "c"}]},
        {"name": "x", "masking_rules": [{"table": "t", "column": "c", "kind": "blur"}]},
        {"name": "x", "masking_rules": [{"table": "t", "column": "a.b", "kind": "null"}]},
        {"name": "x", "row_filters": [{"table": "t", "predicate": "a = $1"}]},
        {"name": "x", "guarddb": {"settings": {"statement_timeout": "0"}}},
        {"name": "x", "guarddb": {"hash_key": "k"}},
        [],
        7,
        b"name: x",
        "no/such/file.yaml",
        "",
    ],
)
def test_bad_policy_is_a_policy_error_before_anything_is_connected(
    monkeypatch: pytest.MonkeyPatch, policy: Any
) -> None:
    """It names the place in the document; the server of this conninfo does not even exist."""
    monkeypatch.delenv("GUARDDB_POLICY", raising=False)
    with pytest.raises(guarddb.PolicyError) as caught:
        guarddb.connect("host=/nonexistent", policy=policy)
    assert str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_no_policy_at_all_refuses_to_connect(monkeypatch: pytest.MonkeyPatch, shop: str) -> None:
    monkeypatch.delenv("GUARDDB_POLICY", raising=False)
    with pytest.raises(guarddb.PolicyError, match="GUARDDB_POLICY"):
        guarddb.connect(shop)


def test_policy_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shop: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("name: from the environment\n")
    monkeypatch.setenv("GUARDDB_POLICY", str(path))
    with guarddb.connect(shop) as conn, pytest.raises(guarddb.PolicyViolation, match="from the environment"):
        conn.execute("DELETE FROM settings WHERE key = 'a'")
    path.write_text("nam: x")
    with pytest.raises(guarddb.PolicyError, match="nam"):
        guarddb.connect(shop)


# ------------------------------------------------------------------ texts

BAD_TEXTS: list[str | bytes] = [
    "SELECT '\0'",
    "\0",
    "SELECT 1\0; DROP TABLE settings",
    b"SELECT 1\0; DROP TABLE settings",
    b"SELECT '\xff'",
    b"\xff\xfe",
    b"SELECT '\xc3'",
    b"SELECT '\xed\xa0\x80'",
    b"SELECT '\xc0\xa7; DELETE FROM settings; --'",
    "SELECT '\ud800'",
    "SELECT 1 WHERE \udcff",
    "SELECT '" + "x" * 100_000 + "'",
    "SELECT 1" + " " * 100_000,
    "-- " + "x" * 100_000,
    "\ufeffSELECT 1",
    "SELECT 1\u037e SELECT 2",
]


@pytest.mark.parametrize("text", BAD_TEXTS, ids=lambda text: ascii(text)[:40])
def test_bad_text_is_refused_and_its_transaction_lives(connect: Guard, text: str | bytes) -> None:
    conn = connect({"access_mode": "read_write"}, autocommit=False)
    conn.execute("INSERT INTO settings VALUES ('bad input', 'x')")
    with pytest.raises((guarddb.PolicyViolation, psycopg.DataError, UnicodeEncodeError)) as caught:
        conn.execute(text)
    if isinstance(caught.value, guarddb.PolicyViolation):
        assert caught.value.rule == "parse_error"
    assert conn.info.transaction_status == TransactionStatus.INTRANS
    assert conn.execute("SELECT value FROM settings WHERE key = 'bad input'").fetchone() == ("x",)
    conn.rollback()


@pytest.mark.parametrize(
    "text", [text for text in BAD_TEXTS if isinstance(text, str)], ids=lambda text: ascii(text)[:40]
)
def test_bad_text_is_refused_dry(text: str) -> None:
    assert guarddb.evaluate(text, {"name": "x"}).rule == "parse_error"


def test_longest_text_that_may_be_sent(connect: Guard) -> None:
    conn = connect({})
    text = "SELECT 1 --" + "ä" * (100_000 - len("SELECT 1 --"))
    assert conn.execute(text.encode()).fetchone() == (1,)
    assert attempt(conn, text + "x").rule == "parse_error"


@pytest.mark.parametrize("encoding", ["SJIS", "GBK", "BIG5", "GB18030", "UHC", "JOHAB"])
def test_encodings_that_hide_a_backslash_are_refused(shop: str, encoding: str) -> None:
    """In these the second byte of a character may be a backslash, and who reads what depends on a setting."""
    conninfo = make_conninfo(shop, client_encoding=encoding)
    with guarddb.connect(conninfo, policy=FULL, autocommit=True) as conn:
        with pytest.raises(guarddb.PolicyViolation) as refused:
            conn.execute("SELECT 1")
        assert "encoding" in str(refused.value)
        assert "client_encoding=UTF8" in (refused.value.hint or "")


@pytest.mark.parametrize("encoding", ["LATIN1", "EUC_JP", "WIN1252"])
def test_other_client_encodings_are_judged_as_the_server_reads_them(shop: str, encoding: str) -> None:
    conninfo = make_conninfo(shop, client_encoding=encoding)
    texts = {"LATIN1": "é", "WIN1252": "é€"}.get(encoding, "表能")
    with guarddb.connect(conninfo, policy=FULL, autocommit=True) as conn:
        codec = conn.info.encoding
        try:
            raw = f"SELECT '{texts}' AS \"{texts}\", count(*) FROM orders -- {texts}".encode(codec)
        except UnicodeEncodeError:
            raw = f"SELECT '{texts[0]}' AS \"{texts[0]}\", count(*) FROM orders -- {texts[0]}".encode(codec)
        cursor = conn.execute(raw)
        assert cursor.fetchone()[1] == 75
        assert cursor.description[0].name in (texts, texts[0])
        for refused in ("SELECT '{}' WHERE pg_sleep(0) IS NULL", "SELECT '{}'; DELETE FROM orders"):
            with pytest.raises(guarddb.PolicyViolation):
                conn.execute(refused.format(texts[0]).encode(codec))


CHANGES = ["SET client_encoding = 'SJIS'", "SET NAMES 'SJIS'", "SET LOCAL client_encoding TO sjis"]


@pytest.mark.parametrize(
    "change", [*CHANGES, "SET standard_conforming_strings = off", "SET backslash_quote = on"]
)
def test_agent_cannot_change_how_its_text_is_read(connect: Guard, change: str) -> None:
    """Read in another way, the second byte of a character may be a backslash that escapes the quote after it."""
    for profile in (FULL, {"access_mode": "read_write"}):
        assert attempt(connect(profile), change).rule == "protected_setting"


# ------------------------------------------------------------------ depth

DEPTH = """
    import json, sys, threading
    sys.setrecursionlimit(int(sys.argv[2]))
    import guarddb

    def fill(head, unit, middle="1", close="", tail="", size=100_000):
        # As many levels as the size holds.
        times = (size - len(head + middle + tail)) // len(unit + close)
        return head + unit * times + middle + close * times + tail

    texts = {
        "parentheses": fill("SELECT ", "(", "1", ")"),
        "sum": fill("SELECT ", "1+"),
        "concatenation": fill("SELECT ", "a||", "a FROM t"),
        "not": fill("SELECT ", "NOT ", "true"),
        "minus": fill("SELECT ", "- "),
        "casts": fill("SELECT 1", "::int", ""),
        "arrays": fill("SELECT ", "ARRAY[", "1", "]"),
        "subscripts": fill("SELECT a", "[1]", "", "", " FROM t", size=30_000),
        "fields": fill("SELECT a", ".b", "", "", " FROM t", size=30_000),
        "calls": fill("SELECT ", "abs(", "1", ")"),
        "case": fill("SELECT ", "CASE WHEN true THEN ", "1", " END"),
        "coalesce": fill("SELECT ", "COALESCE(", "1", ")"),
        "subqueries": fill("SELECT * FROM ", "(SELECT * FROM ", "t", ") x"),
        "scalar subqueries": fill("SELECT ", "(SELECT ", "1", ")"),
        "exists": fill("SELECT ", "EXISTS (SELECT 1 WHERE ", "true", ")"),
        "ctes": fill("", "WITH a AS (", "SELECT 1", ") SELECT 1"),
        "union": fill("SELECT 1", " UNION SELECT 1", ""),
        "except": fill("SELECT 1", " EXCEPT ALL SELECT 1", ""),
        "joins": fill("SELECT 1 FROM t", " JOIN t USING (a)", ""),
        "nested joins": fill("SELECT 1 FROM ", "(", "t", " CROSS JOIN t)"),
        "comments": fill("", "/*", "", "*/", " SELECT 1"),
        "some comments": "/*" * 50 + "*/" * 50 + " SELECT 1 /* */" + "/* */" * 5_000,
        "and": fill("SELECT 1 FROM t WHERE a = 1", " AND a = 1", "", size=30_000),
        "or": fill("SELECT 1 FROM t WHERE a = 1", " OR a = 1", "", size=30_000),
        "between": fill("SELECT ", "1 BETWEEN 1 AND "),
        "in": fill("SELECT ", "1 IN (", "1", ")"),
        "rows": fill("SELECT ", "ROW(", "1", ")"),
        "is null": fill("SELECT 1", " IS NULL", ""),
        "collate": fill("SELECT 'a'", ' COLLATE "C"', ""),
        "explain": fill("", "EXPLAIN ", "SELECT 1"),
        "statements": fill("", "SELECT 1;", "", size=30_000),
        "list": fill("SELECT 1 WHERE 1 IN (", "1,", "1", "", ")", size=30_000),
        "values": fill("VALUES (1)", ",(1)", "", size=30_000),
        "targets": fill("SELECT 1", ",1", "", size=30_000),
        "json arrows": fill("SELECT a", "->'b'", "", "", " FROM t"),
        "at time zone": fill("SELECT now()", " AT TIME ZONE 'UTC'", ""),
        "grouping sets": fill("SELECT 1 GROUP BY ", "GROUPING SETS (", "()", ")"),
        "open parentheses": fill("", "(", ""),
        "open brackets": fill("SELECT ", "ARRAY[", ""),
        "open comment": fill("", "/*", ""),
        "quotes": fill("SELECT '", "''", "", "", "'"),
        "dollars": fill("", "$a$", ""),
    }
    policy = {
        "name": "full", "masking_rules": [{"table": "t", "column": "m", "kind": "null"}],
        "row_filters": [{"table": "t", "predicate": "a = 1"}], "max_rows": 5, "table_denylist": ["d"],
    }
    answers = {}

    def ask():
        for name, text in texts.items():
            assert len(text) <= 100_000, (name, len(text))
            answers[name] = guarddb.evaluate(text, policy).rule

    if sys.argv[1] == "main":
        ask()
    else:
        threading.stack_size(int(sys.argv[1]))
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    print(json.dumps(answers))
"""


@pytest.mark.parametrize(("stack", "recursion"), [("main", 60_000), ("524288", 1_000)])
def test_process_survives_every_depth(stack: str, recursion: int) -> None:
    """With the small stack that threads have on some platforms, and with the recursion limit some programs set."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DEPTH), stack, str(recursion)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers = json.loads(done.stdout)
    assert len(answers) == 42
    assert set(answers.values()) <= {
        "ok",
        "parse_error",
        "forbidden_function",
        "function_not_allowed",
        "statement_not_allowed",
    }
    for deep in (
        "concatenation",
        "not",
        "scalar subqueries",
        "exists",
        "union",
        "joins",
        "open brackets",
        "parentheses",
        "sum",
        "subqueries",
        "open parentheses",
        "calls",
        "casts",
        "arrays",
        "case",
        "ctes",
    ):
        assert answers[deep] == "parse_error", (deep, answers[deep])
    for flat in ("list", "values", "targets", "quotes", "some comments", "and", "or", "statements"):
        assert answers[flat] == "ok", (flat, answers[flat])


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT " + " || ".join(["name"] * 200) + " FROM customers WHERE id = 4",
        "SELECT id FROM customers WHERE " + " OR ".join(f"id = {i}" for i in range(2000)),
        "SELECT id FROM customers WHERE id IN (" + ", ".join(map(str, range(5000))) + ")",
        "SELECT " + "(" * 50 + "id" + ")" * 50 + " FROM customers",
        "SELECT * FROM " + "(SELECT * FROM " * 20 + "customers" + ") AS x" * 20,
        " UNION ALL ".join(["SELECT id FROM orders"] * 60),
    ],
    ids=lambda sql: sql[:30],
)
def test_long_text_that_programs_write_passes(connect: Guard, sql: str) -> None:
    assert connect(FULL).execute(sql.encode()).fetchall()


# ------------------------------------------------------------------ refusals inside a transaction


def test_refusal_inside_a_transaction_leaves_it_usable(
    connect: Guard, plain_shop: psycopg.Connection
) -> None:
    """Nothing was sent, so what was done before stays, and what follows is done in the same transaction."""
    conn = connect({"access_mode": "read_write", "table_denylist": ["employees"]}, autocommit=False)
    try:
        conn.execute("INSERT INTO settings VALUES ('first', 'x')")
        for refused in (
            "DROP TABLE settings",
            "DELETE FROM settings",
            "SELECT * FROM employees",
            "SELECT pg_sleep(1)",
            "SELEC",
            "INSERT INTO settings VALUES ('lost', 'x'); SELECT * FROM employees",
        ):
            with pytest.raises(guarddb.PolicyViolation):
                conn.execute(refused.encode())
            assert conn.info.transaction_status == TransactionStatus.INTRANS
        with conn.transaction(), pytest.raises(guarddb.PolicyViolation):
            conn.execute("TRUNCATE settings")
        conn.execute("INSERT INTO settings VALUES ('second', 'x')")
        conn.commit()
        kept = plain_shop.execute("SELECT key FROM settings WHERE value = 'x' ORDER BY key").fetchall()
        assert kept == [("first",), ("second",)]
    finally:
        conn.rollback()
        plain_shop.execute("DELETE FROM settings WHERE value = 'x'")


def test_refusal_in_a_pipeline_leaves_the_rest(connect: Guard) -> None:
    conn = connect({"access_mode": "read_write"})
    with conn.pipeline():
        first = conn.execute("SELECT 1")
        with pytest.raises(guarddb.PolicyViolation):
            conn.execute("DROP TABLE settings")
        second = conn.execute("SELECT 2")
        assert (first.fetchone(), second.fetchone()) == ((1,), (2,))


def test_row_outside_the_filter_undoes_its_statement_only(connect: Guard) -> None:
    conn = connect({"access_mode": "read_write", "row_filters": FILTERS}, autocommit=False)
    with conn.transaction(force_rollback=True):
        with pytest.raises(guarddb.PolicyViolation) as caught, conn.transaction():
            conn.execute("INSERT INTO orders (tenant_id, customer_id, placed_at) VALUES (2, 4, now())")
        assert caught.value.rule == "row_filter_violation"
        assert conn.execute("SELECT count(*) FROM orders").fetchone() == (75,)
        conn.execute("INSERT INTO orders (tenant_id, customer_id, placed_at) VALUES (1, 4, now())")
        assert conn.execute("SELECT count(*) FROM orders").fetchone() == (76,)


# ------------------------------------------------------------------ faults of our own


def test_text_that_came_out_wrong_is_not_sent(
    connect: Guard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What comes out of the rewriting is parsed and compared with what was meant."""
    right = Rewriter._edit

    def wrong(self: Rewriter, start: int, end: int, text: str, *more: Any) -> None:
        right(self, start, end, text.replace("= 1", "= 2").replace("1001", "9001"), *more)

    monkeypatch.setattr(Rewriter, "_edit", wrong)
    conn = connect(FULL)
    for sql in ("SELECT count(*) FROM orders", "SELECT id FROM categories"):
        with caplog.at_level(logging.ERROR, "guarddb"):
            outcome = attempt(conn, sql)
        assert outcome.rule == "internal_error", sql
        assert "Traceback" not in str(outcome.error)
        assert caplog.records
        caplog.clear()
    assert attempt(conn, "SELECT id FROM categories WHERE false").rule == "internal_error"
    monkeypatch.undo()
    assert attempt(connect(FULL), "SELECT count(*) FROM orders").rows == [(75,)]


@pytest.mark.parametrize("where", ["read_statement", "write_plan", "parse"])
def test_fault_anywhere_in_the_engine_refuses(
    connect: Guard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    from guarddb.decision import decide as engine

    def broken(*arguments: Any, **more: Any) -> None:
        raise KeyError("the secret of a value")

    conn = connect({"access_mode": "read_write"})
    monkeypatch.setattr(engine, where, broken)
    with caplog.at_level(logging.ERROR, "guarddb"):
        outcome = attempt(conn, "INSERT INTO settings VALUES ('fault', 'x')")
        assert guarddb.evaluate("SELECT 1", PROFILES["reader"]).rule == "internal_error"
    assert isinstance(outcome.error, guarddb.PolicyViolation)
    assert outcome.rule == "internal_error"
    assert outcome.decision.hint
    assert "secret" not in str(outcome.error)
    assert "KeyError" in caplog.text
    monkeypatch.undo()
    assert attempt(conn, "SELECT 1").rows == [(1,)]


def test_policy_that_cannot_be_read_refuses_until_it_can(connect: Guard, shop: str) -> None:
    class Source:
        """A policy source that can fail."""

        broken = False
        profile = guarddb.PolicyProfile(name="from a source")

        def current(self) -> tuple[guarddb.PolicyProfile, str]:
            if self.broken:
                raise OSError("the disk is gone")
            return self.profile, self.profile.version

    source = Source()
    with guarddb.connect(shop, policy=source, autocommit=True) as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
        source.broken = True
        with pytest.raises(guarddb.PolicyUnavailable) as caught:
            conn.execute("SELECT 1")
        assert (caught.value.rule, caught.value.sqlstate) == ("policy_unavailable", "42501")
        assert isinstance(caught.value, guarddb.PolicyViolation)
        source.broken = False
        assert conn.execute("SELECT 1").fetchone() == (1,)
