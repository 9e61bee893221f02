"""The test server is what the fixtures promise."""

from __future__ import annotations

import psycopg
import pytest


def test_server_runs_postgresql_18_with_two_phase_commit(plain: psycopg.Connection) -> None:
    assert plain.info.server_version // 10000 == 18
    row = plain.execute("SELECT current_setting('max_prepared_transactions')::int").fetchone()
    assert row == (10,)


@pytest.mark.parametrize("attempt", [1, 2])
def test_fresh_database_is_empty_and_dropped_although_connected(fresh_dsn: str, attempt: int) -> None:
    conn = psycopg.connect(fresh_dsn, autocommit=True)
    try:
        assert conn.execute("SELECT to_regclass('t')").fetchone() == (None,)
        conn.execute("CREATE TABLE t ()")
    finally:
        conn.close()


def test_text_sorts_by_code_point_and_lowers_beyond_ascii(plain: psycopg.Connection) -> None:
    assert plain.execute("SELECT 'Z' < 'a', lower('É')").fetchone() == (True, "é")


def test_older_server_is_there_when_asked_for(server16_dsn: str) -> None:
    with psycopg.connect(server16_dsn) as conn:
        assert conn.info.server_version // 10000 == 16
