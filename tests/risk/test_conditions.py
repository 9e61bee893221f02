"""Conditions: the grammar, three-valued logic, bounds, and agreement with PostgreSQL."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from guarddb.policy.errors import PolicyError
from guarddb.risk.conditions import parse_condition
from guarddb.risk.event import read_event
from guarddb.risk.policy import ActionPolicy
from tests.searching import given, settings, st

EVENT: dict[str, Any] = {
    "action": "MCP:s3:object.Delete",
    "timestamp": "2026-03-01T05:30:00+02:00",  # a Sunday, 03:30 in UTC
    "tool_name": "Slack",
    "agent": {"agent_id": "a1", "framework": "crew"},
    "target": {"sensitivity_level": 3, "resource_id": "public.users"},
    "parameters": {
        "batch_size": 500,
        "ratio": 0.1,
        "note": "50% off_\\",
        "flag": True,
        "nothing": None,
        "items": [1, 2, 3],
        "nested": {"deep": {"er": 7}},
        "amount": 12,
    },
    "preceding_actions": ["database:table:select", "database:table:select"],
    "data_fields_accessed": ["ssn"],
}


def ask(condition: str, timezone: str | None = None, **changes: Any) -> bool | None:
    policy = ActionPolicy(custom_rules={"r": {"condition": condition, "score_impact": 1}}, timezone=timezone)
    ((_, _, parsed),) = policy.compiled.rules
    value, reasons = parsed.evaluate(read_event({**EVENT, **changes}), policy.compiled.timezone)
    assert (value is None) == bool(reasons)
    return value


@pytest.mark.parametrize(
    ("condition", "value"),
    [
        ("batch_size > 100 AND target.sensitivity_level >= 3", True),
        ("batch_size > 500 AND target.sensitivity_level >= 3", False),
        ("hour(timestamp) < 6 OR hour(timestamp) > 22", True),
        ("hour(timestamp) = 3", True),
        ("weekday(timestamp) = 7", True),
        ("weekday(timestamp) IN (1, 2, 3, 4, 5)", False),
        ("parameters.batch_size == 500", True),
        ("batch_size = 500", True),
        ("batch_size == 501", False),
        ("batch_size != 500", False),
        ("batch_size <> 501", True),
        ("BATCH_SIZE >= 500 AND Target.Sensitivity_Level <= 3", True),
        ("parameters.nested.deep.er = 7", True),
        ("nested.deep.er = 7", True),
        ("amount = 12", True),
        ("ratio + 0.2 = 0.3", True),
        ("1 / 2 = 0.5", True),
        ("batch_size * 2 - 10 / 4 + -1 = 996.5", True),
        ("batch_size BETWEEN 500 AND 501", True),
        ("batch_size NOT BETWEEN 500 AND 501", False),
        ("batch_size IN (1, 500)", True),
        ("batch_size NOT IN (1, 2)", True),
        ("batch_size IN (1, NULL, 500)", True),
        ("flag", True),
        ("NOT flag", False),
        ("flag = true", True),
        ("true OR nosuch > 1", True),
        ("false AND nosuch > 1", False),
        ("nosuch IS NULL", True),
        ("nosuch IS NOT NULL", False),
        ("batch_size IS NULL", False),
        ("nothing IS NULL", True),
        ("(nosuch > 1) IS NULL", True),
        ("count(preceding_actions) = 2", True),
        ("count(items) = 3", True),
        ("count(nosuch) = 0", True),
        ("count(nothing) = 0", True),
        ("action = 'mcp:S3:object.delete'", True),
        ("action LIKE '*:*:delete'", True),
        ("action LIKE '*:*:drop'", False),
        ("action NOT LIKE '*:*:delete'", False),
        ("action LIKE 'mcp:%.delete'", True),
        ("action LIKE 'mcp:__:object.delete'", True),
        ("action LIKE 'mcp:_:object.delete'", False),
        ("matches('MCP:*')", True),
        ("matches('*.delete')", True),
        ("matches('delete')", True),
        ("matches('*:*:drop')", False),
        ("tool_name = 'SLACK'", True),
        ("tool_name LIKE 'sl%'", True),
        ("agent.framework = 'crew'", True),
        ("agent.framework = 'CREW'", False),  # SQL's = on every other text
        ("agent.framework LIKE 'c_e%'", True),
        ("agent.framework LIKE 'C%'", False),
        ("target.resource_id LIKE '*users'", False),  # the star is SQL's own: a character
        ("note LIKE '50\\%%'", True),
        ("note LIKE '%\\_\\\\'", True),
        ("timestamp >= '2026-03-01T03:30:00Z'", True),
        ("timestamp > '2026-03-01 03:30:00'", False),
    ],
)
def test_a_condition_is_true_or_false(condition: str, value: bool) -> None:
    assert ask(condition) is value


@pytest.mark.parametrize(
    "condition",
    [
        "nosuch > 1",
        "agent.model = 'x'",
        "agent.framework.deeper = 1",
        "NOT nosuch",
        "nosuch > 1 AND true",
        "nosuch > 1 OR false",
        "nothing = nothing",
        "batch_size = 'five'",
        "batch_size = true",
        "batch_size IN (1, NULL)",
        "batch_size NOT IN (1, NULL)",
        "batch_size / 0 = 1",
        "batch_size / (3 - 3) > 0",
        "agent > 1",
        "items = items",
        "agent.framework + 1 = 2",
        "count(batch_size) = 0",
        "hour(batch_size) = 1",
        "hour(agent.framework) = 1",
        "batch_size LIKE '5%'",
        "tool_name LIKE nosuch",
        "batch_size AND true",
        "timestamp > 'tomorrow'",
        "hour(nosuch) = 1",
        "note",
        "NULL",
    ],
)
def test_what_nobody_knows_is_unknown_and_says_why(condition: str) -> None:
    assert ask(condition) is None


@pytest.mark.parametrize(
    "condition",
    [
        "",
        "   ",
        "batch_size >",
        "batch_size > 1; SELECT 1",
        "batch_size > 1, 2",
        "batch_size > 1 FROM users",
        "batch_size > 1) OR (true",
        "lower(action) = 'x'",
        "pg_sleep(1) IS NULL",
        "hour() = 1",
        "hour(timestamp, 1) = 1",
        "pg_catalog.hour(timestamp) = 1",
        "count(*) = 1",
        "count(DISTINCT items) = 1",
        "count(1) = 1",
        "matches(action)",
        "matches('')",
        "matches('a', 'b')",
        "batch_size::int = 1",
        "CAST(batch_size AS int) = 1",
        "timestamp '2026-01-01' < timestamp",
        "batch_size IN (SELECT 1)",
        "EXISTS (SELECT 1)",
        "CASE WHEN true THEN true END",
        "batch_size = ANY (items)",
        "batch_size % 2 = 0",
        "note || 'x' = 'y'",
        "note ~ 'x'",
        "note ILIKE 'x'",
        "note SIMILAR TO 'x'",
        "batch_size IS DISTINCT FROM 1",
        "flag IS TRUE",
        "batch_size BETWEEN SYMMETRIC 1 AND 2",
        "note LIKE 'x' ESCAPE 'y'",
        "note LIKE 'x\\'",
        "$1 = 1",
        "(batch_size, 1) = (1, 2)",
        "ARRAY[1] = items",
        "items[1] = 1",
        "(agent).framework = 'x'",
        "agent.* IS NULL",
        "user = 'x'",
        "current_timestamp > timestamp",
        "x'1f' = 1",
        "1",
        "1 + 1",
        "'true'",
        "hour(timestamp)",
        "batch_size OPERATOR(pg_catalog.=) 1",
        "1e999999999 > batch_size",
        "a" * 64 + " = 1",
        "note = 'x\0'",
        "note = 'x\ud800'",
    ],
)
def test_what_conditions_cannot_use_is_an_error_that_names_the_rule(condition: str) -> None:
    with pytest.raises(PolicyError) as caught:
        ActionPolicy(custom_rules={"odd one": {"condition": condition, "score_impact": 1}})
    assert caught.value.path == "custom_rules.odd one.condition"


def test_the_bounds_of_a_condition() -> None:
    fits = "batch_size IN (" + ",".join(["1"] * 1000) + ")"
    parse_condition(fits)
    parse_condition("NOT " * 63 + "batch_size = 1")
    parse_condition("true OR " * 1000 + "true")
    for text, told in (
        ("batch_size IN (" + ",".join(["1"] * 1001) + ")", "1001 entries"),
        ("NOT " * 64 + "batch_size = 1", "64 levels"),
        ("1" + "+1" * 70 + " = 1", "64 levels"),
        ("true OR " * 2100 + "true", "16384"),
        ("(" * 65 + "true" + ")" * 65, "64 levels"),
        ("(" * 5000 + "true" + ")" * 5000, "64 levels"),
        ("NOT " * 4000 + "true", "."),
    ):
        with pytest.raises(PolicyError, match=told):
            parse_condition(text)


def test_time_is_utc_unless_the_policy_says_otherwise() -> None:
    assert ask("hour(timestamp) = 3") is True
    assert ask("hour(timestamp) = 12 AND weekday(timestamp) = 7", timezone="Asia/Tokyo") is True
    assert ask("weekday(timestamp) = 6", timezone="America/New_York") is True
    assert ask("hour(timestamp) = 7", timestamp="2026-03-01T07:00:00") is True  # without an offset: UTC


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../../etc/passwd", "Europe"])
def test_an_unknown_time_zone_is_an_error(zone: str) -> None:
    with pytest.raises(PolicyError) as caught:
        ActionPolicy(timezone=zone)
    assert caught.value.path == "timezone"


def test_like_takes_linear_time() -> None:
    """Patterns that make a backtracking matcher go back over the text end at once on a long one."""
    text = "a" * 200_000
    for pattern in ("%a_a_a_a%b", "%" + "a%" * 300 + "b", "%" + "_a" * 200 + "b%"):
        assert ask(f"parameters.text LIKE '{pattern}'", parameters={"text": text}) is False
    assert ask("parameters.text LIKE '%a_a_a_a%a'", parameters={"text": text}) is True


def test_numbers_stay_in_bounds() -> None:
    """A product that would grow without end is unknown, and costs nothing."""
    squares = "*".join(["batch_size"] * 40)
    assert ask(f"{squares} > 0", parameters={"batch_size": 10**1000}) is None
    assert ask("batch_size > 1", parameters={"batch_size": float("nan")}) is None
    assert ask("batch_size > 1", parameters={"batch_size": float("inf")}) is None


# ---------------------------------------------------------------- the same expression, evaluated by PostgreSQL

NUMBERS = {"n1": 3, "n2": -2, "n3": None, "n4": 0}
TEXTS = {"t1": "abc", "t2": "a%_\\c", "t3": None, "t4": ""}
BOOLEANS = {"b1": True, "b2": False, "b3": None}

number_leaf = st.one_of(
    st.sampled_from(sorted(NUMBERS)),
    st.integers(-5, 5).map(str),
    st.decimals(min_value=-3, max_value=3, places=1, allow_nan=False).map(str),
    st.just("NULL::numeric"),
)
numbers = st.recursive(
    number_leaf,
    lambda inner: st.tuples(inner, st.sampled_from(["+", "-", "*"]), inner).map(
        lambda p: f"({p[0]} {p[1]} {p[2]})"
    ),
    max_leaves=4,
)
text_leaf = st.one_of(
    st.sampled_from(sorted(TEXTS)),
    st.text("ab%_\\", max_size=4).map(lambda t: "E'" + t.replace("\\", "\\\\") + "'"),
)
patterns = st.text("ab%_", max_size=5).map(lambda t: f"'{t}'")
comparisons = st.sampled_from(["=", "<>", "!=", "<", "<=", ">", ">="])
conditions = st.recursive(
    st.one_of(
        st.tuples(numbers, comparisons, numbers).map(" ".join),
        st.tuples(text_leaf, comparisons, text_leaf).map(lambda p: f'{p[0]} {p[1]} {p[2]} COLLATE "C"'),
        st.tuples(text_leaf, st.sampled_from(["LIKE", "NOT LIKE"]), patterns).map(" ".join),
        st.tuples(numbers, st.sampled_from(["IN", "NOT IN"]), st.lists(numbers, min_size=1, max_size=4)).map(
            lambda p: f"{p[0]} {p[1]} ({', '.join(p[2])})"
        ),
        st.tuples(numbers, st.sampled_from(["BETWEEN", "NOT BETWEEN"]), numbers, numbers).map(
            lambda p: f"{p[0]} {p[1]} {p[2]} AND {p[3]}"
        ),
        st.tuples(st.one_of(numbers, text_leaf), st.sampled_from(["IS NULL", "IS NOT NULL"])).map(" ".join),
        st.sampled_from(sorted(BOOLEANS)),
        st.sampled_from(["true", "false"]),
    ),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(lambda p: f"({p[0]}) {p[1]} ({p[2]})"),
        inner.map(lambda c: f"NOT ({c})"),
        inner.map(lambda c: f"({c}) IS NULL"),
    ),
    max_leaves=8,
)
COLUMNS = ", ".join(
    f"{'NULL' if value is None else psycopg.sql.Literal(value).as_string()}::{kind} AS {name}"
    for values, kind in ((NUMBERS, "numeric"), (TEXTS, "text"), (BOOLEANS, "boolean"))
    for name, value in values.items()
)


@settings(max_examples=500)
@given(condition=conditions)
def test_postgresql_agrees(plain: psycopg.Connection[Any], condition: str) -> None:
    """True, false and unknown are what PostgreSQL answers to the same expression over the same values."""
    row = plain.execute(f"SELECT {condition} FROM (SELECT {COLUMNS}) AS event").fetchone()
    ours = condition.replace(' COLLATE "C"', "").replace("NULL::numeric", "NULL")
    assert row is not None
    parsed = parse_condition(f"({ours}) = true")  # also a bare `true` is then an expression
    value, _ = parsed.evaluate(read_event({**EVENT, "parameters": {**NUMBERS, **TEXTS, **BOOLEANS}}))
    assert value is row[0]


@settings(max_examples=300)
@given(st.text(max_size=60))
def test_any_text_is_a_condition_or_an_error(text: str) -> None:
    """Whatever stands in a policy: it loads and can be asked, or it is a PolicyError."""
    try:
        parsed = parse_condition(text)
    except PolicyError:
        return
    parsed.evaluate(read_event(EVENT))
