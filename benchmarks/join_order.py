"""The join-order benchmark with a filter and a mask on every table: what guarddb sends, and the same filters written by hand.

The queries and the schema are those of https://github.com/gregrahn/join-order-benchmark, read from a checkout; nothing of them is
part of this project. The data is made up here: the tables have sizes in the proportions of the benchmark's, references that
prefer few rows to many, and the words that the queries ask for. Compared are the planner's cost, the pages read (which a busy
machine does not change), and the time, planning counted. Target: at most 1.2 times by hand, in the median; beside it, how many
plans are the same.

    git clone https://github.com/gregrahn/join-order-benchmark
    python benchmarks/join_order.py --from join-order-benchmark [--rows 50000] [--plans]
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psycopg
from common import cores, met, pin, report, server
from row_filters import in_turns, one, pages, shape

from guarddb import Catalog, evaluate

TARGET = 1.2

FILTER = "tenant < 9"

_COLUMN = re.compile(
    r"^\s+(\w+) (integer|character varying\(?\d*\)?|character\(?\d*\)?|text)(?=[\s,])", re.MULTILINE
)
_TABLE = re.compile(r"CREATE TABLE (\w+) \((.*?)\);", re.DOTALL)
_FROM = re.compile(r"\bFROM\s+(.*?)\bWHERE\b", re.DOTALL)
_ASKED = re.compile(
    r"(\w+)\.(\w+)\s*(?:=|!=|>|<|(?:NOT\s+)?(?:LIKE|IN))\s*(\([^()]*\)|'[^']*')", re.IGNORECASE
)

#: The benchmark's tables, in thousands of rows; those of types are as they are.
THOUSANDS = {
    "cast_info": 36_244, "movie_info": 14_836, "movie_keyword": 4_524, "name": 4_168, "char_name": 3_140, "person_info": 2_964,
    "movie_companies": 2_609, "title": 2_528, "movie_info_idx": 1_380, "aka_name": 901, "aka_title": 361, "company_name": 235,
    "complete_cast": 135, "keyword": 134, "movie_link": 30,
}  # fmt: skip
TYPES = {
    "kind_type": 7,
    "company_type": 4,
    "comp_cast_type": 4,
    "role_type": 12,
    "link_type": 18,
    "info_type": 113,
}
REFERS = {
    "movie_id": "title", "linked_movie_id": "title", "episode_of_id": "title", "person_id": "name", "person_role_id": "char_name",
    "company_id": "company_name", "keyword_id": "keyword", "info_type_id": "info_type", "kind_id": "kind_type",
    "company_type_id": "company_type", "role_id": "role_type", "link_type_id": "link_type", "subject_id": "comp_cast_type",
    "status_id": "comp_cast_type",
}  # fmt: skip


def tables(schema: str) -> dict[str, list[tuple[str, str]]]:
    """The tables with their columns and types."""
    return {name: _COLUMN.findall(body) for name, body in _TABLE.findall(schema)}


def size(name: str, rows: int) -> int:
    """How many rows a table gets, where the largest has `rows`."""
    return TYPES.get(name) or max(200, rows * THOUSANDS[name] // THOUSANDS["cast_info"])


def words(queries: Iterable[str]) -> dict[tuple[str, str], list[str]]:
    """What the queries ask of each column, without the wildcards."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for sql in queries:
        listed = _FROM.search(sql)
        assert listed is not None
        aliases = {words[-1]: words[0] for words in map(str.split, listed[1].split(","))}
        for alias, column, values in _ASKED.findall(sql):
            for value in re.findall("'([^']*)'", values):
                found.setdefault((aliases[alias], column), {})[value.replace("%", "")] = None
    return {key: list(values) for key, values in found.items()}


