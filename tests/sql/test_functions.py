"""The facts are what real servers say, and the floor's decisions follow from them."""

from __future__ import annotations

import re

import psycopg
import pytest

from guarddb.facts import functions
from guarddb.facts.groups import GROUPS
from guarddb.facts.system_relations import (
    CLOSED,
    RESTRICTED,
    closed_columns,
    is_restricted_relation,
)

SERVERS = ["server_dsn", "server16_dsn"]


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    dsn: str = request.getfixturevalue(request.param)
    return dsn


def test_facts_know_every_overload_of_the_running_server(server: str) -> None:
    with psycopg.connect(server, autocommit=True) as conn:
        major = conn.info.server_version // 10000
        rows = conn.execute(
            "SELECT proname, ARRAY(SELECT typname FROM unnest(proargtypes) WITH ORDINALITY AS a (t, n) JOIN"
            " pg_type ON pg_type.oid = a.t ORDER BY n), prokind, proretset, provolatile"
            " FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND oid < 16384"
        ).fetchall()
    live = {(name, tuple(arguments), kind, set_) for name, arguments, kind, set_, _ in rows}
    known = {
        (name, each.arguments, each.kind, each.returns_set)
        for name, overloads in functions.facts().functions.items()
        for each in overloads
        if not each.majors or major in each.majors
    }
    assert known == live
    volatility = {
        (name, each.arguments): each.volatility
        for name, overloads in functions.facts().functions.items()
        for each in overloads
    }
    # Between versions the worst volatility is kept: the facts may be stricter than one server, never laxer.
    assert not [row for row in rows if "isv".index(volatility[row[0], tuple(row[1])]) < "isv".index(row[4])]


def test_facts_know_every_operator_type_and_system_relation(server: str) -> None:
    with psycopg.connect(server, autocommit=True) as conn:
        operators = conn.execute(
            "SELECT oprname, l.typname, r.typname, t.typname FROM pg_operator"
            " LEFT JOIN pg_type l ON l.oid = oprleft JOIN pg_type r ON r.oid = oprright"
            " JOIN pg_type t ON t.oid = oprresult WHERE pg_operator.oid < 16384"
        ).fetchall()
        types = conn.execute(
            "SELECT typname, typcategory, typtype FROM pg_type"
            " WHERE typnamespace = 'pg_catalog'::regnamespace AND typrelid = 0 AND typname !~ '^_(pg|sql)_'"
        ).fetchall()
        columns = conn.execute(
            "SELECT nspname, relname, attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid"
            " JOIN pg_namespace n ON n.oid = relnamespace"
            " WHERE nspname IN ('pg_catalog', 'information_schema') AND relkind IN ('r', 'v') AND attnum > 0"
        ).fetchall()
    for name, left, right, result in operators:
        assert (left, right, result) in {
            (o.left, o.right, o.result) for o in functions.builtin_operator(name)
        }
    for name, category, kind in types:
        known = functions.builtin_type(name)
        if known is None:  # the array over a system table's row type
            assert name.startswith("_pg_")
            continue
        assert (known.category, known.kind) == (category, kind)
    for schema, relation, column in columns:
        found = functions.system_relation(schema, relation)
        assert found is not None
        assert column in found.columns


def test_every_volatile_builtin_has_a_reason(server: str) -> None:
    """VOLATILE alone decides nothing: somebody has looked at each, and has said what it does."""
    with psycopg.connect(server, autocommit=True) as conn:
        rows = conn.execute(
            "SELECT proname, pronargs, pronargdefaults FROM pg_proc"
            " WHERE pronamespace = 'pg_catalog'::regnamespace AND provolatile = 'v' AND oid < 16384"
        ).fetchall()
    assert len(rows) > 200
    for name, most, defaults in rows:
        for nargs in (*range(most - defaults, most + 1), None):
            group = functions.group_for(name, nargs)
            assert group is not None, name
            assert group.name != "unknown", name


def test_every_group_is_about_functions_that_there_are() -> None:
    known = functions.facts().functions
    for group in GROUPS:
        for member in group.members:
            pattern = re.compile(re.escape(member).replace(r"\*", ".*"))
            assert any(pattern.fullmatch(name) for name in known), (group.name, member)


REFUSED = """
    query_to_xml query_to_xml_and_xmlschema query_to_xmlschema table_to_xml schema_to_xmlschema
    database_to_xml_and_xmlschema cursor_to_xml ts_stat pg_stat_get_activity pg_stat_get_live_tuples
    pg_prepared_statement pg_cursor pg_mcv_list_items dblink dblink_exec dblink_connect crosstab crosstab2
    crosstab_hash connectby xpath_table lo_export lo_get lo_import array_in domain_in record_in
    pg_read_file pg_sleep set_config pg_notify current_query pg_terminate_backend
    pg_logical_emit_message
"""


@pytest.mark.parametrize("name", REFUSED.split())
def test_what_runs_sql_or_reads_the_forbidden_is_refused(name: str) -> None:
    assert functions.forbidden(name) is not None


def test_rewriting_with_a_query_is_refused_and_with_a_term_is_not() -> None:
    assert functions.forbidden("ts_rewrite", 2) is not None
    assert functions.forbidden("ts_rewrite", 3) is None


