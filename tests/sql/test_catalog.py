"""The catalog snapshot: what it holds, when its fingerprint changes, and what names resolve to."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from guarddb.facts.functions import SystemRelation
from guarddb.sql.catalog import (
    CATALOG_QUERY,
    FINGERPRINT_QUERY,
    SESSION_QUERY,
    Catalog,
    Function,
    Relation,
)
from tests.fix_server import temporary_database

SETUP = r"""
CREATE EXTENSION vector;
CREATE SCHEMA hr;
CREATE FUNCTION is_mail(text) RETURNS bool LANGUAGE sql IMMUTABLE AS $$ SELECT $1 LIKE '%@%' $$;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$;
CREATE FUNCTION pairs(n int, m int DEFAULT 2, OUT a int, OUT b text) RETURNS SETOF record
  LANGUAGE sql STABLE AS $$ SELECT 1, 'x' $$;
CREATE FUNCTION join_all(VARIADIC parts text[]) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN ''; END $$;
CREATE FUNCTION same(int, text) RETURNS bool LANGUAGE sql IMMUTABLE AS $$ SELECT true $$;
CREATE OPERATOR === (LEFTARG = int, RIGHTARG = text, FUNCTION = same);
CREATE FUNCTION join_two(text, text) RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN $1; END $$;
CREATE AGGREGATE last_of (text) (SFUNC = join_two, STYPE = text);
CREATE TYPE mood AS ENUM ('happy', 'sad');
CREATE TYPE pair AS (x int, y text);
CREATE TYPE span AS RANGE (subtype = int4);
CREATE DOMAIN mail AS text CHECK (is_mail(value));
CREATE DOMAIN work_mail AS mail CHECK (value <> '');
-- The wheel is built without ICU, the only provider with nondeterministic collations: say so by hand.
CREATE COLLATION ci FROM "C";
UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'ci';
CREATE TABLE people (
  id int GENERATED ALWAYS AS IDENTITY, "Größe" numeric(5, 2), mood mood, moods mood[],
  mail work_mail NOT NULL, tags varchar(10)[], doc jsonb, v vector(3), loose text COLLATE ci, "char" "char",
  stored int GENERATED ALWAYS AS (1) STORED, gone int, PRIMARY KEY (mail, id)
);
ALTER TABLE people DROP COLUMN gone;
CREATE TRIGGER t BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TABLE hr.people (id int);
CREATE TABLE parts (k int, d date) PARTITION BY LIST (k);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1) PARTITION BY RANGE (d);
CREATE TABLE parts_1_a PARTITION OF parts_1 FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE VIEW everybody AS SELECT p.id, h.id AS other FROM people AS p JOIN hr.people AS h USING (id);
CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM people;
CREATE RULE r AS ON INSERT TO hr.people DO ALSO NOTHING;
"""


@pytest.fixture(scope="module")
def database(server_dsn: str) -> Iterator[str]:
    with temporary_database(server_dsn, "catalog") as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(SETUP)
        yield dsn


@pytest.fixture
def conn(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as conn:
        yield conn


@pytest.fixture
def catalog(conn: psycopg.Connection) -> Catalog:
    return Catalog.from_connection(conn)


def relation(catalog: Catalog, name: str, schema: str | None = None) -> Relation:
    found = catalog.resolve(schema, name)
    assert found is not None
    return found


# --- what it holds ------------------------------------------------------------------------------------------


def test_attributes_carry_qualified_base_types_and_what_can_be_compared_safely(catalog: Catalog) -> None:
    found = {each.name: each for each in relation(catalog, "people").attributes}
    assert "gone" not in found
    assert {name: each.type for name, each in found.items()} == {
        "id": "pg_catalog.int4",
        "Größe": "pg_catalog.numeric",
        "mood": "public.mood",
        "moods": "public._mood",
        "mail": "public.work_mail",
        "tags": "pg_catalog._varchar",
        "doc": "pg_catalog.jsonb",
        "v": "public.vector",
        "loose": "pg_catalog.text",
        "char": "pg_catalog.char",
        "stored": "pg_catalog.int4",
    }
    assert found["mail"].base_type == "pg_catalog.text"
    assert found["mail"].category == "S"
    assert found["mood"].category == "E"
    assert {name for name, each in found.items() if not each.plain} == {"doc", "v", "loose"}
    assert {name for name, each in found.items() if each.not_null} == {"id", "mail"}
    assert {name for name, each in found.items() if each.generated} == {"stored"}
    numbers = [each.number for each in relation(catalog, "people").attributes]
    assert numbers == sorted(numbers)


def test_virtual_generated_column_is_not_plain_because_reading_it_may_raise(fresh_dsn: str) -> None:
    with psycopg.connect(fresh_dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE t (a int, b int GENERATED ALWAYS AS (1 / a) VIRTUAL)")
        plain = {each.name: each.plain for each in relation(Catalog.from_connection(conn), "t").attributes}
    assert plain == {"a": True, "b": False}


def test_keys_triggers_and_rules(catalog: Catalog) -> None:
    assert relation(catalog, "people").primary_key == ("mail", "id")
    assert relation(catalog, "people").has_row_triggers
    assert not relation(catalog, "people", "hr").has_row_triggers
    assert relation(catalog, "people", "hr").has_rules
    assert not relation(catalog, "everybody").has_rules


def test_partitions_know_all_that_is_above_and_below_nearest_first(catalog: Catalog) -> None:
    top, middle, leaf = (relation(catalog, name) for name in ("parts", "parts_1", "parts_1_a"))
    assert leaf.ancestors == (middle.oid, top.oid)
    assert top.descendants == (middle.oid, leaf.oid)
    assert middle.ancestors == (top.oid,)
    assert (top.kind, middle.kind, leaf.kind) == ("p", "p", "r")


def test_diamond_inheritance_lists_each_ancestor_once(fresh_dsn: str) -> None:
    with psycopg.connect(fresh_dsn, autocommit=True) as conn:
        conn.execute(
            "CREATE TABLE a (); CREATE TABLE b () INHERITS (a); CREATE TABLE c () INHERITS (a, b);"
            "CREATE TABLE d () INHERITS (b, c)"
        )
        catalog = Catalog.from_connection(conn)
    names = {each.oid: each.name for each in catalog.relations.values()}
    assert [names[oid] for oid in relation(catalog, "d").ancestors] == ["b", "c", "a"]
    assert [names[oid] for oid in relation(catalog, "a").descendants] == ["b", "c", "d"]


def test_definitions_name_every_relation_with_its_schema(catalog: Catalog) -> None:
    definition = relation(catalog, "everybody").definition
    assert definition is not None
    assert "public.people" in definition
    assert "hr.people" in definition
    assert relation(catalog, "counted").kind == "m"
    assert "public.people" in str(relation(catalog, "counted").definition)
    assert relation(catalog, "people").definition is None


def test_functions(catalog: Catalog) -> None:
    (pairs,) = catalog.functions_named("pairs")
    assert pairs == Function(
        schema="public",
        name="pairs",
        arguments=("pg_catalog.int4", "pg_catalog.int4"),
        returns="pg_catalog.record",
        kind="f",
        volatility="s",
        language="sql",
        returns_set=True,
        required_arguments=1,
        output_names=("a", "b"),
    )
    (variadic,) = catalog.functions_named("join_all")
    assert variadic.variadic
    assert variadic.volatility == "v"
    distance, *_ = catalog.functions_named("l2_distance")
    assert distance.is_trusted_extension_code
    assert not pairs.is_trusted_extension_code


def test_aggregates_are_judged_by_what_they_run(catalog: Catalog) -> None:
    (last_of,) = catalog.functions_named("last_of")
    assert (last_of.kind, last_of.language, last_of.volatility) == ("a", "plpgsql", "s")
    assert all(each.is_trusted_extension_code for each in catalog.functions_named("avg"))


def test_operators_casts_and_types(catalog: Catalog) -> None:
    (operator,) = catalog.operators_named("===")
    assert (operator.left, operator.right) == ("pg_catalog.int4", "pg_catalog.text")
    assert operator.function == "public.same"
    assert ("public.array_to_vector", "public.vector") in {
        (cast.function, cast.target) for cast in catalog.casts
    }
    kinds = {name: catalog.type_named(None, name) for name in ("mood", "pair", "span", "work_mail", "vector")}
    assert {name: each.kind for name, each in kinds.items() if each} == {
        "mood": "e",
        "pair": "c",
        "span": "r",
        "work_mail": "d",
        "vector": "b",
    }
    domain = kinds["work_mail"]
    assert domain is not None
    # The check that calls a function is on the domain below.
    assert domain.check_functions == ("public.is_mail",)
    assert domain.base_type == "pg_catalog.text"
    # A table's row type is a type, too.
    row_type = catalog.type_named("hr", "people")
    assert row_type is not None
    assert row_type.kind == "c"
    assert catalog.type_named(None, "int4") is None


# --- resolving ----------------------------------------------------------------------------------------------


def test_a_bare_name_is_what_the_search_path_finds_first(catalog: Catalog) -> None:
    assert relation(catalog, "people").schema == "public"
    assert relation(catalog.with_session(["pg_catalog", "hr", "public"]), "people").schema == "hr"
    assert catalog.with_session(["pg_catalog"]).resolve(None, "people") is None
    assert catalog.resolve("hr", "parts") is None
    assert catalog.resolve(None, "PEOPLE") is None


def test_the_path_decides_between_system_and_user_relations(fresh_dsn: str) -> None:
    with psycopg.connect(fresh_dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE public.pg_class (a int)")
        catalog = Catalog.from_connection(conn)
        assert isinstance(catalog.lookup(None, "pg_class"), SystemRelation)
        assert catalog.resolve(None, "pg_class") is None
        conn.execute("SET search_path = public, pg_catalog")
        assert isinstance(Catalog.from_connection(conn).lookup(None, "pg_class"), Relation)
    assert catalog.lookup(None, "tables") is None
    assert isinstance(catalog.lookup("information_schema", "tables"), SystemRelation)


def test_the_temporary_schema_comes_first_unless_the_path_names_it(conn: psycopg.Connection) -> None:
    conn.execute("CREATE TEMP TABLE people (x int)")
    catalog = Catalog.from_connection(conn)
    assert catalog.temp_schema is not None
    assert catalog.search_path == ("pg_catalog", "public")
    assert relation(catalog, "people").schema == catalog.temp_schema
    assert relation(catalog, "people", "pg_temp").schema == catalog.temp_schema
    assert relation(catalog, "people", "public").schema == "public"
    conn.execute("SET search_path = public, pg_temp")
    assert relation(Catalog.from_connection(conn), "people").schema == "public"
    # Functions and operators are never looked for in the temporary schema.
    conn.execute("CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    catalog = Catalog.from_connection(conn)
    assert catalog.functions_named("f") == ()
    assert len(catalog.functions_named("f", "pg_temp")) == 1


def test_every_relation_resolves_as_the_server_resolves_it(conn: psycopg.Connection) -> None:
    for path in ("public", "hr, public", "hr", '"$user", public, pg_catalog', "information_schema, public"):
        conn.execute(f"SET search_path = {path}")
        catalog = Catalog.from_connection(conn)
        for name in {each.name for each in catalog.relations.values()} | {"pg_class", "tables", "nothing"}:
            row = conn.execute(
                "SELECT nspname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
                " WHERE c.oid = to_regclass(quote_ident(%s))",
                (name,),
            ).fetchone()
            found = catalog.lookup(None, name)
            assert (found and found.schema) == (row and row[0]), (path, name)


def test_temporary_objects_cannot_take_the_place_of_catalogs(conn: psycopg.Connection) -> None:
    before = Catalog.from_connection(conn)
    conn.execute(
        "CREATE TEMP TABLE pg_class (a int); CREATE TEMP TABLE pg_type (a int);"
        "CREATE TEMP TABLE text (a int);"
        "CREATE TEMP TABLE pg_namespace (a int); CREATE TEMP TABLE json (a int)"
    )
    after = Catalog.from_connection(conn)
    assert set(before.relations) < set(after.relations)
    assert relation(after, "people").attributes == relation(before, "people").attributes


def test_functions_and_operators_of_the_path_cannot_take_part_in_the_fingerprint(fresh_dsn: str) -> None:
    with psycopg.connect(fresh_dsn, autocommit=True) as conn:
        conn.execute(
            "CREATE FUNCTION bad(oid, oid) RETURNS bool LANGUAGE sql AS 'SELECT false';"
            "CREATE FUNCTION bad(oid, int) RETURNS bool LANGUAGE sql AS 'SELECT false';"
            "CREATE OPERATOR >= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = bad);"
            "CREATE OPERATOR >= (LEFTARG = oid, RIGHTARG = int, FUNCTION = bad);"
            "CREATE FUNCTION md5(text) RETURNS text LANGUAGE sql AS $$ SELECT 'same' $$;"
            "CREATE FUNCTION concat(text, int8, text, int8) RETURNS text LANGUAGE sql AS $$ SELECT 'same' $$;"
            "SET search_path = public, pg_catalog"
        )
        before = conn.execute(FINGERPRINT_QUERY).fetchone()
        conn.execute("CREATE TABLE t ()")
        assert conn.execute(FINGERPRINT_QUERY).fetchone() != before


# --- the fingerprint ----------------------------------------------------------------------------------------

DDL = [
    "CREATE TABLE n (a int)",
    "ALTER TABLE people RENAME TO persons",
    "ALTER TABLE people RENAME COLUMN doc TO document",
    "ALTER TABLE people ADD COLUMN x int",
    "ALTER TABLE people DROP COLUMN doc",
    "ALTER TABLE people ALTER COLUMN doc TYPE text",
    "ALTER TABLE people ALTER COLUMN tags TYPE varchar(20)[]",
    "ALTER TABLE people ALTER COLUMN doc SET NOT NULL",
    "ALTER TABLE parts SET SCHEMA hr",
    "ALTER TABLE people DROP CONSTRAINT people_pkey",
    "DROP TABLE parts_1_a",
    "ALTER TABLE parts_1 DETACH PARTITION parts_1_a",
    "CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2)",
    "CREATE OR REPLACE VIEW everybody AS SELECT p.id, 1 AS other FROM people AS p",
    "DROP VIEW everybody",
    "DROP TRIGGER t ON people",
    "ALTER TABLE people DISABLE TRIGGER t",
    "DROP RULE r ON hr.people",
    "CREATE RULE r2 AS ON UPDATE TO hr.people DO INSTEAD NOTHING",
    "ALTER SCHEMA hr RENAME TO staff",
    "CREATE SCHEMA another",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "ALTER FUNCTION pairs(int, int) VOLATILE",
    "CREATE OR REPLACE FUNCTION same(int, text) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN true; END'",
    "DROP AGGREGATE last_of (text)",
    "DROP OPERATOR === (int, text)",
    "CREATE OPERATOR ==== (LEFTARG = int, RIGHTARG = text, FUNCTION = same)",
    "CREATE CAST (mood AS pair) WITH FUNCTION to_pair(mood)",
    "CREATE TYPE t2 AS ENUM ('a')",
    "ALTER TYPE mood RENAME TO temper",
    "ALTER DOMAIN mail DROP CONSTRAINT mail_check",
    "ALTER DOMAIN mail ADD CONSTRAINT c CHECK (is_mail(value))",
    "ALTER EXTENSION vector ADD FUNCTION is_mail(text)",
    "DROP EXTENSION vector CASCADE",
    "CREATE TEMP TABLE scratch (a int)",
    "CREATE TABLE child () INHERITS (hr.people)",
    "CREATE SEQUENCE s",
    "ALTER MATERIALIZED VIEW counted RENAME COLUMN n TO m",
    "CREATE POLICY few ON people USING (id > 1)",
]


def fingerprint(conn: psycopg.Connection) -> str:
    row = conn.execute(FINGERPRINT_QUERY).fetchone()
    assert row is not None
    return str(row[0])


@pytest.fixture
def transaction(database: str) -> Iterator[psycopg.Connection]:
    """A connection whose work is undone."""
    with psycopg.connect(database) as conn:
        conn.execute("CREATE FUNCTION to_pair(mood) RETURNS pair LANGUAGE sql AS $$ SELECT (1, 'x')::pair $$")
        yield conn
        conn.rollback()


@pytest.mark.parametrize("statement", DDL)
def test_ddl_changes_the_fingerprint_and_rolling_it_back_restores_it(
    transaction: psycopg.Connection, statement: str
) -> None:
    before = fingerprint(transaction)
    with transaction.transaction(force_rollback=True):
        transaction.execute(statement)
        assert fingerprint(transaction) != before
    assert fingerprint(transaction) == before


def test_a_second_change_in_one_transaction_changes_it_again(transaction: psycopg.Connection) -> None:
    transaction.execute("ALTER TABLE people RENAME COLUMN doc TO a")
    first = fingerprint(transaction)
    transaction.execute("ALTER TABLE people RENAME COLUMN a TO b")
    second = fingerprint(transaction)
    transaction.execute("ALTER TABLE people RENAME COLUMN b TO doc")
    assert len({first, second, fingerprint(transaction)}) == 3


def test_a_policy_of_row_security_that_changes_or_goes_changes_it(transaction: psycopg.Connection) -> None:
    transaction.execute("CREATE POLICY few ON people USING (id > 1)")
    seen = [fingerprint(transaction)]
    for statement in ("ALTER POLICY few ON people USING (id > 2)", "DROP POLICY few ON people"):
        transaction.execute(statement)
        seen.append(fingerprint(transaction))
    assert len(set(seen)) == 3


def test_data_and_maintenance_do_not_change_it(conn: psycopg.Connection) -> None:
    before = fingerprint(conn)
    conn.execute("INSERT INTO hr.people SELECT generate_series(1, 100)")
    conn.execute("ANALYZE hr.people")
    conn.execute("VACUUM (FREEZE) hr.people")
    conn.execute("VACUUM (FREEZE) pg_catalog.pg_attribute")
    assert fingerprint(conn) == before


def test_the_snapshot_carries_the_fingerprint_as_its_version(
    conn: psycopg.Connection, catalog: Catalog
) -> None:
    assert catalog.version == fingerprint(conn)


def test_older_server_gives_the_same_snapshot(server16_dsn: str, catalog: Catalog) -> None:
    with temporary_database(server16_dsn, "catalog") as dsn, psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE EXTENSION vector; CREATE TABLE t (a int PRIMARY KEY, b vector(2))")
        old = Catalog.from_connection(conn)
    assert old.server_version // 10000 == 16
    assert relation(old, "t").primary_key == ("a",)
    assert relation(old, "t").attributes[1].type == "public.vector"


# --- from a connection, to text and back --------------------------------------------------------------------


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("open_transaction", [True, False])
def test_reading_it_leaves_the_connection_as_it_was(
    database: str, autocommit: bool, open_transaction: bool
) -> None:
    with psycopg.connect(database, autocommit=autocommit, row_factory=dict_row) as conn:
        conn.execute("SET search_path = hr, public")
        conn.execute("SET client_encoding = 'LATIN1'")
        conn.rollback() if autocommit else conn.commit()
        if open_transaction:
            conn.execute("BEGIN" if autocommit else "SELECT 1")
        before = conn.info.transaction_status
        catalog = Catalog.from_connection(conn)
        assert conn.info.transaction_status == before
        assert (before == TransactionStatus.INTRANS) == open_transaction
        assert conn.execute("SHOW search_path").fetchone() == {"search_path": "hr, public"}
        assert conn.execute("SHOW enable_nestloop").fetchone() == {"enable_nestloop": "on"}
        assert conn.info.encoding == "iso8859-1"
        conn.rollback()
    assert catalog.search_path == ("pg_catalog", "hr", "public")
    assert "Größe" in [each.name for each in relation(catalog, "people", "public").attributes]


def test_a_guarded_connection_reads_its_own_catalog(catalog: Catalog) -> None:
    assert Catalog.from_connection(SimpleNamespace(_guard_catalog=lambda: catalog)) is catalog


def test_json_gives_back_the_same_catalog(conn: psycopg.Connection, catalog: Catalog) -> None:
    assert Catalog.from_json(catalog.to_json()) == catalog
    conn.execute("CREATE TEMP TABLE people (x int)")
    conn.execute("SET search_path = hr, pg_temp, public")
    catalog = Catalog.from_connection(conn)
    again = Catalog.from_json(catalog.to_json())
    assert again == catalog
    assert again.resolve(None, "people") == catalog.resolve(None, "people")
    assert Catalog.from_json(Catalog(version="x", server_version=180004).to_json()).relations == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"format": 1}',
        '{"format": 99, "version": "x", "server_version": 1}',
        '{"format": 1, "version": "x", "server_version": "y"}',
        '{"format": 1, "version": "x", "server_version": 1, "relations": [{"oid": 1}]}',
        '{"format": 1, "version": "x", "server_version": 1, "surprise": 1}',
        '{"format": 1, "version": ' + "[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_a_text_that_is_no_catalog_is_a_value_error_in_one_sentence(text: str | bytes) -> None:
    with pytest.raises(ValueError, match="catalog snapshot") as caught:
        Catalog.from_json(text)
    assert "\n" not in str(caught.value)


def test_sessions_share_the_indexes_of_a_snapshot(catalog: Catalog) -> None:
    other = catalog.with_session(["hr"], "pg_temp_9")
    assert other._index is catalog._index
    assert other.version == catalog.version
    assert other.search_path == ("hr",)
    assert other.temp_schema == "pg_temp_9"


def test_snapshot_and_session_queries_return_one_text(conn: psycopg.Connection) -> None:
    for query in (CATALOG_QUERY, FINGERPRINT_QUERY, SESSION_QUERY):
        rows = conn.execute(query).fetchall()
        assert len(rows) == len(rows[0]) == 1
        assert isinstance(rows[0][0], str)


def test_extension_objects_name_their_extension(catalog: Catalog) -> None:
    owners = {each.extension for each in catalog.functions_named("cosine_distance")}
    assert owners == {"vector"}
    assert relation(catalog, "people").extension is None
    assert catalog.by_oid(relation(catalog, "people").oid) == relation(catalog, "people")
    assert catalog.by_oid(1) is None
