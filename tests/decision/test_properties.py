"""What holds for every profile and every statement: more policy lets less through, and the order of entries is no matter."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import pytest

import guarddb
from guarddb.decision import decide
from guarddb.decision.case import case_of
from guarddb.sql.analysis.classify import read_statement
from guarddb.sql.statement import Statement
from guarddb.tree import parse
from guarddb.vocabulary import FLOOR_RULES, KINDS
from tests.conformance.cases import every_statement
from tests.corpus import load_ordinary
from tests.searching import given, settings, st

STATEMENTS = sorted({sql for _, sql in every_statement()} | {case.sql for case in load_ordinary()})
TABLES = (
    "customers",
    "orders",
    "hr.orders",
    "employees",
    "settings",
    "measurements",
    "documents",
    "order_totals",
)
MASKS = (
    ("customers", "ssn"),
    ("customers", "email"),
    ("employees", "salary"),
    ("orders", "total"),
    ("settings", "value"),
)
FILTERS = (
    ("orders", "tenant_id = 1"),
    ("customers", "tenant_id = 1 AND active"),
    ("settings", "key <> 'theme'"),
    ("payments", "EXISTS (SELECT FROM orders o WHERE o.id = payments.order_id AND o.tenant_id = 1)"),
)


def some(values: tuple[Any, ...], most: int = 3) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(values), max_size=most, unique=True)


@st.composite
def profiles(draw: st.DrawFn) -> dict[str, Any]:
    """A profile with a bit of everything; often nothing of a thing."""
    kinds = draw(st.just([]) | st.just(list(KINDS)) | some(KINDS, 8))
    return {
        "name": "drawn",
        "access_mode": draw(st.sampled_from(["read_only", "read_write", "read_write"])),
        "statement_rules": {"allow": kinds, "deny": draw(st.just([]) | some(KINDS, 2))},
        "table_allowlist": draw(st.just([]) | some((*TABLES, "public.*", "hr.*"), 6)),
        "table_denylist": draw(st.just([]) | some(TABLES, 2)),
        "masking_rules": [
            {"table": table, "column": column, "kind": draw(st.sampled_from(["null", "redact", "hash"]))}
            for table, column in draw(st.just([]) | some(MASKS))
        ],
        "row_filters": [
            {"table": table, "predicate": predicate} for table, predicate in draw(st.just([]) | some(FILTERS))
        ],
        "max_rows": draw(st.sampled_from([0, 0, 5])),
        "guarddb": {
            "function_allowlist": draw(
                st.just([]) | some(("order_count", "public.*", "*", "pg_catalog.nextval"), 2)
            ),
            "floor_exceptions": draw(st.just([]) | some(FLOOR_RULES, 3)),
        },
    }


@st.composite
def stricter(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any], str]:
    """A profile, the same with one thing more that it forbids or one thing less that it allows, and which."""
    profile = draw(profiles())
    extension = profile["guarddb"]
    changes: dict[str, dict[str, Any]] = {
        "read only": {"access_mode": "read_only"},
        "deny": {
            "statement_rules": {
                **profile["statement_rules"],
                "deny": [*profile["statement_rules"]["deny"], draw(st.sampled_from(KINDS))],
            }
        },
        "denylist": {"table_denylist": [*profile["table_denylist"], draw(st.sampled_from(TABLES))]},
        "functions": {"guarddb": {**extension, "function_allowlist": extension["function_allowlist"][1:]}},
        "floor": {"guarddb": {**extension, "floor_exceptions": extension["floor_exceptions"][1:]}},
    }
    table, column = draw(st.sampled_from(MASKS))
    rule = {"table": table, "column": column, "kind": "null"}
    changes["mask"] = {"masking_rules": [*profile["masking_rules"], rule]}
    table, predicate = draw(st.sampled_from(FILTERS))
    row_filter = {"table": table, "predicate": predicate}
    changes["filter"] = {"row_filters": [*profile["row_filters"], row_filter]}
    if len(profile["table_allowlist"]) > 1:
        changes["allowlist"] = {"table_allowlist": profile["table_allowlist"][1:]}
    elif not profile["table_allowlist"]:
        changes["allowlist"] = {"table_allowlist": [draw(st.sampled_from(TABLES))]}
    if len(profile["statement_rules"]["allow"]) > 1:
        rules = profile["statement_rules"]
        changes["allow"] = {"statement_rules": {**rules, "allow": rules["allow"][1:]}}
    what = draw(st.sampled_from(sorted(changes)))
    return profile, {**profile, **changes[what]}, what


#: Each is twenty of about a thousand statements, so that most of them are met.
SLOW = settings(max_examples=70)
#: Under every profile lists of settings leave out what only superusers see, and pg_stat_activity what others run.
LISTS_SETTINGS = re.compile(r"show\s+all|pg_settings|current_setting|pg_stat_activity", re.IGNORECASE)
#: The corpus has texts of 100,000 characters, and some draw takes several.
LONG_TEXTS = pytest.mark.filterwarnings("ignore:Generating overly large repr")


@SLOW
@LONG_TEXTS
@given(pair=stricter(), statements=st.lists(st.sampled_from(STATEMENTS), min_size=20, max_size=20))
def test_more_policy_never_lets_more_through(
    catalog: guarddb.Catalog, pair: tuple[dict[str, Any], dict[str, Any], str], statements: list[str]
) -> None:
    # Read once: a document would be read again for every statement.
    loose, strict = (guarddb.PolicyProfile.model_validate(document) for document in pair[:2])
    for sql in statements:
        for known in (catalog, None):
            if guarddb.evaluate(sql, loose, known).blocked:
                assert guarddb.evaluate(sql, strict, known).blocked, sql


@SLOW
@LONG_TEXTS
@given(profile=profiles(), statements=st.lists(st.sampled_from(STATEMENTS), min_size=20, max_size=20))
def test_no_profile_and_no_statement_make_the_engine_fail(
    catalog: guarddb.Catalog, profile: dict[str, Any], statements: list[str]
) -> None:
    policy = guarddb.PolicyProfile.model_validate(profile)
    for sql in statements:
        for known in (catalog, None):
            decision = guarddb.evaluate(sql, policy, known)
            assert decision.rule != "internal_error", sql
            assert decision.blocked == (decision.rule != "ok") == (decision.hint is not None), sql
            if decision.blocked:
                assert not decision.masked_columns
                assert decision.rewritten_sql is None
            elif (
                decision.rewritten_sql is not None
                and decision.verdict == "allow"
                and not profile["max_rows"]
                and LISTS_SETTINGS.search(sql) is None
            ):
                assert decision.rewritten_sql == sql


@SLOW
@LONG_TEXTS
@given(
    profile=profiles(),
    statements=st.lists(st.sampled_from(STATEMENTS), min_size=10, max_size=10),
    data=st.data(),
)
def test_order_of_entries_is_no_matter(
    catalog: guarddb.Catalog, profile: dict[str, Any], statements: list[str], data: st.DataObject
) -> None:
    other = dict(profile)
    for field in ("table_allowlist", "table_denylist", "masking_rules", "row_filters"):
        other[field] = data.draw(st.permutations(profile[field]))
    policies = [guarddb.PolicyProfile.model_validate(document) for document in (profile, other)]
    for sql in statements:
        first, second = (guarddb.evaluate(sql, policy, catalog) for policy in policies)
        assert (first.verdict, first.rule) == (second.verdict, second.rule), sql
        assert set(first.masked_columns) == set(second.masked_columns), sql


@SLOW
@LONG_TEXTS
@given(profile=profiles(), statements=st.lists(st.sampled_from(STATEMENTS), min_size=20, max_size=20))
def test_rules_about_changes_have_nothing_to_say_of_plain_queries(
    catalog: guarddb.Catalog, profile: dict[str, Any], statements: list[str]
) -> None:
    document = {**profile, "max_affected_rows": 1, "write_mode": "sandbox"}
    policy = decide.compile_policy(guarddb.PolicyProfile.model_validate(document))
    for sql in statements:
        for known in (catalog, None):
            read: list[Statement] = []
            with contextlib.suppress(Exception):  # (what cannot be read is refused before any rule)
                read = [read_statement(raw, known, {"prepared": {}, "portals": {}}) for raw in parse(sql)]
            for case in (case_of(each, policy, known) for each in read if decide.is_plain(each)):
                assert [rule for rule in decide.ABOUT_CHANGES if rule(case) is not None] == [], sql