ORDINARY = """
    now/0 extract/2 overlaps/4 timezone/2 btrim/1 btrim/2 position/2 substring/3 overlay/4 date_trunc/2
    date_part/2 generate_series/3 to_char/2 lower/1 format/3 concat/5 jsonb_build_object/8 json_agg/1
    current_setting/2 random/0 random/2 gen_random_uuid/0 clock_timestamp/0 unnest/1 regexp_replace/4
    ts_rank/2 to_tsvector/2 ts_headline/3 xpath/2 age/1 to_regclass/1 pg_get_viewdef/1 pg_typeof/1
    version/0 row_number/0 percentile_cont/1 mode/0 count/0 count/1 string_agg/2 pg_collation_for/1
    system_user/0 xmlexists/2 is_normalized/2 has_table_privilege/2 obj_description/2 format_type/2
    current_schemas/1 uuidv7/0 like_escape/2 similar_to_escape/1 width_bucket/4 pg_table_is_visible/1
    pg_get_serial_sequence/2
"""


@pytest.mark.parametrize("call", ORDINARY.split())
def test_ordinary_functions_pass(call: str) -> None:
    name, nargs = call.split("/")
    assert functions.builtin(name)
    assert functions.forbidden(name, int(nargs)) is None


def test_sequences_and_advisory_locks_need_an_entry_and_are_refused_without_asking() -> None:
    for name in ("nextval", "setval", "currval", "lastval", "pg_advisory_lock", "pg_try_advisory_xact_lock"):
        assert functions.needs_allowlist(name)
        assert functions.forbidden(name) is not None
    assert not functions.needs_allowlist("pg_sleep")


def test_kinds_of_functions() -> None:
    assert functions.is_aggregate("count")
    assert not functions.is_aggregate("lower")
    assert functions.is_window("row_number")
    assert functions.returns_set("generate_series")
    assert not functions.returns_set("now")
    (each,) = functions.builtin("json_each_text")
    assert each.output_names == ("key", "value")
    assert each.output_types == ("text", "text")
    assert functions.builtin("no_such_function") == ()
    assert functions.is_sampling_method("system")


#: Values at the edges of what each argument type can hold.
EDGES = {
    "text": ["''", "'é\U0001f600'", "repeat('x', 100000)"],
    "bpchar": ["''::bpchar", "'a  '::char(5)"],
    "bytea": [r"'\x00ff'::bytea"],
    "bit": ["B''", "B'101'"],
    "tsvector": ["''::tsvector", "'a:1 b'::tsvector"],
    "float4": ["'NaN'::float4", "'-Infinity'::float4", "3.4e38::float4"],
    "float8": ["'NaN'::float8", "'-Infinity'::float8", "1.7e308::float8", "-4.9e-324::float8"],
    "numeric": ["'NaN'::numeric", "'-Infinity'::numeric", "10::numeric ^ 1000"],
    "date": ["'-infinity'::date", "'4713-01-01 BC'::date", "'5874897-12-31'::date"],
    "timestamp": ["'infinity'::timestamp", "'4713-01-01 BC'::timestamp", "'294276-12-31'::timestamp"],
    "timestamptz": ["'infinity'::timestamptz", "'4713-01-01 BC'::timestamptz", "'294276-12-31'::timestamptz"],
    "interval": ["'178000000 years'::interval"],
    "anyarray": ["'{}'::text[]", "'[2:3]={1,2}'::int[]", "ARRAY[[1],[2]]"],
    "jsonb": ["'null'::jsonb", "'[1]'::jsonb"],
    "anyrange": ["'empty'::int4range", "'(,)'::tstzrange"],
    "anymultirange": ["'{}'::int4multirange"],
    "int4": ["-2147483648", "2147483647", "0"],
}


def test_what_cannot_raise_does_not_at_the_edges(plain: psycopg.Connection) -> None:
    for name, signatures in functions._CANNOT_RAISE.items():
        for signature in signatures:
            assert signature in {each.arguments for each in functions.builtin(name)}, name
            values = [[]]  # type: list[list[str]]
            for argument in signature:
                values = [[*row, value] for row in values for value in EDGES[argument]]
            for row in values:
                plain.execute(f"SELECT {name}({', '.join(row)})")


def test_what_may_raise_is_not_on_the_list() -> None:
    assert functions.cannot_raise("char_length", 1)
    assert functions.cannot_raise("length", 1, ("varchar",))
    assert functions.cannot_raise("date", 1, ("timestamptz",))
    # length(path) may overflow, abs(int4) too, and date(text) is a cast.
    assert not functions.cannot_raise("length", 1)
    assert not functions.cannot_raise("abs", 1)
    assert not functions.cannot_raise("abs", 1, ("int4",))
    assert not functions.cannot_raise("date", 1)
    assert not functions.cannot_raise("date", 1, ("text",))
    assert not functions.cannot_raise("date_trunc", 2)


def test_restricted_relations_and_row_counters_exist(server_dsn: str) -> None:
    with psycopg.connect(server_dsn, autocommit=True) as conn:
        for name in RESTRICTED:
            if name != "pg_catalog.pg_stat_statements":  # an extension's, kept under the name policies use
                assert conn.execute("SELECT to_regclass(%s) IS NOT NULL", (name,)).fetchone() == (True,)
        for name in CLOSED:
            found = functions.system_relation(None, name)
            assert found is not None
            for closed in closed_columns("pg_catalog", name):
                # Views of one family share the list, and some have fewer columns than others.
                assert closed.columns is None or closed.columns & set(found.columns)
    assert is_restricted_relation("public", "pg_stat_statements")
    assert is_restricted_relation("pg_catalog", "pg_authid")
    assert not is_restricted_relation("pg_catalog", "pg_class")
    assert not is_restricted_relation("public", "pg_stats")


def test_a_bare_name_means_pg_catalog_only() -> None:
    found = functions.system_relation(None, "pg_class")
    assert found is not None
    assert found.qualified_name == "pg_catalog.pg_class"
    assert functions.system_relation(None, "tables") is None
    assert functions.system_relation("information_schema", "tables") is not None
