"""Names in a profile: what an entry means, and that it errs to the safe side."""

from __future__ import annotations

import pytest

from guarddb.policy import FunctionPattern, PolicyError, RelationPattern, column_matches
from tests.searching import given, settings, st


def allows(entry: str, schema: str, name: str) -> bool:
    return RelationPattern.parse(entry).matches(schema, name, bare="public", strict=True)


def denies(entry: str, schema: str, name: str) -> bool:
    return RelationPattern.parse(entry).matches(schema, name, bare="any", strict=False)


def masks(entry: str, schema: str, name: str) -> bool:
    return RelationPattern.parse(entry).matches(schema, name, bare="public", strict=False)


def test_a_bare_allow_entry_is_in_public_only() -> None:
    assert allows("orders", "public", "orders")
    assert not allows("orders", "private", "orders")


def test_a_bare_deny_entry_is_in_every_schema() -> None:
    assert denies("orders", "public", "orders")
    assert denies("orders", "private", "orders")


def test_a_bare_mask_entry_is_in_public_only() -> None:
    assert masks("orders", "public", "Orders")
    assert not masks("orders", "private", "orders")


def test_an_allow_entry_admits_its_own_and_its_folded_spelling_only() -> None:
    assert allows("Orders", "public", "Orders")
    assert allows("Orders", "public", "orders")
    assert not allows("Orders", "public", "ORDERS")
    assert not allows("orders", "public", "Orders")


def test_a_restricting_entry_means_every_spelling() -> None:
    for name in ("orders", "Orders", "ORDERS"):
        assert denies("oRders", "S", name)
        assert denies("s.oRders", "S", name)


def test_a_restricting_entry_does_not_depend_on_unicode_normalisation() -> None:
    assert denies("caf\u00e9", "public", "cafe\u0301")
    assert denies("CAF\u00c9", "public", "caf\u00e9")
    assert not allows("caf\u00e9", "public", "cafe\u0301")


def test_a_quoted_part_is_its_exact_spelling() -> None:
    for matches in (allows, denies, masks):
        assert matches('"Orders"', "public", "Orders")
        assert not matches('"Orders"', "public", "orders")
        assert matches('"Weird"."Na.me"', "Weird", "Na.me")
        assert not matches('"Weird"."Na.me"', "weird", "Na.me")
        assert matches('"say ""hi"""', "public", 'say "hi"')
        assert matches('"*"', "public", "*")
        assert not matches('"*"', "public", "orders")


def test_a_star_is_every_relation_of_its_schema() -> None:
    assert allows("sales.*", "sales", "anything")
    assert not allows("sales.*", "public", "anything")
    assert denies("SALES.*", "sales", "anything")


@pytest.mark.parametrize(
    "entry",
    ["", " ", ".", "a.", ".a", "a..b", "a.b.c", "*", "*.a", "a.*.b", "a*", "a b", " a",
     '"a', 'a"b', '"a"b', '""', 'a.""',
     "a;b", "a%", "a?", "a(b)", "a.b ", "a\0", '"a\0"', "\ud800", '"\ud800"', "x" * 64,
     "é" * 32, "a\n", "a,b", "'a'"],
)  # fmt: skip
def test_what_is_no_name_is_refused_and_not_silently_unmatched(entry: str) -> None:
    with pytest.raises(PolicyError):
        RelationPattern.parse(entry)


@pytest.mark.parametrize(
    "entry", ["a", "a.b", "a.*", '"a"."b"', 'a."b c"', "my-table", "2024_orders", "größe", "a$b"]
)
def test_a_pattern_prints_as_it_is_written(entry: str) -> None:
    assert str(RelationPattern.parse(entry)) == entry
    assert RelationPattern.parse(str(RelationPattern.parse(entry))) == RelationPattern.parse(entry)


def test_function_entries() -> None:
    def allowed(entry: str, schema: str, name: str) -> bool:
        return FunctionPattern.parse(entry).matches(schema, name)

    assert allowed("f", "public", "f")
    assert not allowed("f", "other", "f")
    assert allowed("s.F", "s", "f")
    assert not allowed("s.f", "s", "F")
    assert allowed("s.*", "s", "g")
    assert allowed("*", "anything", "g")
    assert not allowed('"*"', "public", "g")


def test_the_built_in_functions_are_admitted_by_their_schema_only() -> None:
    assert not FunctionPattern.parse("*").matches("pg_catalog", "pg_sleep")
    assert not FunctionPattern.parse("nextval").matches("pg_catalog", "nextval")
    assert FunctionPattern.parse("pg_catalog.nextval").matches("pg_catalog", "nextval")
    assert FunctionPattern.parse("nextval").matches("pg_catalog", "nextval", bare=("public", "pg_catalog"))


@pytest.mark.parametrize("entry", ["", "f()", "f(int)", "a.b.c", "*.f", "**"])
def test_what_is_no_function_is_refused(entry: str) -> None:
    with pytest.raises(PolicyError):
        FunctionPattern.parse(entry)


def test_a_rule_on_a_column_means_every_spelling_unless_quoted() -> None:
    assert column_matches("Email", "email")
    assert column_matches("email", "EMAIL")
    assert column_matches('"Email"', "Email")
    assert not column_matches('"Email"', "email")
    assert not column_matches("email", "email2")


@pytest.mark.parametrize("column", ["", "*", "a.b", "a b", '"a'])
def test_what_is_no_column_is_refused(column: str) -> None:
    with pytest.raises(PolicyError):
        column_matches(column, "a")


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)


@settings()
@given(names, names)
def test_any_name_can_be_written_in_quotes_and_means_only_itself(schema: str, name: str) -> None:
    def quote(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    pattern = RelationPattern.parse(f"{quote(schema)}.{quote(name)}")
    assert pattern.matches(schema, name, bare="public", strict=True)
    assert not pattern.matches(schema, name + "x", bare="any", strict=False)
    assert RelationPattern.parse(str(pattern)) == pattern


@settings()
@given(st.text(max_size=20), names, names)
def test_what_an_entry_admits_it_also_restricts(entry: str, schema: str, name: str) -> None:
    try:
        pattern = RelationPattern.parse(entry)
    except PolicyError:
        return
    for relation in (name, entry, entry.lower()):
        if pattern.matches(schema, relation, bare="any", strict=True):
            assert pattern.matches(schema, relation, bare="any", strict=False)
    assert (
        pattern.name is None
        or pattern.matches("public", pattern.name.text, bare="public", strict=False)
        or pattern.schema
    )


@settings()
@given(st.text(st.sampled_from('ab.*" $-_é\0%'), max_size=10))
def test_parsing_raises_only_policy_errors(entry: str) -> None:
    for parse in (RelationPattern.parse, FunctionPattern.parse):
        try:
            parse(entry)
        except PolicyError:
            continue
