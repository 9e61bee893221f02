"""Texts that are no PostgreSQL statement, in the shapes that models and people with other habits write.

`corrections` proposes; the engine decides about each proposal as about any other text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial

_FENCE = re.compile(r"```[ \t]*(?:\w+)?[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL)
_STARTS = (
    r"(?:SELECT|WITH|INSERT\s+INTO|UPDATE\s+\S+\s+SET|DELETE\s+FROM|MERGE\s+INTO|EXPLAIN|SHOW|TABLE|VALUES)\b"
)
_STATEMENT = re.compile(rf"(?:^|(?<=[\s:>`\"'(]))({_STARTS}.*)", re.IGNORECASE | re.DOTALL)
_TOP = re.compile(
    r"^(\s*SELECT\s+(?:DISTINCT\s+)?)TOP\s*\(?\s*(\d+)\s*\)?\s+(.*?)(;?\s*)$", re.IGNORECASE | re.DOTALL
)
_LIMIT = re.compile(r"\bLIMIT\s+(\d+)\s*,\s*(\d+)", re.IGNORECASE)
_DUAL = re.compile(r"\s+FROM\s+DUAL\b", re.IGNORECASE)
_BRACKETS = re.compile(r"\[([A-Za-z_]\w*)\]")
_DESCRIBE = re.compile(
    r"^\s*(?:DESCRIBE|DESC|SHOW\s+(?:FULL\s+)?COLUMNS\s+(?:FROM|IN))\s+`?([\w.\"]+)`?\s*;?\s*$", re.IGNORECASE
)
_BACKSLASH = re.compile(r"^\s*\\(d[tvmis]?\+?|dt\+?|l\+?|dn\+?|du\+?)(?:\s+([\w.\"]+))?\s*;?\s*$")
_TABLES = re.compile(r"^\s*SHOW\s+(?:FULL\s+)?TABLES\b.*$", re.IGNORECASE | re.DOTALL)
_DATABASES = re.compile(r"^\s*SHOW\s+(DATABASES|SCHEMAS)\s*;?\s*$", re.IGNORECASE)
_USE = re.compile(r"^\s*USE\s+\w+\s*;?\s*$", re.IGNORECASE)

_LABEL = re.compile(r"\bAS\s+'(\w+)'", re.IGNORECASE)
_INTERVAL = re.compile(r"\bINTERVAL\s+(-?\d+)\s+(year|month|week|day|hour|minute|second)s?\b", re.IGNORECASE)
_AND = re.compile(r"\s&&\s")
_LAST_COMMA = re.compile(r",(\s+FROM\b)", re.IGNORECASE)

LIST_TABLES = (
    "SELECT table_schema, table_name FROM information_schema.tables "
    "WHERE table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2"
)
_LIST_SCHEMAS = "SELECT schema_name FROM information_schema.schemata ORDER BY 1"
_LIST_DATABASES = "SELECT datname FROM pg_catalog.pg_database ORDER BY 1"
_LIST_ROLES = "SELECT rolname FROM pg_catalog.pg_roles ORDER BY 1"


def columns_of(name: str) -> str:
    """A SELECT that describes a table, by the views of the SQL standard."""
    schema, _, table = name.replace('"', "").rpartition(".")
    where = f"table_name = '{table}'" + (f" AND table_schema = '{schema}'" if schema else "")
    return (
        "SELECT column_name, data_type, is_nullable FROM information_schema.columns "
        f"WHERE {where} ORDER BY ordinal_position"
    )


def of_another_dialect(sql: str) -> str | None:
    """What a command of psql or of MySQL asks for, as a SELECT; None for any other text.

    >>> of_another_dialect("\\\\d films")[:43]
    'SELECT column_name, data_type, is_nullable '
    """
    if found := _DESCRIBE.match(sql):
        return columns_of(found[1])
    if found := _BACKSLASH.match(sql):
        command, name = found[1].rstrip("+"), found[2]
        if command == "l":
            return _LIST_DATABASES
        if command == "dn":
            return _LIST_SCHEMAS
        if command == "du":
            return _LIST_ROLES
        return columns_of(name) if name else LIST_TABLES
    if _TABLES.match(sql):
        return LIST_TABLES
    if found := _DATABASES.match(sql):
        return _LIST_DATABASES if found[1].upper() == "DATABASES" else _LIST_SCHEMAS
    if _USE.match(sql):
        return LIST_TABLES
    return None


def corrections(sql: str) -> Iterator[str]:
    """Texts that may have been meant, the likeliest first. Each is a guess: whoever asks has it parsed and judged.

    >>> next(corrections("SELECT TOP 5 name FROM films"))
    'SELECT name FROM films LIMIT 5'
    """
    if (command := of_another_dialect(sql)) is not None:
        yield command
        return
    texts = [sql]
    if "```" in sql:
        texts = [found[1].strip() for found in _FENCE.finditer(sql) if found[1].strip()]
        yield from texts
    for text in texts:
        inner = text.strip()
        if inner.startswith("`") and inner.endswith("`") and inner.count("`") == 2:
            inner = inner.strip("`").strip()
        found = _STATEMENT.search(inner)
        candidates = [inner]
        if found is not None:
            statement = found[1]
            candidates.append(statement)
            # Prose behind a statement begins behind its semicolon, an empty line, or a sentence's end.
            ends = (";", "\n\n", ".\n", ". ")
            candidates.extend(statement[: statement.index(end)] for end in ends if end in statement)
        for candidate in candidates:
            for corrected in _spelled(candidate):
                if corrected != sql:
                    yield corrected.strip()


def _spelled(text: str) -> Iterator[str]:
    plain = text.translate(_TYPOGRAPHY)
    yield plain
    changed = plain
    for correct in _CORRECTIONS:
        other = correct(changed)
        if other != changed:
            changed = other
            yield changed


_TYPOGRAPHY = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u00a0": " ", "\uff1b": ";"}
)


def _top(text: str) -> str:
    found = _TOP.match(text)
    return f"{found[1]}{found[3]} LIMIT {found[2]}" if found else text


def _limit(text: str) -> str:
    return _LIMIT.sub(r"LIMIT \2 OFFSET \1", text)


def _backticks(text: str) -> str:
    return re.sub(
        r"`([^`]+)`",
        lambda found: found[1] if re.fullmatch(r"[a-z_]\w*", found[1]) else f'"{found[1]}"',
        text,
    )


#: One after the other.
_CORRECTIONS: tuple[Callable[[str], str], ...] = (
    _top,
    _limit,
    _backticks,
    partial(_BRACKETS.sub, r'"\1"'),
    partial(_DUAL.sub, ""),
    partial(_LABEL.sub, r'AS "\1"'),
    partial(_INTERVAL.sub, r"INTERVAL '\1 \2'"),
    partial(_LAST_COMMA.sub, r"\1"),
    partial(_AND.sub, " AND "),
)

_BLOCK = re.compile(r"\bBEGIN\b(.*)\bEND\b", re.IGNORECASE | re.DOTALL)


def of_block(body: str) -> str | None:
    """The one statement of a DO block's body; None where it has several, or declares, branches or loops.

    >>> of_block("BEGIN UPDATE t SET a = 1 WHERE id = 2; END")
    'UPDATE t SET a = 1 WHERE id = 2'
    """
    found = _BLOCK.search(body)
    inner = (found[1] if found else body).strip()
    statements = [part.strip() for part in inner.split(";") if part.strip()]
    if len(statements) != 1 or re.search(r"\b(?:DECLARE|IF|LOOP|FOR|EXECUTE)\b", body, re.IGNORECASE):
        return None
    return re.sub(r"^PERFORM\b", "SELECT", statements[0], flags=re.IGNORECASE)