def fill(
    name: str, columns: list[tuple[str, str]], rows: int, asked: dict[tuple[str, str], list[str]]
) -> str:
    """Made-up rows: keys from 1 on, references that prefer low ones, every second word one that is asked for."""
    values = []
    for number, (column, kind) in enumerate(columns):
        dice = f"((hashint8extended(n, {number}) & 1048575) / 1048576.0)"
        known = asked.get((name, column), [])
        listed = "ARRAY[" + ", ".join(f"'{word}'" for word in known) + "]"
        if column == "id":
            values.append("n")
        elif column in REFERS:
            values.append(f"1 + floor(power({dice}, 2) * {size(REFERS[column], rows)})::int")
        elif kind == "integer":
            values.append(f"1930 + floor(sqrt({dice}) * 90)::int")
        elif name in TYPES and known:
            values.append(f"coalesce(({listed})[n], 'type ' || n)")
        elif known:
            word = f"({listed})[1 + floor(power({dice}, 2) * {len(known)})::int]"
            values.append(f"left(CASE WHEN n % 2 = 0 THEN {word} ELSE md5(n::text) END, {_length(kind)})")
        else:
            values.append(f"left(md5((n % 1000)::text), {min(12, _length(kind))})")
    hidden = "0" if name in TYPES else "abs(hashint4(n)) % 10"
    listed = ", ".join([column for column, _ in columns] + ["tenant", "secret"])
    return (
        f"INSERT INTO {name} ({listed}) SELECT {', '.join(values)}, {hidden}, 'secret' "
        f"FROM generate_series(1, {size(name, rows)}) AS n"
    )


def _length(kind: str) -> int:
    found = re.search(r"\d+", kind)
    return int(found[0]) if found else 200


def by_hand(sql: str) -> str:
    """A query of the benchmark with the filter of every table in its WHERE."""
    found = _FROM.search(sql)
    assert found is not None
    aliases = [part.split()[-1] for part in found[1].split(",")]
    filters = " AND ".join(f"{alias}.{FILTER}" for alias in aliases)
    return f"{sql[: found.end()]} {filters} AND ({sql[found.end() :]})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from", dest="directory", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=50_000, help="of the largest table")
    parser.add_argument("--seconds", type=float, default=0.5, help="of measuring, for each query")
    parser.add_argument("--plans", action="store_true", help="compare plans, and measure nothing")
    arguments = parser.parse_args()
    schema = (arguments.directory / "schema.sql").read_text()
    texts = {
        path.stem: path.read_text().strip().rstrip(";")
        for path in sorted(arguments.directory.glob("[0-9]*.sql"))
    }
    asked = words(texts.values())
    found = tables(schema)
    policy: dict[str, Any] = {
        "name": "join order",
        "row_filters": [{"table": name, "predicate": FILTER} for name in found],
        "masking_rules": [{"table": name, "column": "secret", "kind": "redact"} for name in found],
    }
    results: list[tuple[Any, ...]] = []
    ratios, same = [], 0
    with server() as dsn, psycopg.Connection.connect(dsn, autocommit=True) as conn:
        conn.execute(schema.encode())
        for name, attributes in found.items():
            conn.execute(f"ALTER TABLE {name} ADD COLUMN tenant int, ADD COLUMN secret text".encode())
            conn.execute(fill(name, attributes, arguments.rows, asked).encode())
            for column, _ in attributes:
                if column.endswith("_id"):
                    conn.execute(f"CREATE INDEX ON {name} ({column})".encode())
        conn.execute("VACUUM ANALYZE")
        conn.execute("SET max_parallel_workers_per_gather = 0")
        catalog = Catalog.from_connection(conn)
        available = cores()
        pin(0, available[0])
        pin(conn.info.backend_pid, available[-1])
        for title, sql in texts.items():
            decision = evaluate(sql, policy, catalog)
            assert decision.rewritten_sql is not None, (title, decision.reason)
            ours, hand = decision.rewritten_sql, by_hand(sql)
            alike = shape(conn, ours) == shape(conn, hand)
            same += alike
            if arguments.plans:
                continue
            (cost, read), (cost_by_hand, read_by_hand) = pages(conn, ours), pages(conn, hand)
            mine, theirs = in_turns([one(conn, ours), one(conn, hand)], arguments.seconds)
            measured = (mine / theirs, cost / cost_by_hand, (read + 1) / (read_by_hand + 1))
            ratios.append(measured)
            results.append(
                (
                    title,
                    f"{theirs / 1000:.2f}",
                    f"{mine / 1000:.2f}",
                    *(f"{ratio:.2f}" for ratio in measured),
                    "same" if alike else "other",
                )
            )
    if results:
        report(
            "Join-order benchmark, a filter and a mask on every table",
            ("query", "by hand ms", "guarddb ms", "time", "cost", "pages", "plan"),
            results,
        )
        for name, figures in zip(("time", "cost", "pages"), zip(*ratios, strict=True), strict=True):
            middle = statistics.median(figures)
            print(
                f"Median of {len(figures)} ratios of {name}: {middle:.3f} ({met(middle, TARGET)}); largest {max(figures):.2f}"
            )
    print(f"{same} of {len(texts)} plans have the same nodes and indexes")


if __name__ == "__main__":
    main()
