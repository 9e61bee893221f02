"""Safe forms that several rules give, as SQL that can be run outside of a transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from guarddb.lint.acts import Target
from guarddb.lint.script import Script
from guarddb.lint.text import label, shown
from guarddb.sql.names import literal

#: Blocks of 8 kB for each transaction of a backfill: one or two thousand rows, which no writer waits for longer than it notices.
#: (Measured by benchmarks/migrations.py: with 500 blocks a writer waited for 600 ms on a busy machine.)
_BATCH_BLOCKS = 25


def script_of(statements: Iterable[str]) -> str:
    """Statements one below the other; a line that is a comment stays one."""
    return "\n".join(
        each if each.endswith(";") or each.startswith("--") else f"{each};" for each in statements
    )


def backfill(target: Target, assignment: str, condition: str | None, script: Script) -> list[str]:
    """An UPDATE of a whole table in batches, each with a transaction of its own: by ranges of blocks, so that every block is
    read once."""
    stored = [target]
    if target.relation is not None and target.relation.kind == "p":
        stored = [
            child
            for child in script.children(target)
            if child.relation is not None and child.relation.kind == "r"
        ] or stored
    return [_batches(each, assignment, condition) for each in stored]


def _batches(target: Target, assignment: str, condition: str | None) -> str:
    also = f"\n      AND ({condition})" if condition else ""
    return f"""DO $backfill$
DECLARE
  block bigint := 0;
  blocks bigint := pg_relation_size({literal(target.sql).strip()}) / current_setting('block_size')::bigint;
BEGIN
  WHILE block <= blocks LOOP
    UPDATE {target.sql} SET {assignment}
    WHERE ctid >= format('(%s,0)', block)::tid AND ctid < format('(%s,0)', block + {_BATCH_BLOCKS})::tid{also};
    COMMIT;
    block := block + {_BATCH_BLOCKS};
  END LOOP;
END $backfill$;"""


def not_null(target: Target, column: str, script: Script) -> list[str]:
    """SET NOT NULL without a scan under a strong lock."""
    name = label(target.name, column, "not_null")
    if script.at_least(18):
        return [
            f"ALTER TABLE {target.sql} ADD CONSTRAINT {shown(name)} NOT NULL {shown(column)} NOT VALID;",
            f"ALTER TABLE {target.sql} VALIDATE CONSTRAINT {shown(name)};",
        ]
    check = label(name, "check")
    return [
        f"ALTER TABLE {target.sql} ADD CONSTRAINT {shown(check)} CHECK ({shown(column)} IS NOT NULL) NOT VALID;",
        f"ALTER TABLE {target.sql} VALIDATE CONSTRAINT {shown(check)};",
        f"ALTER TABLE {target.sql} ALTER COLUMN {shown(column)} SET NOT NULL;",
        f"ALTER TABLE {target.sql} DROP CONSTRAINT {shown(check)};",
    ]


def validated(target: Target, name: str, definition: str) -> list[str]:
    """A constraint that holds for new rows at once, and for the old ones after a scan that blocks nobody."""
    return [
        f"ALTER TABLE {target.sql} ADD CONSTRAINT {shown(name)} {definition} NOT VALID;",
        f"ALTER TABLE {target.sql} VALIDATE CONSTRAINT {shown(name)};",
    ]


def by_index(target: Target, name: str, columns: Sequence[str], word: str, *, more: str = "") -> list[str]:
    """A UNIQUE or PRIMARY KEY constraint over an index that is built while others go on."""
    listed = ", ".join(shown(column) for column in columns)
    return [
        f"CREATE UNIQUE INDEX CONCURRENTLY {shown(name)} ON {target.sql} ({listed}){more};",
        f"ALTER TABLE {target.sql} ADD CONSTRAINT {shown(name)} {word} USING INDEX {shown(name)};",
    ]
