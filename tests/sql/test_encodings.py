"""Text that the server could read otherwise than the parser here: other database encodings, ambiguous client encodings."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import sql as s

import guarddb
from guarddb import Catalog, evaluate
from guarddb.sql import catalog
from guarddb.sql.encodings import read_otherwise

MASKS: dict[str, Any] = {
    "name": "encodings",
    "masking_rules": [{"table": "t", "column": "x", "kind": "null"}],
}


@pytest.fixture
def latin1(server_dsn: str) -> Any:
    name = "gdb_latin1"
    with psycopg.connect(server_dsn, autocommit=True) as conn:
        conn.execute(s.SQL("DROP DATABASE IF EXISTS {}").format(s.Identifier(name)))
        conn.execute(
            s.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'").format(
                s.Identifier(name)
            )
        )
        try:
            yield psycopg.conninfo.make_conninfo(server_dsn, dbname=name)
        finally:
            conn.execute(s.SQL("DROP DATABASE {} WITH (FORCE)").format(s.Identifier(name)))


def test_a_name_that_is_cut_elsewhere_is_refused(latin1: str) -> None:
    long = "ä" * 40
    with psycopg.connect(latin1, autocommit=True) as conn:
        conn.execute(f'CREATE TABLE t (id int, x text, "{long}" text)'.encode())
        conn.execute(b"INSERT INTO t VALUES (1, 'x', 'RAW')")
        snapshot = Catalog.from_connection(conn)
    assert snapshot.encoding == "LATIN1"
    assert Catalog.from_json(snapshot.to_json()).encoding == "LATIN1"
    with guarddb.connect(latin1, policy=MASKS, autocommit=True) as conn:
        for text in (f'SELECT "{long}" FROM t', f"SELECT {long} FROM t", "SELECT Ä FROM t"):
            with pytest.raises(guarddb.PolicyViolation, match="LATIN1"):
                conn.execute(text.encode())
        assert conn.execute("SELECT id, 'ä' FROM t").fetchone() == (1, "ä")
        assert conn.execute("SELECT x FROM t").fetchone() == (None,)


def test_utf8_is_read_as_it_is() -> None:
    assert read_otherwise("SELECT " + "ä" * 40, "UTF8") is None
    assert evaluate('SELECT "ä" FROM t', MASKS).rule == "ok"


def test_our_own_queries_are_ascii() -> None:
    """A database in another encoding has no place for anything else."""
    for query in (
        catalog.CATALOG_QUERY,
        catalog.SESSION_QUERY,
        catalog.FINGERPRINT_QUERY,
        catalog.CATALOG_SETTINGS_QUERY,
    ):
        assert query.isascii()


@pytest.mark.parametrize("encoding", ["SJIS", "BIG5", "GBK", "GB18030", "UHC", "JOHAB"])
def test_an_encoding_in_which_a_byte_can_be_a_backslash_is_refused(fresh_dsn: str, encoding: str) -> None:
    with psycopg.connect(fresh_dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE t (id int, x text)")
    with (
        guarddb.connect(fresh_dsn, policy=MASKS, autocommit=True, client_encoding=encoding) as conn,
        pytest.raises(guarddb.PolicyViolation, match="backslash"),
    ):
        conn.execute("SELECT id FROM t")
