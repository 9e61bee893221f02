"""Squawk as a second opinion: where its verdict is another one than what was measured, the table says why.

Only its rules about blocking are asked; those about style, timeouts and robustness are a matter of taste. Squawk reads one
file without
a catalog, so most of the reasons say what only the catalog tells.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from guarddb.lint.migrations import lint
from tests.lint.conftest import World
from tests.lint.statements import FAILS, all_statements
from tests.lint.test_oracle import errors

BLOCKING = frozenset(
    {
        "adding-field-with-default",
        "adding-foreign-key-constraint",
        "adding-not-nullable-field",
        "adding-required-field",
        "adding-serial-primary-key-field",
        "ban-alter-domain-with-add-constraint",
        "changing-column-type",
        "constraint-missing-not-valid",
        "disallowed-unique-constraint",
        "require-concurrent-index-creation",
        "require-concurrent-index-deletion",
        "require-concurrent-partition-detach",
        "require-concurrent-reindex",
    }
)

#: Squawk says nothing, and others were measured to wait.
SILENT = {
    "serial numbers every row: the table is rewritten": """
ALTER TABLE events ADD COLUMN extra serial
ALTER TABLE orders ADD COLUMN extra bigserial
ALTER TABLE orders ADD COLUMN extra int, ADD COLUMN more serial
ALTER TABLE orders ADD COLUMN extra serial
ALTER TABLE quick ADD COLUMN extra serial
""",
    "a domain with constraints is checked for every row: the table is rewritten": """
ALTER TABLE orders ADD COLUMN extra positive
ALTER TABLE orders ADD COLUMN extra positive DEFAULT 5
""",
    "an inline CHECK is verified: the table is read under ACCESS EXCLUSIVE": """
ALTER TABLE events ADD COLUMN extra int CHECK (extra > 0)
ALTER TABLE orders ADD COLUMN extra int CHECK (extra > 0)
ALTER TABLE orders ADD COLUMN extra int DEFAULT 5 CONSTRAINT extra_known CHECK (extra > 0)
""",
    "no CHECK proves the partition's bounds, or a default partition is looked through": """
ALTER TABLE events ATTACH PARTITION events_2026 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')
ALTER TABLE regions ATTACH PARTITION regions_south FOR VALUES IN ('south')
CREATE TABLE regions_west PARTITION OF regions FOR VALUES IN ('west')
""",
    "the table is written anew": """
ALTER TABLE lonely SET UNLOGGED
ALTER TABLE quick SET LOGGED
ALTER TABLE orders ALTER COLUMN doubled SET EXPRESSION AS (size * 3)
CLUSTER orders USING orders_pkey
CLUSTER refunds USING refunds_id_idx
REFRESH MATERIALIZED VIEW totals
""",
    "the columns of a primary key become NOT NULL: the table is read under ACCESS EXCLUSIVE": """
ALTER TABLE refunds ADD PRIMARY KEY USING INDEX refunds_id_idx
""",
    "every table with a column of the domain is read, writers kept out": """
ALTER DOMAIN positive SET NOT NULL
""",
}

#: Squawk warns, and nobody was measured to wait for work.
LOUD = {
    "the type is stored in the same way: nothing is rewritten": """
ALTER TABLE customers ALTER COLUMN email TYPE text
ALTER TABLE customers ALTER COLUMN email TYPE text USING email
ALTER TABLE customers ALTER COLUMN email TYPE text USING email::text
ALTER TABLE customers ALTER COLUMN email TYPE varchar
ALTER TABLE customers ALTER COLUMN email TYPE varchar(200)
ALTER TABLE customers ALTER COLUMN email TYPE varchar(200) USING email::varchar(200)
ALTER TABLE customers ALTER COLUMN name TYPE varchar
ALTER TABLE events ALTER COLUMN kind TYPE varchar
ALTER TABLE orders ALTER COLUMN address TYPE inet
ALTER TABLE orders ALTER COLUMN amount TYPE numeric
ALTER TABLE orders ALTER COLUMN amount TYPE numeric(12,2)
ALTER TABLE orders ALTER COLUMN bits TYPE varbit
ALTER TABLE orders ALTER COLUMN bits TYPE varbit(16)
ALTER TABLE orders ALTER COLUMN payload TYPE text
ALTER TABLE orders ALTER COLUMN placed_at TYPE timestamptz
ALTER TABLE orders ALTER COLUMN placed_at TYPE timestamptz(6)
ALTER TABLE orders ALTER COLUMN qty TYPE int
ALTER TABLE orders ALTER COLUMN qty TYPE oid
ALTER TABLE orders ALTER COLUMN status TYPE label
ALTER TABLE orders ALTER COLUMN title TYPE text
ALTER TABLE refunds ALTER COLUMN score TYPE int
""",
    "a validated CHECK proves it, or it is NOT NULL already": """
