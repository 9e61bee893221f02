"""What is said of the columns of system relations is what the servers have."""

from __future__ import annotations

import psycopg

from guarddb.facts.columns import columns_of
from guarddb.facts.functions import facts

_COLUMNS = """
SELECT n.nspname || '.' || c.relname, array_agg(a.attname::text ORDER BY a.attnum)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE n.nspname IN ('pg_catalog', 'information_schema') AND c.relkind IN ('r', 'v') GROUP BY 1
"""


def said_and_there(dsn: str) -> tuple[int, list[str]]:
    with psycopg.connect(dsn) as conn:
        there = dict(conn.execute(_COLUMNS).fetchall())
        version = conn.info.server_version
    said = {name: columns_of(relation, version) for name, relation in facts().relations.items()}
    wrong = [
        name for name, columns in said.items() if columns is not None and list(columns) != there.get(name)
    ]
    return sum(columns is not None for columns in said.values()), wrong


def test_newest_version(server_dsn: str) -> None:
    known, wrong = said_and_there(server_dsn)
    assert wrong == []
    assert known == len(facts().relations)


def test_older_version(server16_dsn: str) -> None:
    known, wrong = said_and_there(server16_dsn)
    assert wrong == []
    assert known > 150


def test_other_versions_are_not_guessed() -> None:
    relation = facts().relations["pg_catalog.pg_roles"]
    assert columns_of(relation, 150010) is None
    assert columns_of(relation, 190000) is None
