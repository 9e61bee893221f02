"""What an agent has done on a branch: per table, the rows that were added, changed and removed.

Both databases are read in the order of the primary key and compared row by row, in one pass and without keeping them. Where a
table has
no primary key, whole rows are counted, so that a change is one row less and one row more.

Who looks may do more than the agent, and what is on a branch was made by the agent: none of its code is run. Values are printed
by the output functions of their types, whatever casts there are, and policies are not asked. PostgreSQL computes what is constant
in the expressions of indexes and statistics when it plans a query: where these call functions that are not its own, the table is
copied and sorted here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg as _psycopg
from psycopg import sql
from psycopg.rows import tuple_row

#: Tables and partitions that hold rows, and the primary key of each.
_TABLES = """
SELECT n.nspname, c.relname, coalesce((
    SELECT array_agg(a.attname ORDER BY k.n) FROM pg_catalog.pg_index AS i
    CROSS JOIN LATERAL unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY AS k (number, n)
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = k.number
    WHERE i.indrelid = c.oid AND i.indisprimary AND k.n <= i.indnkeyatts), '{}')
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
ORDER BY 1, 2
"""
_COLUMNS = """
SELECT attname FROM pg_catalog.pg_attribute WHERE attrelid = %s::pg_catalog.regclass AND attnum > 0 AND NOT attisdropped ORDER
BY attnum
"""
#: Tables of which an index or extended statistics call a function, or an operator, that is not PostgreSQL's own.
_CALLING = """
SELECT DISTINCT n.nspname, c.relname FROM pg_catalog.pg_depend AS d
LEFT JOIN pg_catalog.pg_index AS i ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND i.indexrelid = d.objid
LEFT JOIN pg_catalog.pg_statistic_ext AS s
  ON d.classid = 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass AND s.oid = d.objid
JOIN pg_catalog.pg_class AS c ON c.oid IN (i.indrelid, s.stxrelid)
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE d.refobjid >= 16384
  AND d.refclassid IN ('pg_catalog.pg_proc'::pg_catalog.regclass, 'pg_catalog.pg_operator'::pg_catalog.regclass)
