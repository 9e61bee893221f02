"""Row-filter predicates: one boolean expression, whose meaning does not depend on where it is put."""

from __future__ import annotations

import pytest

from guarddb.policy import PolicyError, Predicate, RelationPattern, RowFilter, parse_predicate
from guarddb.tree import nodes, parse
from tests.searching import example, given, settings, st

TABLE = RelationPattern.parse("orders")


def check(text: str, table: str = "orders") -> Predicate:
    return parse_predicate(text, RelationPattern.parse(table))


@pytest.mark.parametrize(
    "text",
    [
        "true",
        "tenant_id = 1",
        "orders.tenant_id = 1",
        "ORDERS.tenant_id = 1",
        '"orders".tenant_id = 1',
        "active",
        "NOT deleted",
        "a IN (1, 2) OR b BETWEEN 1 AND 2",
        "a @> '{}' AND a ? 'b'",
        "a::bool",
        "(address).city = 'x'",
        "coalesce(a, false)",
        "CASE WHEN a THEN b END",
        "'--' = a AND b = '/* '",
        "$$;$$ = a",
        "EXISTS (SELECT * FROM m WHERE m.id = orders.m_id)",
        "a > (SELECT avg(x) FROM y)",
        "a IN (SELECT rank() OVER () FROM y)",
        "a = ANY (ARRAY(SELECT count(*) FROM y))",
        "é = 'ü'",
    ],
)
def test_a_boolean_expression_is_kept_as_it_is_written(text: str) -> None:
    assert check(text).text == text


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a = 1;", "a = 1"),
        ("a = 1 ;; -- done", "a = 1"),
        ("  a = 1 -- c", "a = 1"),
        ("a = 1 --", "a = 1"),
        ("a = 1 /* c */", "a = 1"),
        ("/* c */ a = /* ; */ 1", "a =   1"),
        ("a -- c\n = 1", "a  \n = 1"),
    ],
)
def test_comments_and_a_last_semicolon_are_dropped(text: str, kept: str) -> None:
    assert check(text).text == kept


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        (" -- only a comment", "is empty"),
        ("true) OR (true", "not an SQL expression"),
        ("(true", "not an SQL expression"),
        ("(true) --\n)", "not an SQL expression"),
        ("a = 'x", "not an SQL expression"),
        ("a /* x", "not an SQL expression"),
        ("a = 1\0", "NUL"),
        ("a = '\ud800'", "Unicode"),
        ("a; b", "not an SQL expression"),
        ("a; SELECT 1", "2 statements"),
        ("a; DROP TABLE x", "2 statements"),
        ("a, b", "2 expressions"),
        ("a AS b", "output name"),
        ("a b", "output name"),
        ("ALL a", "parentheses"),
        ("DISTINCT a", "DISTINCT"),
        ("true FROM x", "FROM"),
        ("FROM x", "FROM"),
        ("true WHERE false", "WHERE"),
        ("true LIMIT 1", "LIMIT"),
        ("true ORDER BY 1", "ORDER BY"),
        ("true FOR UPDATE", "locking"),
        ("true INTO x", "INTO"),
        ("a UNION SELECT true", "UNION"),
        ("*", "holds a *"),
        ("orders.*", "holds a *"),
        ("(orders).*", "holds a *"),
        ("f(orders.*)", "holds a *"),
        ("a = $1", "parameter"),
        ("EXISTS (SELECT $1)", "parameter"),
        ("count(*) > 1", "aggregate count()"),
        ("sum(a) > 1", "aggregate sum()"),
        ("pg_catalog.max(a) > 1", "aggregate pg_catalog.max()"),
        ("generate_series(1, 2) = a", "generate_series(), which gives many rows"),
        ("a = 1 OR pg_catalog.unnest(tags) = 'x'", "many rows"),
        ("my_agg(DISTINCT a) > 1", "aggregate"),
        ("my_agg(a) FILTER (WHERE b) > 1", "aggregate"),
        ("my_agg(a ORDER BY b) > 1", "aggregate"),
        ("my_agg() WITHIN GROUP (ORDER BY b) > 1", "aggregate"),
        ("json_arrayagg(a) IS NULL", "aggregate"),
        ("grouping(a) = 1", "aggregate"),
        ("sum(a) OVER () > 1", "window function"),
        ("row_number() = 1", "window function"),
        ("sum(a) IN (SELECT 1)", "aggregate"),
        ("EXISTS (WITH x AS (DELETE FROM y RETURNING *) SELECT FROM x)", "writes data"),
        ("EXISTS (WITH x AS (UPDATE y SET a = 1 RETURNING *) SELECT FROM x)", "writes data"),
        ("EXISTS (WITH x AS (INSERT INTO y DEFAULT VALUES RETURNING *) SELECT FROM x)", "writes data"),
        ("EXISTS (SELECT FROM x FOR SHARE)", "locks rows"),
        ("EXISTS (SELECT 1 INTO x)", "SELECT INTO"),
        ("1", "constant"),
        ("'x'", "constant"),
        ("NULL", "constant"),
        ("1.5", "constant"),
        ("a AND 'x'", "constant"),
        ("NOT 1", "constant"),
        ("a + 1", "operator +"),
        ("a ->> 'x'", "operator ->>"),
        ("a::int", "cast"),
        ("a::bool[]", "cast"),
        ("a COLLATE \"C\"", "a text"),
        ("ARRAY[true]", "an array"),
        ("ARRAY(SELECT true)", "an array"),
        ("ROW(a)", "a row"),
        ("current_user", "a value"),
        ("DEFAULT", "DEFAULT"),
        ("public.orders.a = 1", 'write "orders.a"'),
        ("EXISTS (SELECT FROM m WHERE m.a = public.orders.a)", 'write "orders.a"'),
        ("o.a = 1", "the filter is on orders"),
        ("current_setting(a) = 'x'", "plain literal"),
        ("current_setting('a' || 'b') = 'x'", "plain literal"),
        ("current_setting('a.b'::text) = 'x'", "plain literal"),
        ("current_setting() = 'x'", "plain literal"),
        ("current_setting('a.b', b) = 'x'", "second argument"),
        ("current_setting('a b') = 'x'", "not the name of a setting"),
        ("current_setting('') = 'x'", "not the name of a setting"),
        ("EXISTS (SELECT current_setting(a) FROM m)", "plain literal"),
        ("('a.b'::text).current_setting = 'x'", "attribute notation"),
        ("set_config('a.b', 'x', true) = 'x'", "set_config"),
        ("EXISTS (SELECT pg_catalog.set_config('a.b', 'x', true))", "set_config"),
        ("a = 1" + " AND a = 1" * 3000, "characters; the limit"),
    ],
)  # fmt: skip
def test_what_is_not_one_sound_boolean_expression_is_refused(text: str, words: str) -> None:
    with pytest.raises(PolicyError) as caught:
        check(text)
    assert words in str(caught.value)