ALTER TABLE customers ADD CONSTRAINT known NOT NULL phone
ALTER TABLE customers ALTER COLUMN city SET NOT NULL
ALTER TABLE customers ALTER COLUMN name SET NOT NULL
ALTER TABLE customers ALTER COLUMN phone SET NOT NULL
""",
    "the default is one value for all rows, or computed when it is read: nothing is rewritten": """
ALTER TABLE orders ADD COLUMN extra int DEFAULT steady()
ALTER TABLE orders ADD COLUMN extra int GENERATED ALWAYS AS (qty + 1)
ALTER TABLE orders ADD COLUMN extra int GENERATED ALWAYS AS (qty + 1) VIRTUAL
""",
    "a new column is NULL everywhere, so there is no key to look up": """
ALTER TABLE orders ADD COLUMN extra int REFERENCES customers
ALTER TABLE orders ADD COLUMN extra int REFERENCES customers ON DELETE CASCADE
""",
    "NOT VALID and NOT ENFORCED constraints are not checked": """
ALTER DOMAIN label ADD CONSTRAINT short CHECK (length(VALUE) < 30) NOT VALID
ALTER TABLE lonely ADD FOREIGN KEY (id) REFERENCES customers (id) NOT ENFORCED
ALTER TABLE orders ADD CONSTRAINT qty_known CHECK (qty > 0) NOT ENFORCED
""",
    "a moment's lock without work under it: a warning here": """
ALTER TABLE events DETACH PARTITION events_2024
ALTER TABLE lines DETACH PARTITION lines_1
ALTER TABLE regions DETACH PARTITION regions_north
DROP INDEX IF EXISTS orders_status_idx, refunds_amount_idx
DROP INDEX orders_status_idx
DROP INDEX totals_id_idx
""",
    "no index is built: it is there already, on the parent only, or there is none": """
CREATE INDEX IF NOT EXISTS orders_status_idx ON orders (status, qty)
CREATE INDEX ON ONLY events (kind)
REINDEX TABLE lonely
""",
    "nobody writes to a materialised view": """
CREATE INDEX ON totals (total)
""",
    "the table is empty, or has one row": """
ALTER TABLE empty ADD COLUMN extra int NOT NULL
ALTER TABLE tiny ADD CHECK (id > 0)
ALTER TABLE tiny ALTER COLUMN id SET NOT NULL
ALTER TABLE tiny ALTER COLUMN id TYPE bigint
CREATE INDEX ON empty (id)
CREATE INDEX ON tiny (id)
""",
}


def lines(table: dict[str, str]) -> set[str]:
    return {line for text in table.values() for line in text.strip().splitlines()}


@pytest.fixture(scope="module")
def squawk(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What squawk says of each statement: its rules."""
    command = shutil.which("squawk", path=sysconfig.get_path("scripts")) or shutil.which("squawk")
    if command is None:
        pytest.skip("squawk-cli is not installed")
    directory = tmp_path_factory.mktemp("squawk")
    paths = {}
    for index, statement in enumerate(all_statements()):
        path = directory / f"{index}.sql"
        path.write_text(f"{statement};\n")
        paths[path.name] = statement
    done = subprocess.run(
        [command, "--reporter", "json", "--pg-version", "18", *(directory / name for name in paths)],
        capture_output=True,
        text=True,
        check=False,
    )
    said: dict[str, set[str]] = {statement: set() for statement in all_statements()}
    for finding in json.loads(done.stdout):
        said[paths[Path(finding["file"]).name]].add(finding["rule_name"])
    return said


def test_differences_from_squawk_are_those_that_were_reviewed(
    world: World, squawk: dict[str, set[str]]
) -> None:
    silent, loud = set(), set()
    for statement in all_statements():
        if statement in FAILS:
            continue
        ours, theirs = bool(errors(lint(statement, world.catalog))), bool(squawk[statement] & BLOCKING)
        if ours and not theirs:
            silent.add(statement)
        elif theirs and not ours:
            loud.add(statement)
    assert silent == lines(SILENT)
    assert loud == lines(LOUD)