"""
_GENERATED = """
SELECT attname FROM pg_catalog.pg_attribute WHERE attrelid = %s::pg_catalog.regclass AND attnum > 0 AND attgenerated <> ''
"""
_CHUNK = 2_000

Row = tuple[str | None, ...]


@dataclass(slots=True)
class TableDifference:
    """One table's difference. `sample` has the first few changes: `+`, `-` or `~`, the row before and the row after, by
    column."""

    table: str
    added: int = 0
    changed: int = 0
    removed: int = 0
    #: `made` or `dropped` on the branch, or columns that are only on one side
    structure: str | None = None
    sample: list[dict[str, Any]] = field(default_factory=list)

    @property
    def same(self) -> bool:
        return not (self.added or self.changed or self.removed or self.structure)

    def to_dict(self) -> dict[str, Any]:
        return {
            "table": self.table,
            "added": self.added,
            "changed": self.changed,
            "removed": self.removed,
            "structure": self.structure,
            "sample": self.sample,
        }


def differences(source: str, branch: str, *, sample: int = 5) -> Iterator[TableDifference]:
    """The tables that differ between two databases, given by conninfo. Neither is written to.

    What others have done in the source since the branch was made shows too.

    Raises:
        psycopg.Error: a database cannot be reached or read.
    """
    with (
        _psycopg.Connection.connect(source, row_factory=tuple_row) as before,
        _psycopg.Connection.connect(branch, row_factory=tuple_row) as after,
    ):
        for conn in (before, after):
            conn.isolation_level = _psycopg.IsolationLevel.REPEATABLE_READ
            conn.read_only = True
            # The text of a value must not depend on who reads it.
            conn.execute("SET LOCAL search_path = pg_catalog")
            conn.execute("SET LOCAL datestyle = 'ISO, YMD'")
            conn.execute("SET LOCAL timezone = 'UTC'")
            conn.execute("SET LOCAL extra_float_digits = 1")
            conn.execute("SET LOCAL row_security = off")
            conn.execute("SET LOCAL constraint_exclusion = off")
        old = {(s, t): key for s, t, key in before.execute(_TABLES).fetchall()}
        new = {(s, t): key for s, t, key in after.execute(_TABLES).fetchall()}
        calling = {(s, t) for conn in (before, after) for s, t in conn.execute(_CALLING).fetchall()}
        for name in sorted(old.keys() | new.keys()):
            found = TableDifference(f"{name[0]}.{name[1]}")
            if name not in old or name not in new:
                found.structure = "made" if name not in old else "dropped"
                conn, counted = (after, "added") if name not in old else (before, "removed")
                setattr(found, counted, _count(conn, name, copied=name in calling))
            else:
                _compare(before, after, name, old[name], found, sample, copied=name in calling)
            if not found.same:
                yield found


def _count(conn: _psycopg.Connection[Any], name: tuple[str, str], *, copied: bool) -> int:
    if copied:
        return sum(1 for _ in _copied(conn, name, []))
    row = conn.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(*name))).fetchone()
    return int(row[0]) if row is not None else 0


def _columns(
    conn: _psycopg.Connection[Any], name: tuple[str, str], query: LiteralString = _COLUMNS
) -> list[str]:
    quoted = sql.Identifier(*name).as_string(conn)
    return [column for (column,) in conn.execute(query, [quoted]).fetchall()]


def _compare(
    before: _psycopg.Connection[Any],
    after: _psycopg.Connection[Any],
    name: tuple[str, str],
    key: list[str],
    found: TableDifference,
    sample: int,
    *,
    copied: bool,
) -> None:
    old_columns, new_columns = _columns(before, name), _columns(after, name)
    columns = [column for column in old_columns if column in new_columns]
    apart = [f"-{c}" for c in old_columns if c not in new_columns] + [
        f"+{c}" for c in new_columns if c not in old_columns
    ]
    if apart:
        found.structure = "columns " + ", ".join(apart)
    if copied:
        made = {column for conn in (before, after) for column in _columns(conn, name, _GENERATED)}
        columns = [column for column in columns if column not in made]
    if not columns:
        return
    if not set(key) <= set(columns):
        key = []
    order = key or columns
    width = len(order)
    rows = _sorted if copied else _rows
    left, right = (rows(conn, name, order, columns) for conn in (before, after))
    one, other = next(left, None), next(right, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one[0] < other[0]):
            assert one is not None
            found.removed += 1
            _note(found, sample, "-", columns, one[1], None)
            one = next(left, None)
        elif one is None or other[0] < one[0]:
            found.added += 1
            _note(found, sample, "+", columns, None, other[1])
            other = next(right, None)
        else:
            if one[1] != other[1]:
                found.changed += 1
                _note(found, sample, "~", columns, one[1], other[1])
            one, other = next(left, None), next(right, None)
    assert width


def _rows(
    conn: _psycopg.Connection[Any], name: tuple[str, str], order: list[str], columns: list[str]
) -> Iterator[tuple[tuple[str, ...], Row]]:
    """(key, row) in the order of the key's text, code point by code point, as Python compares it too."""
    # concat() calls the output function of a type, whatever casts there are; num_nulls() tells NULL from a row of NULLs.
    texts = sql.SQL(", ").join(
        sql.SQL("CASE num_nulls({0}) WHEN 0 THEN concat({0}) END").format(sql.Identifier(c)) for c in columns
    )
    # NULL sorts first here and there: an empty text for it, and a mark before every value.
    keys = [
        sql.SQL("""CASE num_nulls({0}) WHEN 0 THEN concat('=', {0}) ELSE '' END COLLATE "C" """).format(
            sql.Identifier(c)
        )
        for c in order
    ]
    query = sql.SQL("SELECT {}, {} FROM ONLY {} ORDER BY {}").format(
        sql.SQL(", ").join(keys), texts, sql.Identifier(*name), sql.SQL(", ").join(keys)
    )
    with conn.cursor(name="guarddb_diff") as cur:
        cur.itersize = _CHUNK
        cur.execute(query)
        for row in cur:
            yield tuple(row[: len(order)]), tuple(row[len(order) :])


def _copied(conn: _psycopg.Connection[Any], name: tuple[str, str], columns: list[str]) -> Iterator[Row]:
    """The rows of a table by COPY, for which nothing is planned."""
    listed = (
        sql.SQL(" ({})").format(sql.SQL(", ").join(map(sql.Identifier, columns))) if columns else sql.SQL("")
    )
    with conn.cursor().copy(sql.SQL("COPY {}{} TO STDOUT").format(sql.Identifier(*name), listed)) as copy:
        yield from copy.rows()


def _sorted(
    conn: _psycopg.Connection[Any], name: tuple[str, str], order: list[str], columns: list[str]
) -> Iterator[tuple[tuple[str, ...], Row]]:
    """As `_rows`, of a table that is copied."""
    places = [columns.index(column) for column in order]
    found = [
        (tuple("" if row[i] is None else f"={row[i]}" for i in places), row)
        for row in _copied(conn, name, columns)
    ]
    return iter(sorted(found, key=lambda each: each[0]))


def _note(
    found: TableDifference, sample: int, sign: str, columns: list[str], old: Row | None, new: Row | None
) -> None:
    if len(found.sample) < sample:
        found.sample.append(
            {
                "change": sign,
                "old": None if old is None else dict(zip(columns, old, strict=True)),
                "new": None if new is None else dict(zip(columns, new, strict=True)),
            }
        )
