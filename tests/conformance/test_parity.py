"""The dry answer is the live answer, is never looser without a catalog, and does not depend on how a text is spelled."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
from pglast import parser

import guarddb
from tests.conformance.cases import FILTERS, MASKS, PROFILES, STOPPED, every_statement
from tests.conformance.conftest import Guard, attempt
from tests.corpus import load_ordinary
from tests.searching import SEARCH, given, settings, st

ORDINARY = [case.sql for case in load_ordinary()]
RULES_CASES = every_statement()

#: Profiles that the ordinary corpus runs under, beside the ones that the statements of the rules have.
POLICIES: dict[str, dict[str, Any]] = {
    "reader": PROFILES["reader"],
    "writer": PROFILES["writer"],
    "listed": PROFILES["listed"],
    "denied": PROFILES["denied"],
    "masked_rw": PROFILES["masked_rw"],
    "filtered_rw": PROFILES["filtered_rw"],
    "capped": {"name": "capped", "access_mode": "read_write", "max_rows": 7},
    "full": {
        "name": "full",
        "access_mode": "read_write",
        "masking_rules": MASKS,
        "row_filters": FILTERS,
        "max_rows": 100_000,
        "table_denylist": ["hr.leave_days"],
    },
}
CORPUS = list(dict.fromkeys([*RULES_CASES, *((policy, sql) for policy in POLICIES for sql in ORDINARY)]))


def document_of(name: str) -> dict[str, Any]:
    return POLICIES[name] if name in POLICIES else PROFILES[name]


@cache
def policy_of(name: str) -> guarddb.PolicyProfile:
    """Read once: a document would be read again for each of thousands of statements."""
    return guarddb.PolicyProfile.model_validate(document_of(name))


def test_size_of_the_corpus() -> None:
    assert len(RULES_CASES) >= 1000
    assert len(ORDINARY) >= 260
    assert len(CORPUS) >= 3000


OF_RULES = frozenset(RULES_CASES)
PLACES = {sql: number for number, sql in enumerate(ORDINARY)}


def left_to_others(policy: str, sql: str) -> bool:
    """All ordinary statements run under `full`, and each under half of the other profiles; under all in a longer search."""
    if SEARCH or policy == "full" or policy not in POLICIES or (policy, sql) in OF_RULES:
        return False
    return (list(POLICIES).index(policy) + PLACES[sql]) % 2 == 1


@pytest.mark.parametrize("policy", sorted({policy for policy, _ in CORPUS}))
def test_dry_answer_is_the_live_answer(guarded: Guard, catalog: guarddb.Catalog, policy: str) -> None:
    """The whole decision, word for word, over everything that this profile has in the corpus.

    (Whether a row that is written is outside of the filter, only the row tells: the dry answer is then that it would be checked.)
    """
    different = {}
    statements = [sql for name, sql in CORPUS if name == policy and not left_to_others(policy, sql)]
    assert statements
    conn = guarded(policy, policy_of(policy))
    for sql in statements:
        dry = guarddb.evaluate(sql, policy_of(policy), catalog).to_dict()
        live = attempt(conn, sql).decision.to_dict()
        by_its_rows = live["rule"] == "row_filter_violation" and dry["verdict"] == "row-filter"
        if dry != live and not by_its_rows:
            different[sql] = (dry, live)
    assert not different


#: What only a catalog tells: that a relation is a view, a partition or a parent of others, and that what stands behind
#: a dot is a function and not a column.
ONLY_A_CATALOG_TELLS = re.compile(
    r"\b(staff|documents|measurements_2024|customer_contacts|tenant_one_customers|order_totals|big_orders|order_names"
    r"|monthly_sales|full_price)\b"
)


def test_answer_without_a_catalog_is_never_looser(catalog: guarddb.Catalog) -> None:
    """What passes without a catalog passes with it, and hides no less; every such answer says how it was made."""
    looser = {}
    passed = exempt = 0
    for policy, sql in CORPUS:
        blind = guarddb.evaluate(sql, policy_of(policy))
        seeing = guarddb.evaluate(sql, policy_of(policy), catalog)
        if blind.blocked:
            continue
        assert any("without a catalog" in note for note in blind.notes)
        passed += 1
        if seeing.blocked or (blind.verdict == "allow" and seeing.verdict != "allow"):
            if ONLY_A_CATALOG_TELLS.search(sql):
                exempt += 1
                assert any("could not be looked through" in note for note in blind.notes)
            else:
                looser[policy, sql] = (blind, seeing)
    assert not looser
    assert passed >= 1500
    assert exempt <= 50


# ------------------------------------------------------------------ spelling

_KEYWORD = re.compile(r"[A-Za-z_]+")
_COMMENTS = ("/**/", "/* ; DROP TABLE x */", "-- '\n", "/* /* nested */ */", "\n", "\t", "  ", "\r\n", "\f")


def tokens(sql: str) -> list[str]:
    """The text cut at its tokens; comments are left out."""
    return [
        sql[token.start : token.end + 1]
        for token in parser.scan(sql)
        if token.name not in ("SQL_COMMENT", "C_COMMENT")
    ]


def respelled(draw: st.DrawFn, sql: str) -> str:
    """The same statement with other case, comments, white space, and quoted where nothing changes by it."""
    parts = []
    for text in tokens(sql):
        piece = text
        if _KEYWORD.fullmatch(text):
            how = draw(st.sampled_from(["as is", "upper", "lower", "mixed"]))
            piece = {
                "as is": text,
                "upper": text.upper(),
                "lower": text.lower(),
                "mixed": "".join(c.upper() if i % 2 else c.lower() for i, c in enumerate(text)),
            }[how]
        gap = draw(st.sampled_from(_COMMENTS))
        # A minus and a comment behind it would be one comment, `---`.
        parts += [piece, " " if piece.endswith("-") else "", gap]
    return draw(st.sampled_from(["", "/* SELECT 1 */ ", "-- a comment\n", ";"])) + "".join(parts)


@st.composite
def respellings(draw: st.DrawFn) -> tuple[str, str, str]:
    """(profile, text, the same text spelled otherwise) of an ASCII statement of the rules' tables."""
    policy, sql = draw(st.sampled_from(SPELLABLE))
    return policy, sql, respelled(draw, sql)


