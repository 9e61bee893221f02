"""What the engine makes of a text, word for word, and that both texts do the same.

`rewrites/*.sql` hold pairs of SQL: what an agent sends, and after `-- becomes` what is sent to the server. The second one
runs on a plain connection; the first one on a guarded connection, and on a copy of the database that is what the
profile shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

import guarddb
from tests.conformance.cases import FILTERS, MASKS, PROFILES
from tests.conformance.conftest import copy_dsn  # noqa: F401  (a fixture)

FOLDER = Path(__file__).parent / "rewrites"
POLICIES: dict[str, dict[str, Any]] = {
    **PROFILES,
    "capped": {"name": "capped", "access_mode": "read_write", "max_rows": 3},
    "together": {
        "name": "together",
        "access_mode": "read_write",
        "max_rows": 3,
        "masking_rules": MASKS,
        "row_filters": FILTERS,
    },
}


@dataclass(frozen=True)
class Pair:
    """One text, what becomes of it, and under which profile."""

    file: str
    policy: str
    name: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.file}: {self.name}"


def load() -> list[Pair]:
    pairs = []
    for path in sorted(FOLDER.glob("*.sql")):
        head, *parts = re.split(r"^-- name: (.+)\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        policy = re.match(r"-- policy: (\w+)\n", head)
        assert policy, path
        for name, text in zip(parts[::2], parts[1::2], strict=True):
            before, after = text.split("\n-- becomes\n")
            pairs.append(Pair(path.stem, policy[1], name, before, after.strip("\n")))
    return pairs


PAIRS = load()


@pytest.fixture(scope="module")
def copy(copy_dsn: str) -> Iterator[psycopg.Connection]:  # noqa: F811
    with psycopg.connect(copy_dsn, autocommit=True) as conn:
        yield conn


@pytest.fixture(scope="module")
def guarded(shop: str) -> Iterator[dict[str, guarddb.Connection[Any]]]:
    opened = {
        name: guarddb.connect(shop, policy=POLICIES[name], autocommit=True)
        for name in dict.fromkeys(pair.policy for pair in PAIRS)
    }
    yield opened
    for conn in opened.values():
        conn.close()


def run(conn: psycopg.Connection[Any], sql: str, rows: int | None = None) -> list[Any]:
    """Every result of the text: column names and rows, cut after `rows`, or the number of rows written."""
    found: list[Any] = []
    with conn.transaction(force_rollback=True):
        cursor = conn.cursor()
        if sql.startswith("COPY"):
            with cursor.copy(sql.encode()) as data:
                return b"".join(bytes(block) for block in data).splitlines()[:rows]
        cursor.execute(sql.encode())
        while True:
            if cursor.description is None:
                found.append(cursor.rowcount)
            else:
                names = [column.name for column in cursor.description]
                found.append((names, cursor.fetchall()[:rows]))
            if not cursor.nextset():
                return found


def test_size() -> None:
    assert len(PAIRS) >= 90
    assert len({str(pair) for pair in PAIRS}) == len(PAIRS)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_text_becomes(catalog: guarddb.Catalog, pair: Pair) -> None:
    assert guarddb.evaluate(pair.before, POLICIES[pair.policy], catalog).rewritten_sql == pair.after


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_what_it_became_does_the_same(
    plain_shop: psycopg.Connection, guarded: dict[str, guarddb.Connection[Any]], pair: Pair
) -> None:
    """The text in the file, sent as it is, gives what the guarded connection gives for the agent's."""
    rows = POLICIES[pair.policy].get("max_rows")
    given = run(guarded[pair.policy], pair.before)
    sent = run(plain_shop, pair.after, rows)
    if "INSERT" in pair.before or "UPDATE" in pair.before or "DELETE" in pair.before:
        # A RETURNING that only checks what was written is not shown to the agent.
        assert [g if isinstance(g, int) else g[1] for g in given] == [
            s if isinstance(s, int) else len(s[1]) if isinstance(g, int) else s[1]
            for g, s in zip(given, sent, strict=True)
        ]
    else:
        assert given == sent


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair.policy == "together"], ids=str)
def test_it_gives_what_a_database_without_the_hidden_data_gives(
    copy: psycopg.Connection, guarded: dict[str, guarddb.Connection[Any]], pair: Pair
) -> None:
    assert run(guarded[pair.policy], pair.before) == run(copy, pair.before, 3)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_text_stays_as_it_is_where_no_rule_touches_it(catalog: guarddb.Catalog, pair: Pair) -> None:
    for sql in (pair.before, pair.after):
        decision = guarddb.evaluate(sql, {"name": "open", "access_mode": "read_write"}, catalog)
        assert (decision.verdict, decision.rewritten_sql) == ("allow", sql)
