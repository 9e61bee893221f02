"""Two databases that differ in what an agent may not see, and in nothing else, answer the agent's role alike.

So whatever a statement tries, by rows, tags, errors with their details, notices or counts, it has found out nothing.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg

from tests.wall.conftest import made
from tests.wall.ground import Ground

HERE = Path(__file__).parent
#: What is the database's, the server's or the session's name or number.
_NAMES = re.compile(r"gdb_\d+_wall_\d+|pg_temp_\d+|w\d+_\d+_")
MASKS = {
    "customers": "ssn redact, email null, born null, seen null, home null, mail redact, mood null, tags redact, doc null,"
    " salary null",
    "meas": "val redact",
    "base": "pin redact",
    "kid": "who null",
    "sal": "salary null",
    "pk2": "m redact",
    "fk2": "m redact",
}
PROFILE: dict[str, Any] = {
    "access_mode": "read_write",
    "table_denylist": ["secrets"],
    "masking_rules": [
        dict(zip(("column", "kind"), rule.split(), strict=True), table=table)
        for table, rules in MASKS.items()
        for rule in rules.split(",")
    ],
    "row_filters": [
        {"table": "docs", "predicate": "tenant = 1"},
        {"table": "evt", "predicate": "tenant = 1"},
        {"table": "trg", "predicate": "tenant < 2"},
        {"table": "sal", "predicate": "cap >= salary"},
        {
            "table": "items",
            "predicate": "project IN (SELECT m.project FROM current_members AS m WHERE m.who = 'me')",
        },
    ],
}


def worlds(server: str, profile: dict[str, Any], *schemas: str) -> Iterator[list[Ground]]:
    """A database for each schema, under the wall of the same profile."""
    opened = [made(server, schema) for schema in schemas]
    grounds = [next(each) for each in opened]
    for ground in grounds:
        ground.policy = {"name": ground.stem, **profile}
        ground.up()
        ground.as_admin("VACUUM ANALYZE")
    yield grounds
    for each in opened:
        for _ in each:
            pass


class Answers:
    """One connection as the agent's role; what it tells, statement by statement."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.conn = psycopg.connect(ground.agent, autocommit=True, prepare_threshold=None)
        self.told: list[str] = []
        self.conn.add_notice_handler(lambda notice: self.told.append(f"notice {notice.message_primary}"))

    def __call__(self, attempt: str) -> str:
        self.told.clear()
        self.conn.execute("BEGIN")
        for part in attempt.split(";;"):
            self._run(
                part.format(wall=self.ground.schema, stem=self.ground.stem, agent=self.ground.agent_role)
            )
        with suppress(psycopg.Error):
            self.conn.execute("ROLLBACK")
        self.conn.execute("DISCARD ALL")
        return _NAMES.sub("", "\n".join(self.told))

    def _run(self, statement: str) -> None:
        inside = self.conn.info.transaction_status != psycopg.pq.TransactionStatus.IDLE
        if inside:
            self.conn.execute("SAVEPOINT attempt")
        try:
            if re.match(r"COPY .* TO STDOUT", statement):
                with self.conn.cursor().copy(statement) as copy:
                    self.told.append(b"".join(bytes(data) for data in copy).decode())
                return
            cursor = self.conn.execute(statement)
            self.told += [repr(row) for row in (cursor.fetchall() if cursor.description else ())]
            self.told.append(str(cursor.statusmessage))
        except psycopg.Error as ex:
            diag = ex.diag
            self.told += [
                str(ex.sqlstate),
                *map(str, (diag.message_primary, diag.message_detail, diag.context)),
            ]
            if inside:
                self.conn.execute("ROLLBACK TO attempt")

    def close(self) -> None:
        self.conn.close()


def told_apart(grounds: list[Ground], attempts: list[str]) -> dict[str, tuple[str, ...]]:
    """The attempts whose answers differ, and the answers."""
    sides = [Answers(ground) for ground in grounds]
    try:
        answers = ((attempt, tuple(side(attempt) for side in sides)) for attempt in attempts)
        return {attempt: found for attempt, found in answers if len(set(found)) > 1}
    finally:
        for side in sides:
            side.close()