SPELLABLE = [
    (policy, sql)
    for rule, cases in STOPPED.items()
    if rule != "parse_error"
    for policy, sql in cases
    # A string continued on the next line, or U& and its string, are one token in more than one piece.
    if sql.isascii() and "U&" not in sql and "%" not in sql
] + [("masked_rw", sql) for sql in ORDINARY if sql.isascii() and "U&" not in sql and "\n  '" not in sql]


@settings(max_examples=400)
@given(case=respellings())
def test_answer_does_not_depend_on_spelling(catalog: guarddb.Catalog, case: tuple[str, str, str]) -> None:
    """Case of keywords and names, comments, white space, leading semicolons: same verdict, same rule, same masks."""
    policy, sql, other = case
    for known in (catalog, None):
        first = guarddb.evaluate(sql, policy_of(policy), known)
        second = guarddb.evaluate(other, policy_of(policy), known)
        assert (second.verdict, second.rule) == (first.verdict, first.rule), other
        assert {(m.column.lower(), m.kind) for m in second.masked_columns} == {
            (m.column.lower(), m.kind) for m in first.masked_columns
        }
        assert second.row_filter_predicate == first.row_filter_predicate


def test_there_is_enough_to_spell() -> None:
    assert len(SPELLABLE) >= 900


QUOTED = [
    ("listed", "SELECT id FROM {}", "customers", "table_not_allowed"),
    ("denied", "SELECT id FROM {}", "employees", "table_denied"),
    ("denied", "SELECT id FROM public.{}", "employees", "table_denied"),
    ("masked", "SELECT upper({}) FROM customers", "ssn", "masked_column_expression"),
    ("masked", "SELECT id FROM customers WHERE {} = '1'", "ssn", "masked_column_predicate"),
    ("masked", "SELECT c.{} || '' FROM customers c", "ssn", "masked_column_expression"),
    ("masked", "SELECT id FROM customers ORDER BY {}", "ssn", "masked_column_predicate"),
    ("masked", "SELECT 1 FROM customers c JOIN customers d USING ({})", "ssn", "masked_column_predicate"),
    ("reader", "SELECT {}(0)", "pg_sleep", "forbidden_function"),
    ("reader", "SELECT pg_catalog.{}(0)", "pg_sleep", "forbidden_function"),
    ("reader", "SELECT {}(1)", "order_count", "function_not_allowed"),
    ("reader", "SELECT p.{} FROM products p", "full_price", "function_not_allowed"),
    ("writer", "SET {} = hr", "search_path", "search_path_change"),
    ("writer", "SET {} = 0", "statement_timeout", "protected_setting"),
    ("reader", "SELECT * FROM {}", "pg_authid", "table_not_allowed"),
    ("tenant", "SET app.{} = '2'", "tenant", "protected_setting"),
    ("masked_rw", "ALTER TABLE customers RENAME COLUMN {} TO x", "ssn", "masked_column_rename"),
    ("filtered_rw", "COPY {} FROM STDIN", "orders", "row_filter_unsafe"),
]


def spellings(name: str) -> list[str]:
    """The ways SQL has to write one identifier."""
    return [
        name,
        name.upper(),
        name.title(),
        f'"{name}"',
        f'U&"{name}"',
        'U&"' + "".join(f"\\{ord(c):04x}" for c in name) + '"',
        f'u&"\\{ord(name[0]):04x}{name[1:]}"',
        'U&"' + f"!{ord(name[0]):04x}{name[1:]}" + "\" UESCAPE '!'",
    ]


@pytest.mark.parametrize(("policy", "text", "name", "rule"), QUOTED)
def test_refusal_does_not_depend_on_quoting(
    catalog: guarddb.Catalog, policy: str, text: str, name: str, rule: str
) -> None:
    for spelling in spellings(name):
        sql = text.format(spelling)
        assert guarddb.evaluate(sql, policy_of(policy), catalog).rule == rule, sql
        assert guarddb.evaluate(sql, policy_of(policy)).blocked or ONLY_A_CATALOG_TELLS.search(
            text.format(name)
        ), sql


@settings(max_examples=300)
@given(
    sql=st.text(max_size=60)
    | st.sampled_from(ORDINARY).flatmap(lambda s: st.integers(0, len(s)).map(lambda n: s[:n]))
)
def test_evaluate_never_raises(catalog: guarddb.Catalog, sql: str) -> None:
    """Any text gets a decision; what is no statement is refused."""
    for known in (catalog, None):
        decision = guarddb.evaluate(sql, policy_of("full"), known)
        assert decision.verdict in ("allow", "block", "mask", "row-filter")
        assert decision.rule != "internal_error"
        assert decision.blocked == (decision.rule != "ok")
