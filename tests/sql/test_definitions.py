"""Utility statements read as facts."""

from __future__ import annotations

import pytest

from guarddb.sql.analysis.definitions import definitions
from guarddb.tree import parse


@pytest.mark.parametrize(
    ("sql", "verb", "what", "parts", "names"),
    [
        ("ALTER TABLE t ALTER c SET NOT NULL", "alter", "table", [("set not null", "c")], []),
        ("ALTER TABLE t ADD c int CHECK (c > 0)", "alter", "table", [("add column", "c")], []),
        ("ALTER TYPE s.row ADD ATTRIBUTE x int", "alter", "type", [("add column", "x")], [("s", "row")]),
        ("ALTER TYPE s.row RENAME ATTRIBUTE x TO y", "rename", "attribute", [], [("s", "row")]),
        ("ALTER TYPE s.mood RENAME VALUE 'a' TO 'b'", "alter", "type", [], [("s", "mood")]),
        (
            "ALTER DOMAIN s.d ADD CONSTRAINT c CHECK (value > 0)",
            "alter",
            "domain",
            [("add constraint", None)],
            [("s", "d")],
        ),
        ("CREATE DOMAIN s.d AS int", "create", "domain", [], [("s", "d")]),
        ("ALTER FUNCTION s.f(int) RENAME TO g", "rename", "function", [], [("s", "f")]),
        ("ALTER OPERATOR s.= (int, int) OWNER TO x", "own", "operator", [], [("s", "=")]),
        ("ALTER AGGREGATE s.a(int) SET SCHEMA x", "move", "aggregate", [], [("s", "a")]),
        ("DROP FUNCTION s.f(int), g", "drop", "function", [], [("s", "f"), (None, "g")]),
        ("GRANT SELECT ON t TO x", "grant", "table", [], []),
        ("REVOKE a FROM x", "revoke", "role", [], []),
        ("ALTER TABLE t OWNER TO x", "alter", "table", [("change owner", None)], []),
    ],
)
def test_what_is_done_to_what(
    sql: str,
    verb: str,
    what: str,
    parts: list[tuple[str, str | None]],
    names: list[tuple[str | None, str]],
) -> None:
    ((command, fields),) = parse(sql)[0]["stmt"].items()
    (found,) = definitions(command, fields)
    assert (found.verb, found.object) == (verb, what)
    assert [(part.verb, part.name) for part in found.parts] == parts
    assert found.names == names


@pytest.mark.parametrize(
    ("sql", "inner"),
    [
        ("CREATE SCHEMA s CREATE TABLE t (id int)", ("create", "table")),
        ("CREATE RULE r AS ON INSERT TO t DO ALSO DELETE FROM x", ("delete", "")),
    ],
)
def test_what_stands_inside_counts(sql: str, inner: tuple[str, str]) -> None:
    ((command, fields),) = parse(sql)[0]["stmt"].items()
    assert inner in [(each.verb, each.object) for each in definitions(command, fields)]


def test_a_part_knows_its_constraints() -> None:
    ((command, fields),) = parse("ALTER TABLE t ADD c int UNIQUE, ADD CHECK (c > 0)")[0]["stmt"].items()
    (definition,) = definitions(command, fields)
    assert [[c["contype"] for c in part.constraints] for part in definition.parts] == [
        ["CONSTR_UNIQUE"],
        ["CONSTR_CHECK"],
    ]