def test_what_is_hidden_changes_no_answer(any_server: str) -> None:
    with psycopg.connect(any_server) as conn:
        new = conn.info.server_version >= 180000
    virtual = "virt text GENERATED ALWAYS AS (ssn || 'x') VIRTUAL, virtn int GENERATED ALWAYS AS (salary + n) VIRTUAL,"
    text = (HERE / "two_worlds.sql").read_text()
    schemas = []
    for values in (("raw-aaa", "raw-mmm", "secret-q", 1), ("raw-zz", "raw-bbbbbb", "secret-other", 2)):
        filled = text.replace("{virtual}", virtual if new else "")
        for name, value in zip(("s1", "s2", "h"), values[:3], strict=True):
            filled = filled.replace(f"{{{name}}}", f"'{value}'")
        schemas.append(filled.replace("{k}", str(values[3])))
    lines = (HERE / "two_worlds_statements.sql").read_text().splitlines()
    attempts = [line for line in lines if line and not line.startswith("--")]
    assert len(attempts) > 300
    for grounds in worlds(any_server, PROFILE, *schemas):
        assert told_apart(grounds, attempts) == {}


# ---------------------------------------------------------------------- what is computed beside a masked value


def tables(draw: random.Random, count: int) -> tuple[list[str], dict[str, list[str]]]:
    """Tables whose CHECKs, generated columns, indexes and keys are drawn; definitions, and the masked columns of each."""
    made_tables: list[str] = []
    masked: dict[str, list[str]] = {}
    for number in range(count):
        name = f"t{number}"
        masked[name] = draw.sample("abc", draw.randint(1, 2))
        parts = [f"{column} int DEFAULT {draw.randint(0, 3)}" for column in "abcd"]
        expressions = [
            f"{draw.choice('abcd')} {draw.choice(('+', '*', '-'))} {draw.choice('abcd')}" for _ in range(3)
        ]
        if draw.random() < 0.5:
            parts.append(f"g int GENERATED ALWAYS AS ({expressions[0]}) STORED")
        parts += [
            f"CHECK ({e} {draw.choice(('<', '>='))} {draw.randint(-100, 100)})" for e in expressions[1:]
        ]
        made_tables.append(f"CREATE TABLE {name} (id int PRIMARY KEY, {', '.join(parts)});")
        if draw.random() < 0.5:
            key = f"({draw.choice('abcd')} / (1 + {draw.choice('abcd')} - {draw.randint(0, 5)}))"
            made_tables.append(f"CREATE INDEX ON {name} ({key});")
    return made_tables, masked


def test_a_write_tells_nothing_of_a_masked_value_beside_it(
    server_dsn: str, empty_ground: Callable[[str], Ground]
) -> None:
    """CHECKs, generated columns and indexes of expressions: drawn, and written by the agent; the masked values differ."""
    draw = random.Random(20261130)
    definitions, masked = tables(draw, 40)
    profile = {
        "access_mode": "read_write",
        "masking_rules": [
            {"table": table, "column": column, "kind": "null"}
            for table, columns in masked.items()
            for column in columns
        ],
    }
    schemas = []
    for world in (1, 2):
        values = random.Random(world)
        # What the agent sees is the same in both, and what a constraint refuses is in neither.
        rows = [
            "DO $$ BEGIN "
            f"INSERT INTO {table} (id, {', '.join('abcd')}) VALUES ({row}, "
            + ", ".join(str(values.randint(-90, 90) if c in columns else 5 * row) for c in "abcd")
            + "); EXCEPTION WHEN OTHERS THEN NULL; END $$;"
            for table, columns in masked.items()
            for row in range(1, 25)
        ]
        schemas.append("\n".join([*definitions, *rows]))
    writes = [
        template.format(t=table, c=column, v=draw.randint(-100, 100))
        for table in masked
        for column in "abcd"
        for template in (
            "UPDATE {t} SET {c} = {v} WHERE id = 3",
            "UPDATE {t} SET {c} = {c} + {v} WHERE id IN (2, 7)",
            "INSERT INTO {t} (id, {c}) VALUES (900, {v})",
            "INSERT INTO {t} (id) VALUES (4) ON CONFLICT (id) DO UPDATE SET {c} = {v}",
            "MERGE INTO {t} USING (VALUES (5)) AS v (i) ON id = i WHEN MATCHED THEN UPDATE SET {c} = {v}",
        )
    ]
    for grounds in worlds(server_dsn, profile, *schemas):
        for table in masked:
            # (Which rows there are is the same in both.)
            common = set.intersection(
                *({row[0] for row in ground.as_admin(f"SELECT id FROM {table}")} for ground in grounds)
            )
            kept = ", ".join(map(str, [-1, *sorted(common)]))
            for ground in grounds:
                ground.as_admin(f"DELETE FROM {table} WHERE id NOT IN ({kept})")
        assert told_apart(grounds, writes) == {}
        # And what may be written is written.
        side = Answers(grounds[0])
        assert (
            sum(bool(re.search(r"^(UPDATE|INSERT 0|MERGE) [1-9]", side(write), re.M)) for write in writes)
            > 50
        )
        side.close()
