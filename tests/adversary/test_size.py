"""Texts made to break whoever reads them: deep, long, or small and multiplying.

Each is decided, with an amount of work that grows as the text does, and the process is still there. The work is counted in
function calls, which are the same on a busy machine.
"""

from __future__ import annotations

import cProfile
from collections.abc import Callable

import pytest

from guarddb import Decision, evaluate
from tests.adversary.ground import ONE_MASK, PREDICATES, Ground

#: Function calls for one character of a text, and for any text at all. Generous: what these texts would cost, read
#: carelessly, is a thousand times as much or the whole memory. What is only long needs no more than some thousand of a thing
#: for that; what is deep is as deep as it can be.
EACH, AT_ALL = 40, 100_000


def nested(select: str, innermost: str, levels: int) -> str:
    """`select` over itself, `levels` deep."""
    text = innermost
    for level in range(levels):
        text = f"SELECT {select} FROM ({text}) t{level}"
    return text


def chain(body: str, levels: int, first: str = "SELECT * FROM orders") -> str:
    """CTEs of which each reads the one before; `{}` is that one's name."""
    ctes = [f"c0 AS ({first})", *(f"c{i} AS ({body.format(f'c{i - 1}')})" for i in range(1, levels))]
    return f"WITH {', '.join(ctes)} SELECT * FROM c{levels - 1}"


TEXTS: dict[str, Callable[[], str]] = {
    "stars that double": lambda: nested("*, *", "SELECT 1 AS a", 40),
    "stars that quadruple": lambda: nested("*, *, *, *", "SELECT 1 AS a", 20),
    "CTEs that double": lambda: chain("SELECT * FROM {0} a, {0} b", 30),
    "CTEs that fork": lambda: chain("SELECT a.* FROM {0} a, {0} b", 500),
    "rows of rows": lambda: chain("SELECT a, b FROM {0} a, {0} b", 40),
    "USING that merges": lambda: chain(
        "SELECT * FROM {0} a JOIN {0} b USING (id, note)", 60, "SELECT id, note FROM users"
    ),
    "NATURAL that merges": lambda: chain(
        "SELECT * FROM {0} a NATURAL JOIN {0} b", 60, "SELECT id, note FROM users"
    ),
    "a long chain": lambda: chain("SELECT * FROM {0}", 1500),
    "parentheses": lambda: "SELECT " + "(" * 40_000 + "1" + ")" * 40_000,
    "minus": lambda: "SELECT " + "- " * 45_000 + "1",
    "NOT": lambda: "SELECT " + "NOT " * 24_000 + "true",
    "a sum": lambda: "SELECT " + "+".join(["1"] * 49_000),
    "a concatenation": lambda: "SELECT " + "||".join(["'a'"] * 19_000),
    "CASE": lambda: "SELECT " + "CASE WHEN true THEN " * 4_000 + "1" + " END" * 4_000,
    "arrays": lambda: "SELECT " + "ARRAY[" * 12_000 + "1" + "]" * 12_000,
    "subscripts": lambda: "SELECT a" + "[1]" * 30_000 + " FROM orders",
    "dots": lambda: "SELECT " + ".".join(["a"] * 40_000),
    "a union": lambda: "SELECT 1 FROM orders" + " UNION ALL SELECT 1 FROM orders" * 3_000,
    "a union that raises": lambda: (
        "SELECT 1 FROM orders" + " UNION ALL SELECT n FROM orders WHERE 1/n>0" * 200
    ),
    "joins": lambda: "SELECT 1 FROM orders o " + " ".join(f"JOIN orders o{i} USING (id)" for i in range(800)),
    "tables": lambda: "SELECT 1 FROM " + ",".join(f"orders o{i}" for i in range(1500)),
    "sub-selects in sub-selects": lambda: (
        "SELECT 1 FROM orders WHERE " + "EXISTS (SELECT 1 FROM orders WHERE " * 300 + "1/n>0" + ")" * 300
    ),
    "scalar sub-selects": lambda: "SELECT " + ",".join(["(SELECT ssn FROM users LIMIT 1)"] * 1_500),
    "statements": lambda: ";".join(["SELECT 1/n FROM orders"] * 1_400),
    "targets": lambda: "SELECT " + ",".join(["ssn"] * 8_000) + " FROM users",
    "constants": lambda: "SELECT id FROM orders WHERE id IN (" + ",".join(map(str, range(6_000))) + ")",
    "alternatives": lambda: "SELECT id FROM orders WHERE " + " OR ".join(f"n={i}" for i in range(4_000)),
    "rows": lambda: "INSERT INTO orders VALUES " + ",".join(["(1,1,1,'a',1,1)"] * 5_500),
    "comments": lambda: "SELECT 1 " + "/* x */" * 14_000,
    "comments in comments": lambda: "SELECT 1 " + "/*" * 24_000 + "*/" * 24_000,
    "quotes": lambda: "SELECT " + "'" * 99_000,
    "dollars": lambda: "SELECT " + "$a$" * 30_001,
    "a name": lambda: 'SELECT "' + "x" * 99_000 + '"',
    "too long": lambda: "SELECT '" + "x" * 100_000 + "'",
    "NUL": lambda: "SELECT 1 \0 FROM users",
    "a lone surrogate": lambda: "SELECT '\ud800'",
    "nothing": lambda: " ;; -- nothing\n;/* */",
}


def calls_of(decide: Callable[[], Decision]) -> tuple[Decision, int]:
    """A decision, and how many Python functions were called for it."""
    profile = cProfile.Profile(subcalls=False, builtins=False)  # it counts in C
    decision = profile.runcall(decide)
    return decision, sum(entry.callcount for entry in profile.getstats())


@pytest.mark.parametrize("name", TEXTS)
def test_every_text_gets_an_answer_for_a_bounded_amount_of_work(ground: Ground, name: str) -> None:
    """A masked, a filtered and an open profile, with a catalog and without: a decision each, none of them dear."""
    sql = TEXTS[name]()
    for policy, catalog in (  # (One is enough without a catalog, where there is less to look up.)
        (ONE_MASK, ground.catalog),
        (ONE_MASK, None),
        (PREDICATES["in"], ground.catalog),
        ({"name": "open", "access_mode": "read_write", "max_rows": 10}, ground.catalog),
    ):
        decision, work = calls_of(lambda: evaluate(sql, policy, catalog))  # noqa: B023 (called at once)
        assert work <= EACH * len(sql) + AT_ALL
        assert decision.verdict in ("allow", "block", "mask", "row-filter")


def test_the_class_is_complete() -> None:
    """The class has the size it was written with: one that shrinks by an edit is noticed."""
    assert len(TEXTS) == 37