def test_a_syntax_error_says_where_in_the_predicate() -> None:
    with pytest.raises(PolicyError, match=r"\(character 5\)"):
        check("a = = 1")


def test_a_quoted_table_is_named_by_its_exact_spelling() -> None:
    assert check('"Orders".a = 1', '"Orders"').text
    with pytest.raises(PolicyError):
        check("Orders.a = 1", '"Orders"')


def test_a_filter_on_a_schema_names_its_columns_alone() -> None:
    assert check("tenant_id = 1", "sales.*").text
    with pytest.raises(PolicyError, match="names its columns alone"):
        check("orders.tenant_id = 1", "sales.*")


def test_the_settings_read_are_known_in_lower_case() -> None:
    predicate = check(
        "a = current_setting('App.Tenant') AND "
        "EXISTS (SELECT FROM m WHERE m.b = pg_catalog.current_setting('x.Y', true))"
    )
    assert predicate.settings == {"app.tenant", "x.y"}
    assert check("a = other.current_setting(b)").settings == frozenset()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a = 1", False), ("a IN (1)", False), ("a IN (SELECT 1)", True), ("EXISTS (SELECT 1)", True),
     ("JSON_ARRAY(SELECT 1) IS NULL", True)],
)  # fmt: skip
def test_a_sub_select_is_noticed(text: str, expected: bool) -> None:
    assert check(text).has_sublink is expected


def test_offsets_in_the_tree_are_bytes_into_the_text() -> None:
    predicate = check("/* ü */ é = 'ü' AND orders.b IN (1, 2) -- c")
    text = predicate.text.encode()
    columns = [node["location"] for name, node in nodes(predicate.tree) if name == "ColumnRef"]
    assert [text[at:].split()[0].decode() for at in columns] == ["é", "orders.b"]
    (row,) = [node for name, node in nodes(predicate.tree) if name == "A_Expr" and node["kind"] == "AEXPR_IN"]
    assert text[row["rexpr_list_start"] : row["rexpr_list_end"] + 1] == b"(1, 2)"


def test_equal_predicates_are_equal_whatever_table_they_are_on() -> None:
    assert check("a = 1") == check("a = 1;", "other")
    assert hash(check("a = 1")) == hash(check("a = 1;"))


def test_a_bad_predicate_is_named_in_its_filter() -> None:
    with pytest.raises(PolicyError) as caught:
        RowFilter(table="orders", predicate="a = $1")
    assert caught.value.path == "predicate"


FRAGMENTS = """a orders.a = 1 'x' AND OR NOT ( ) , ; -- /* */ * SELECT FROM m EXISTS IN $1 count(*)
    current_setting('a.b') ::bool true NULL UNION WHERE AS $$ " ' ALL CASE WHEN END . [ ] E'\\' INTO
    é""".split()  # noqa: SIM905


@settings()
@given(st.text(max_size=40) | st.lists(st.sampled_from([*FRAGMENTS, "\n"]), max_size=12).map(" ".join))
@example("a --")
@example("a = 'x' -- c\n 'y'")
def test_any_text_is_refused_or_means_the_same_between_parentheses(text: str) -> None:
    try:
        predicate = parse_predicate(text, TABLE)
    except PolicyError:
        return
    # What follows on the same line stays outside: nothing of the agent's is swallowed, nothing of ours
    # dropped.
    (statement,) = parse(f"SELECT 1 FROM orders WHERE ({predicate.text}) AND (mine)")
    where = statement["stmt"]["SelectStmt"]["whereClause"]["BoolExpr"]
    assert where["boolop"] == "AND_EXPR"
    assert where["args"][-1]["ColumnRef"]["fields"] == [{"String": {"sval": "mine"}}]
    assert parse_predicate(predicate.text, TABLE) == predicate
