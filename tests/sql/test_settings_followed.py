"""The settings that a type follows are written down by hand; here a real server is asked whether one is missing."""

from __future__ import annotations

import psycopg
import pytest

from guarddb.facts import settings as facts

#: Other values than the defaults, each of which changes how something is read or printed.
VARIATIONS = {
    "timezone": ["Asia/Tokyo", "-08"],
    "datestyle": ["German", "SQL, DMY"],
    "intervalstyle": ["iso_8601", "sql_standard"],
    "extra_float_digits": ["-14", "0"],
    "bytea_output": ["escape"],
    "default_text_search_config": ["simple", "german"],
    "array_nulls": ["off"],
    "transform_null_equals": ["on"],
}
#: Of each type some values that are read and printed again.
VALUES = {
    "bool": ["true"],
    "int2": ["7"],
    "int4": ["-7"],
    "int8": ["9007199254740993"],
    "numeric": ["1.50", "NaN"],
    "float4": ["0.1", "1e30"],
    "float8": ["0.1", "123456789.12345"],
    "text": ["01/02/2024", "a"],
    "varchar": ["a"],
    "bpchar": ["a "],
    "name": ["a"],
    "uuid": ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
    "bytea": ["\\x00ff41"],
    "date": ["2024-02-03", "01/02/2024"],
    "time": ["12:00:01"],
    "timetz": ["12:00:01"],
    "timestamp": ["2024-02-03 04:05:06", "01/02/2024 04:05"],
    "timestamptz": ["2024-02-03 04:05:06", "2024-02-03 04:05:06+00"],
    "interval": ["1 day 02:03:04", "-1 year 2 mons"],
    "json": ['{"a": 1.10}'],
    "jsonb": ['{"a": 1.10}'],
    "inet": ["10.0.0.1/8"],
    "cidr": ["10.0.0.0/8"],
    "macaddr": ["08:00:2b:01:02:03"],
    "bit": ["1"],
    "varbit": ["101"],
    "point": ["(0.1,0.2)"],
    "box": ["(0.1,0.2),(1,1)"],
    "oid": ["7"],
    "tsvector": ["'a':1"],
    "int4range": ["[1,5)"],
    "numrange": ["[1.5,5)"],
    "tsrange": ["[2024-01-01,2024-02-01)"],
    "tstzrange": ["[2024-01-01,2024-02-01)"],
    "daterange": ["[01/02/2024,03/04/2024)"],
    "_float8": ["{0.1,NULL}"],
    "_timestamptz": ["{2024-02-03 04:05:06}"],
    "_text": ["{a,NULL}"],
}


@pytest.mark.parametrize("name", VALUES)
def test_what_changes_the_text_of_a_type_is_known(plain: psycopg.Connection, name: str) -> None:
    """A value's text, through input and output, differs under another setting only where the facts say so."""
    known = facts.of_type(f"pg_catalog.{name}")

    def printed(value: str) -> str:
        try:
            with plain.transaction():
                row = plain.execute(f"SELECT ({'%s'}::{name})::text", [value]).fetchone()
        except psycopg.DataError as ex:
            return str(ex.sqlstate)
        assert row is not None
        return str(row[0])

    missed = []
    for value in VALUES[name]:
        plain.execute("RESET ALL")
        usual = printed(value)
        for setting, others in VARIATIONS.items():
            for other in others:
                plain.execute("RESET ALL")
                plain.execute("SELECT set_config(%s, %s, false)", [setting, other])
                if printed(value) != usual and setting not in known:
                    missed.append((setting, value))
    plain.execute("RESET ALL")
    assert missed == []


def test_of_what_users_made_everything_counts() -> None:
    assert facts.of_type("public.anything") == facts.ALL
    assert facts.of_function("nobody_knows") == facts.ALL


def test_what_superusers_alone_are_shown_is_closed(fresh_dsn: str) -> None:
    """Every setting that the server does not show to a plain role is on the list."""
    with psycopg.connect(fresh_dsn, autocommit=True) as conn:
        names = [row[0] for row in conn.execute("SELECT name FROM pg_settings").fetchall()]
        role = f"shown_{conn.info.dbname}"
        conn.execute(f"CREATE ROLE {role}")
        try:
            conn.execute(f"SET ROLE {role}")
            hidden = set()
            for name in names:
                try:
                    conn.execute(f'SHOW "{name}"')
                except psycopg.errors.InsufficientPrivilege:
                    hidden.add(name)
        finally:
            conn.execute(f"RESET ROLE; DROP ROLE {role}")
    assert hidden
    assert hidden <= facts.SHOWN_TO_SUPERUSERS
