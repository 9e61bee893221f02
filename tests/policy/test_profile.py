"""The profile's fields: what is accepted, what is refused, and how a refusal reads."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

import guarddb
from guarddb.policy import (
    GuarddbExtension,
    MaskingRule,
    MaskUse,
    PolicyError,
    PolicyProfile,
    RowFilter,
    StatementRules,
    json_schema,
)
from guarddb.vocabulary import FLOOR_RULES, KINDS, MASK_KINDS
from tests.searching import given, settings, st

RICH: dict[str, Any] = {
    "name": "rich",
    "access_mode": "read_write",
    "statement_rules": {"allow": ["select", "insert"], "deny": ["copy"]},
    "table_allowlist": ["orders", "sales.*"],
    "table_denylist": ["secrets"],
    "masking_rules": [{"table": "users", "column": "email", "kind": "hash"}],
    "row_filters": [{"table": "orders", "predicate": "tenant_id = current_setting('App.Tenant')::int"}],
    "budget_queries_per_hour": 10,
    "budget_queries_per_day": 100,
    "max_rows": 5,
    "statement_timeout_ms": 1000,
    "egress_bytes_per_day": 2**63 - 1,
    "guarddb": {
        "function_allowlist": ["f", "s.*", "*"],
        "floor_exceptions": ["whereless_write"],
        "mask_uses": [{"table": "users", "column": "email", "allow": ["join", "group"]}],
        "hash_key_env": "HASH_KEY",
        "settings": {"App.Tenant": 42},
    },
    "id": "pol_1",
    "project_id": "prj_1",
    "created_at": "2024-05-01T10:00:00Z",
    "updated_at": "2024-05-01T10:00:00+02:00",
}


def problem(**fields: Any) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        PolicyProfile(**{"name": "p", **fields})
    return caught.value


def test_only_the_name_is_required_and_the_rest_has_its_documented_default() -> None:
    assert PolicyProfile(name="p").model_dump() == {
        "name": "p",
        "access_mode": "read_only",
        "statement_rules": {"allow": (), "deny": ()},
        "table_allowlist": (),
        "table_denylist": (),
        "masking_rules": (),
        "row_filters": (),
        "budget_queries_per_hour": 0,
        "budget_queries_per_day": 0,
        "max_rows": 0,
        "statement_timeout_ms": 0,
        "egress_bytes_per_day": 0,
        "write_mode": "normal",
        "approval_mode": "off",
        "approval_auto_max_rows": 0,
        "approval_timeout_seconds": 300,
        "migration_safety": "off",
        "max_affected_rows": 0,
        "content_scan_mode": "off",
        "content_scan_max_bytes": 0,
        "guarddb": {
            "function_allowlist": (),
            "floor_exceptions": (),
            "function_groups": (),
            "may_change": (),
            "on_unknown": "refuse",
            "wall": None,
            "without_wall": "refuse",
            "without_budget_store": "refuse",
            "mask_uses": (),
            "hash_key_env": None,
            "redact_nulls": False,
            "cancel_running": False,
            "content_scan_extra": (),
            "settings": {},
        },
        "id": None,
        "project_id": None,
        "created_at": None,
        "updated_at": None,
    }


def test_a_profile_with_every_field_survives_a_round_trip() -> None:
    profile = PolicyProfile(**RICH)
    assert PolicyProfile.model_validate_json(profile.model_dump_json()) == profile
    assert PolicyProfile(**profile.model_dump()) == profile
    assert pickle.loads(pickle.dumps(profile)) == profile
    assert copy.deepcopy(profile) == profile
    assert hash(PolicyProfile(**RICH)) == hash(profile)


def test_null_stands_for_the_default() -> None:
    nulls = {**dict.fromkeys(PolicyProfile.model_fields), "name": "p"}
    assert PolicyProfile(**nulls) == PolicyProfile(name="p")
    assert StatementRules(allow=None) == StatementRules()
    assert GuarddbExtension(**dict.fromkeys(GuarddbExtension.model_fields)) == GuarddbExtension()


@pytest.mark.parametrize("value", [0, 1, "yes", "true", 1.0, []])
def test_a_switch_is_true_or_false_and_nothing_that_stands_for_it(value: Any) -> None:
    for name in ("redact_nulls", "cancel_running"):
        assert f"guarddb.{name}: must be true or false" in str(problem(guarddb={name: value}))


def test_a_required_field_cannot_be_null() -> None:
    assert "name: must be a text; it is null." in str(problem(name=None))


def test_a_null_mask_kind_is_the_mask_null() -> None:
    # What YAML makes of `kind: null`.
    assert MaskingRule(table="t", column="c", kind=None).kind == "null"


@pytest.mark.parametrize("kind", MASK_KINDS)
def test_every_mask_kind_is_accepted(kind: str) -> None:
    assert MaskingRule(table="t", column="c", kind=kind).kind == kind


@pytest.mark.parametrize("kind", KINDS)
def test_every_statement_kind_is_accepted(kind: str) -> None:
    assert StatementRules(allow=[kind], deny=(kind,)).deny == (kind,)


@pytest.mark.parametrize("rule", FLOOR_RULES)
def test_every_rule_of_the_floor_can_be_excepted(rule: str) -> None:
    assert GuarddbExtension(floor_exceptions=[rule]).floor_exceptions == (rule,)


@pytest.mark.parametrize("rule", ["locking_select", "read_only", "ok", "", 1, None, ["whereless_write"]])
def test_no_other_rule_can_be_excepted(rule: object) -> None:
    error = problem(guarddb={"floor_exceptions": [rule]})
    assert error.path == "guarddb.floor_exceptions[0]"
    assert '"whereless_write"' in str(error)


@pytest.mark.parametrize(
    ("fields", "path", "words"),
    [
        ({"masking_rules": [{"table": "t", "column": "c", "kind": "x"}]},
         "masking_rules[0].kind", '"redact"'),
        ({"masking_rules": [{"table": "t", "column": "c"}]}, "masking_rules[0].kind", "required"),
        ({"masking_rules": [{"table": "t", "column": "a.b", "kind": "null"}]},
         "masking_rules[0].column", "alone"),
        ({"masking_rules": {"table": "t"}}, "masking_rules", "must be a list"),
        ({"masking_rules": ["t"]}, "masking_rules[0]", "must be a mapping"),
        ({"masking_rules": [{1: 2}]}, "masking_rules[0]", "not a text"),
        ({"row_filters": [{"table": "t", "predicate": "a ="}]}, "row_filters[0].predicate", "not an SQL"),
        ({"row_filters": [{"table": "a.b.c", "predicate": "a"}]}, "row_filters[0].table", "3 parts"),
        ({"table_allowlist": "orders"}, "table_allowlist", 'must be a list; it is "orders"'),
        ({"table_allowlist": ["ok", "a.b.c"]}, "table_allowlist[1]", "3 parts"),
        ({"table_denylist": [""]}, "table_denylist[0]", "empty"),
        ({"table_denylist": ["*"]}, "table_denylist[0]", "schema.*"),
        ({"table_denylist": [5]}, "table_denylist[0]", "must be a text; it is 5"),
        ({"access_mode": "write"}, "access_mode", '"read_only", "read_write"'),
        ({"statement_rules": {"allow": ["merge"]}}, "statement_rules.allow[0]", '"select"'),
        ({"statement_rules": ["select"]}, "statement_rules", "must be a mapping"),
        ({"max_rows": "5"}, "max_rows", 'must be a whole number; it is "5"'),
        ({"max_rows": True}, "max_rows", "must be a whole number; it is true"),
        ({"max_rows": 5.0}, "max_rows", "must be a whole number"),
        ({"max_rows": -1}, "max_rows", "at least 0"),
        ({"egress_bytes_per_day": 2**63}, "egress_bytes_per_day", "at most 9223372036854775807"),
        ({"statement_timeout_ms": 2**31}, "statement_timeout_ms", "at most 2147483647"),
        ({"name": ""}, "name", "at least 1 character"),
        ({"name": "x" * 129}, "name", "at most 128 characters"),
        ({"name": b"bytes"}, "name", "must be a text"),
        ({"name": "a\nb"}, "name", "control characters"),
        ({"name": "a\ud800"}, "name", "Unicode"),
        ({"id": "x"}, "id", "^pol_"),
        ({"project_id": "pol_1"}, "project_id", "^prj_"),
        ({"created_at": "yesterday"}, "created_at", "RFC 3339"),
        ({"created_at": "2024-05-01T10:00:00"}, "created_at", "RFC 3339"),
        ({"updated_at": 1714557600}, "updated_at", "RFC 3339"),
        ({"guarddb": {"hash_key_env": "no-dashes"}}, "guarddb.hash_key_env", "environment variable"),
        ({"guarddb": {"function_allowlist": ["f(int)"]}},
         "guarddb.function_allowlist[0]", "without its"),
        ({"guarddb": {"mask_uses": [{"table": "t", "column": "c"}]}},
         "guarddb.mask_uses[0].allow", "required"),
        ({"guarddb": {"settings": {"a b": 1}}}, "guarddb.settings.a b", "not the name"),
        ({"guarddb": {"settings": {"a.b": [1]}}}, "guarddb.settings.a.b", "must be a text"),
        ({"guarddb": {"settings": {"a.b": float("nan")}}}, "guarddb.settings.a.b", "finite"),
        ({"guarddb": {"settings": {"A.b": 1, "a.B": 2}}}, "guarddb.settings.a.b", "twice"),
        ({"guarddb": {"settings": {"Search_Path": "x"}}}, "guarddb.settings.Search_Path", "guarddb itself"),
        ({"guarddb": {"settings": []}}, "guarddb.settings", "must be a mapping"),
    ],
)  # fmt: skip
def test_a_bad_field_is_named_by_its_path(fields: dict[str, Any], path: str, words: str) -> None:
    error = problem(**fields)
    assert error.path == path
    assert words in str(error)
    assert str(error).startswith(f"{path}: ")
    assert "pydantic" not in str(error).lower()
    assert "\n" not in str(error)


def test_all_problems_are_told_at_once() -> None:
    error = problem(max_rows=-1, table_allowlist=["a.b.c"])
    assert [path for path, _ in error.problems] == ["table_allowlist[0]", "max_rows"]


def test_a_long_list_of_problems_is_cut_in_the_message_only() -> None:
    error = problem(table_allowlist=[""] * 1000)
    assert len(error.problems) == 1000
    assert "980 more problems" in str(error)


@pytest.mark.parametrize(
    ("fields", "path", "near", "listed"),
    [
        ({"masking_rule": []}, "masking_rule", '"masking_rules"', "max_rows"),
        ({"guarddb": {"setting": {}}}, "guarddb.setting", '"settings"', "mask_uses"),
        (
            {"row_filters": [{"table": "t", "predicat": "a"}]},
            "row_filters[0].predicat",
            '"predicate"',
            "table",
        ),
        ({"guarddb": {"mask_uses": [{"alow": []}]}}, "guarddb.mask_uses[0].alow", '"allow"', "column"),
        ({"statement_rules": {"alow": []}}, "statement_rules.alow", '"allow"', "deny"),
    ],
)
def test_an_unknown_field_is_refused_with_the_nearest_known_one(
    fields: dict[str, Any], path: str, near: str, listed: str
) -> None:
    message = dict(problem(**fields).problems)[path]
    assert f"did you mean {near}?" in message
    assert listed in message


def test_an_unknown_field_like_no_other_lists_what_is_allowed() -> None:
    with pytest.raises(PolicyError) as caught:
        StatementRules(zzz=1)
    assert str(caught.value) == "zzz: is not a field of statement_rules; allowed there: allow, deny."


def test_the_parts_of_a_profile_raise_policy_errors_too() -> None:
    for build in (
        lambda: MaskingRule(table="t"),
        lambda: RowFilter(table="t", predicate="1"),
        lambda: StatementRules(allow=["x"]),
        lambda: MaskUse(table="t", column="c", allow=["x"]),
        lambda: GuarddbExtension(hash_key_env=""),
        lambda: PolicyProfile.model_validate([]),
        lambda: PolicyProfile.model_validate_json("{"),
        lambda: PolicyProfile.draft({"max_rows": -1}),
    ):
        with pytest.raises(PolicyError) as caught:
            build()
        assert caught.value.__cause__ is None


def test_parts_may_be_models_or_mappings() -> None:
    rule = {"table": "t", "column": "c", "kind": "hash"}
    assert PolicyProfile(name="p", masking_rules=[MaskingRule(**rule)]) == PolicyProfile(
        name="p", masking_rules=[rule]
    )


def test_a_draft_may_lack_its_name() -> None:
    assert PolicyProfile.draft({"max_rows": 1}).name == "draft"
    assert PolicyProfile.draft({"name": None}).name == "draft"
    assert PolicyProfile.draft({"name": "x"}).name == "x"


def test_settings_become_text_under_lower_case_names() -> None:
    extension = GuarddbExtension(settings={"App.Tenant": 42, "a": True, "b": 1.5, "c.d": "x"})
    assert extension.settings == {"app.tenant": "42", "a": "true", "b": "1.5", "c.d": "x"}


def test_a_profile_cannot_be_changed() -> None:
    profile = PolicyProfile(**RICH)
    with pytest.raises(ValueError, match="frozen"):
        profile.max_rows = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        profile.guarddb.settings["app.tenant"] = "1"
    with pytest.raises(TypeError):
        profile.guarddb.settings.update(a="1")
    with pytest.raises(TypeError):
        profile.guarddb.settings |= {"a": "1"}


def test_a_copy_with_changes_is_checked_and_compiled_anew() -> None:
    profile = PolicyProfile(name="p", table_allowlist=["a"])
    assert str(profile.allow_patterns[0]) == "a"
    changed = profile.model_copy(update={"table_allowlist": ["b"]})
    assert [str(pattern) for pattern in changed.allow_patterns] == ["b"]
    with pytest.raises(PolicyError):
        profile.model_copy(update={"max_rows": -1})
    assert profile.model_copy() == profile


def test_compiled_views_do_not_show_in_equality_or_serialisation() -> None:
    used, fresh = PolicyProfile(**RICH), PolicyProfile(**RICH)
    views = (used.allow_patterns, used.deny_patterns, used.masks, used.filters, used.function_patterns)
    assert all(views)
    assert used.mask_use_patterns[0][1].allow == ("join", "group")
    assert used.filter_settings == {"app.tenant"}
    assert used == fresh
    assert used.model_dump() == fresh.model_dump()
    assert used.version == fresh.version


def test_the_version_changes_with_the_content_and_not_with_its_order() -> None:
    base = PolicyProfile(**RICH)
    assert PolicyProfile(**dict(reversed(RICH.items()))).version == base.version
    assert base.model_copy(update={"max_rows": 6}).version != base.version
    assert len(base.version) == 12


def test_two_filters_on_one_table_are_both_kept() -> None:
    rules = [{"table": "t", "predicate": "a"}, {"table": "t", "predicate": "b"}]
    assert [p.text for _, p in PolicyProfile(name="p", row_filters=rules).filters] == ["a", "b"]


def test_an_error_can_be_pickled_and_keeps_its_problems() -> None:
    error = problem(max_rows=-1)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.path, again.problems) == (str(error), error.path, error.problems)


def test_the_json_schema_describes_every_field() -> None:
    schema = json_schema()
    json.dumps(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["required"] == ["name"]
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(PolicyProfile.model_fields)
    for model in (schema, *schema["$defs"].values()):
        for name, field in model["properties"].items():
            assert field.get("description"), name


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings()
@given(
    st.dictionaries(st.sampled_from(sorted(PolicyProfile.model_fields)) | st.text(max_size=8), json_values)
)
def test_no_document_raises_anything_but_policy_error(document: dict[str, Any]) -> None:
    try:
        profile = PolicyProfile.draft(document)
    except PolicyError:
        return
    assert PolicyProfile.model_validate_json(profile.model_dump_json()) == profile


@settings()
@given(json_values)
def test_no_extension_raises_anything_but_policy_error(value: object) -> None:
    for name in ("guarddb", "masking_rules", "row_filters", "statement_rules"):
        with contextlib.suppress(PolicyError):
            PolicyProfile.model_validate({"name": "p", name: value})


NOTHING_FORBIDDEN: dict[str, Any] = {
    "name": "open",
    "access_mode": "read_write",
    "statement_rules": {"allow": list(KINDS)},
    "guarddb": {"floor_exceptions": list(FLOOR_RULES)},
}


def test_forbids_nothing_only_when_everything_is_open() -> None:
    assert PolicyProfile(**NOTHING_FORBIDDEN).forbids_nothing
    assert PolicyProfile(
        **{
            **NOTHING_FORBIDDEN,
            "id": "pol_1",
            "approval_timeout_seconds": 0,
            "guarddb": {**NOTHING_FORBIDDEN["guarddb"], "function_allowlist": ["*"]},
        }
    ).forbids_nothing
    for field in NOTHING_FORBIDDEN.keys() - {"name"}:
        assert not PolicyProfile(**{k: v for k, v in NOTHING_FORBIDDEN.items() if k != field}).forbids_nothing


@pytest.mark.parametrize(
    "field",
    [
        {"statement_rules": {"allow": list(KINDS)[1:]}},
        {"statement_rules": {"allow": list(KINDS), "deny": ["other"]}},
        {"guarddb": {"floor_exceptions": list(FLOOR_RULES)[1:]}},
        {"access_mode": "read_only"},
        {"table_allowlist": ["public.*"]},
        {"table_denylist": ["a"]},
        {"masking_rules": [{"table": "a", "column": "b", "kind": "null"}]},
        {"row_filters": [{"table": "a", "predicate": "b"}]},
        {"budget_queries_per_hour": 1},
        {"budget_queries_per_day": 1},
        {"max_rows": 1},
        {"statement_timeout_ms": 1},
        {"egress_bytes_per_day": 1},
        {"guarddb": {**NOTHING_FORBIDDEN["guarddb"], "wall": "sales_wall"}},
    ],
    ids=str,
)
def test_forbids_something_with_any_field_set(field: dict[str, Any]) -> None:
    assert not PolicyProfile(**{**NOTHING_FORBIDDEN, **field}).forbids_nothing


#: What the profile keeps for whoever stores it, and no rule asks for.
STORED = {"id", "project_id", "created_at", "updated_at"}


def test_every_field_is_read_by_something() -> None:
    package = Path(guarddb.__file__).parent
    fields = {*PolicyProfile.model_fields, *GuarddbExtension.model_fields} - STORED
    text = "\n".join(
        path.read_text(encoding="utf-8")
        for path in sorted(package.rglob("*.py"))
        if path.relative_to(package).as_posix() != "policy/profile.py"
    )
    own = (package / "policy" / "profile.py").read_text(encoding="utf-8")
    for field in fields:
        assert re.search(rf"\.{field}\b", text) or re.search(rf"self\.{field}\b", own), field
