"""What a person who is asked sees of the rows: as they are and as they would be, through the masks of the profile."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

import guarddb
from guarddb.decision import sample
from guarddb.runtime.approvals import Answer, ApprovalRequest, ChangedRow
from tests.driver.conftest import open_policy
from tests.fix_server import temporary_database

TABLES = """
CREATE TABLE people (id int PRIMARY KEY, name text, ssn text, email text, doubled int GENERATED ALWAYS AS (id * 2) STORED);
INSERT INTO people SELECT i, 'n' || i, 's' || i, 'e' || i FROM generate_series(1, 9) i;
CREATE TABLE keyless (a int, b bool);
INSERT INTO keyless VALUES (1, true), (2, NULL);
CREATE TABLE parts (region text, id int, n numeric, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE parts_n PARTITION OF parts FOR VALUES IN ('n');
CREATE TABLE parts_s PARTITION OF parts FOR VALUES IN ('s');
INSERT INTO parts VALUES ('n', 1, 1.50), ('s', 1, 2);
CREATE TABLE ruled (id int PRIMARY KEY, n int);
INSERT INTO ruled VALUES (1, 1);
CREATE TABLE log (id int);
CREATE RULE also AS ON UPDATE TO ruled DO ALSO INSERT INTO log VALUES (old.id);
"""
MASKS = [
    {"table": "people", "column": "ssn", "kind": "redact"},
    {"table": "people", "column": "email", "kind": "hash"},
]


class Person:
    """Approves, and keeps what it was shown."""

    def __init__(self) -> None:
        self.asked: list[ApprovalRequest] = []
        self.answer = True

    def submit(self, request: ApprovalRequest) -> ApprovalRequest:
        return request

    def wait(self, request: ApprovalRequest, timeout: float | None) -> Answer:
        self.asked.append(request)
        return Answer("approved" if self.answer else "rejected")

    def report(self, request: ApprovalRequest, status: str) -> None: ...

    @property
    def sample(self) -> list[ChangedRow]:
        rows = list(self.asked[-1].sample)
        return sorted(rows, key=lambda row: str(row.old or row.new))


class TrustedPerson(Person):
    unmasked = True


@pytest.fixture(params=[18, 16])
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    server = request.getfixturevalue("server_dsn" if request.param == 18 else "server16_dsn")
    with temporary_database(server, "samples") as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(TABLES)
        yield dsn


@pytest.fixture
def person() -> Person:
    return Person()


@pytest.fixture
def conn(database: str, person: Person) -> Iterator[Any]:
    with open_one(database, person) as conn:
        yield conn


def open_one(dsn: str, person: Person, **fields: Any) -> Any:
    policy = open_policy(approval_mode="writes", masking_rules=MASKS, **fields)
    return guarddb.connect(dsn, policy=policy, approver=person, autocommit=True)


def values(row: dict[str, str | None] | None, *names: str) -> list[str | None]:
    assert row is not None
    return [row[name] for name in names]


def of(mapping: Any, *names: str) -> list[str | None]:
    return values(dict(mapping), *names)


def test_an_update_is_shown_as_old_and_new(conn: Any, person: Person) -> None:
    conn.execute("UPDATE people SET name = upper(name) || %s WHERE id <= %s RETURNING id", ("!", 2))
    first, second = person.sample
    assert first.table == "public.people"
    assert of(first.old, "id", "name", "doubled") == ["1", "n1", "2"]
    assert of(first.new, "id", "name", "doubled") == ["1", "N1!", "2"]
    assert of(second.new, "name") == ["N2!"]
    assert person.asked[0].counted_rows == 2


def test_what_is_masked_stays_masked_and_that_it_changes_is_said(conn: Any, person: Person) -> None:
    conn.execute("UPDATE people SET ssn = 'new', email = 'new' WHERE id = 1")
    (row,) = person.sample
    assert of(row.old, "ssn", "email") == ["[redacted]", hashlib.sha256(b"e1").hexdigest()]
    assert of(row.new, "ssn", "email") == ["(changed, masked)", hashlib.sha256(b"new").hexdigest()]
    conn.execute("UPDATE people SET name = 'x' WHERE id = 1")
    (row,) = person.sample
    assert of(row.new, "ssn") == ["[redacted]"]


def test_a_key_hashes_in_the_process(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPLE_KEY", "k" * 32)
    person = Person()
    with open_one(database, person, guarddb={"hash_key_env": "SAMPLE_KEY"}) as conn:
        conn.execute("DELETE FROM people WHERE id = 3")
    (row,) = person.sample
    assert of(row.old, "email") == [hmac.new(b"k" * 32, b"e3", "sha256").hexdigest()]


def test_an_approver_of_its_own_setting_sees_through_the_masks(database: str) -> None:
    person = TrustedPerson()
    with open_one(database, person) as conn:
        conn.execute("UPDATE people SET ssn = 'new' WHERE id = 1")
    (row,) = person.sample
    assert of(row.old, "ssn", "email") == ["s1", "e1"]
    assert of(row.new, "ssn", "email") == ["new", "e1"]


def test_rows_that_come_and_go(conn: Any, person: Person) -> None:
    conn.execute("DELETE FROM people WHERE id > 7")
    assert [(of(row.old, "id"), row.new) for row in person.sample] == [(["8"], None), (["9"], None)]
    conn.execute("INSERT INTO people VALUES (20, 'x', 'y', 'z')")
    (row,) = person.sample
    assert row.old is None
    assert of(row.new, "id", "ssn") == ["20", "[redacted]"]
    conn.execute(
        "INSERT INTO people VALUES (1, 'over'), (21, 'new') ON CONFLICT (id) DO UPDATE SET name = excluded.name"
    )
    changed, added = person.sample
    assert (of(changed.old, "name"), of(changed.new, "name")) == (["n1"], ["over"])
    assert (added.old, of(added.new, "id")) == (None, ["21"])


def test_merge(conn: Any, person: Person) -> None:
    conn.execute(
        "MERGE INTO people p USING (VALUES (1), (2), (30)) s(i) ON p.id = s.i WHEN MATCHED AND s.i = 1 THEN DELETE "
        "WHEN MATCHED THEN UPDATE SET name = 'm' WHEN NOT MATCHED THEN INSERT (id) VALUES (s.i)"
    )
    assert person.asked[0].counted_rows == 3
    if conn.info.server_version < 180000:
        assert person.sample == []  # which row is what is not told there
        return
    found = {(row.old and row.old["id"], row.new and row.new["id"]) for row in person.sample}
    assert found == {("1", None), ("2", "2"), (None, "30")}


@pytest.fixture
def as_of_17(monkeypatch: pytest.MonkeyPatch) -> None:
    """RETURNING as PostgreSQL 17 knows it, on 18: MERGE has one, and it knows no OLD and NEW."""
    monkeypatch.setattr(sample, "_OLD_AND_NEW", 19)


MERGES = (
    (
        "MERGE INTO people p USING (VALUES (1), (2), (30)) s(i) ON p.id = s.i WHEN MATCHED AND s.i = 1 THEN DELETE "
        "WHEN MATCHED THEN UPDATE SET name = 'm' WHEN NOT MATCHED THEN INSERT (id) VALUES (s.i) RETURNING s.i"
    ),
    "MERGE INTO people USING keyless AS k ON id = k.a WHEN MATCHED THEN UPDATE SET ssn = 'x', email = 'e1'",
    "MERGE INTO people AS p USING (SELECT 3 AS i) AS r ON p.id = r.i WHEN NOT MATCHED BY SOURCE AND p.id > 7 THEN DELETE",
    (
        "MERGE INTO people AS b USING (VALUES (4, 'b'), (41, NULL)) AS r (id, r0) ON b.id = r.id "
        "WHEN MATCHED THEN UPDATE SET name = r.r0 WHEN NOT MATCHED THEN INSERT (id, name) VALUES (r.id, r.r0)"
    ),
    (
        "MERGE INTO parts AS p USING (VALUES ('n', 1), ('s', 2)) AS s (region, id) ON p.region = s.region AND p.id = s.id "
        "WHEN MATCHED THEN UPDATE SET n = p.n + 1 WHEN NOT MATCHED THEN INSERT VALUES (s.region, s.id, 7)"
    ),
    "WITH w AS (SELECT 5 AS i) MERGE INTO people USING w ON id = w.i WHEN MATCHED THEN DELETE",
)


@pytest.mark.parametrize("text", MERGES)
def test_merge_in_17_shows_what_18_shows(server_dsn: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    for knows_both in (18, 19):
        monkeypatch.setattr(sample, "_OLD_AND_NEW", knows_both)
        person = Person()
        with temporary_database(server_dsn, "samples") as dsn:
            with psycopg.connect(dsn, autocommit=True) as plain:
                plain.execute(TABLES)
            with open_one(dsn, person) as conn:
                conn.execute(text)
        shown.append((person.asked[0].counted_rows, person.sample))
    assert shown[0] == shown[1]
    assert shown[0][1]


@pytest.mark.usefixtures("as_of_17")
@pytest.mark.parametrize(
    "text",
    [
        "MERGE INTO people p USING (VALUES (1)) s(i) ON p.id = s.i WHEN MATCHED THEN UPDATE SET id = 100",
        "MERGE INTO keyless k USING (VALUES (1)) s(i) ON k.a = s.i WHEN MATCHED THEN UPDATE SET b = false",
    ],
)
def test_merge_in_17_without_a_key_that_stays_shows_nothing(server_dsn: str, text: str) -> None:
    person = Person()
    with temporary_database(server_dsn, "samples") as dsn:
        with psycopg.connect(dsn, autocommit=True) as plain:
            plain.execute(TABLES)
        with open_one(dsn, person) as conn:
            conn.execute(text)
    assert (person.asked[0].counted_rows, person.sample) == (1, [])


def test_few_of_many(conn: Any, person: Person) -> None:
    conn.execute("UPDATE people SET name = repeat('x', 2000) WHERE id > 0")
    assert person.asked[0].counted_rows == 9
    assert len(person.sample) == 5
    long = person.sample[0].new
    assert long is not None
    assert long["name"] == "x" * 1000 + "…"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("WITH x AS (SELECT 2 AS i) UPDATE people AS p SET name = 'x' FROM x WHERE p.id = x.i", "2"),
        (
            "UPDATE people AS old SET name = 'x' WHERE old.id = 2 RETURNING old.name AS returning -- and so on",
            "2",
        ),
        ("UPDATE ONLY public.people SET (name, ssn) = (SELECT 'a', 'b') WHERE id = 2;", "2"),
        ("UPDATE people SET name = 'it''s %s' WHERE id = 2", "2"),
        ("DELETE FROM people USING keyless WHERE id = a AND a = 2 RETURNING (SELECT 1)", "2"),
        ("INSERT INTO people (id, name) SELECT 40, 'x' AS returning", "40"),
        ("/* a */ INSERT INTO people AS new (id) VALUES (41) RETURNING id, 'RETURNING'", "41"),
    ],
)
def test_shapes(conn: Any, person: Person, text: str, expected: str) -> None:
    conn.execute(text)
    (row,) = person.sample
    assert of(row.new or row.old, "id") == [expected]


def test_old_rows_without_a_key(conn: Any, person: Person) -> None:
    conn.execute("UPDATE keyless SET b = NOT b WHERE a = 1")
    assert person.asked[0].counted_rows == 1
    (row,) = person.sample
    assert (of(row.old, "b"), of(row.new, "b")) == (["t"], ["f"])
    conn.execute("DELETE FROM keyless WHERE a = 2")
    (row,) = person.sample
    assert of(row.old, "a", "b") == ["2", None]


def test_a_row_that_moves_to_another_partition(conn: Any, person: Person) -> None:
    conn.execute("UPDATE parts SET n = n + 1 WHERE region = 'n'")
    (row,) = person.sample
    assert (of(row.old, "n"), of(row.new, "n")) == (["1.50"], ["2.50"])
    conn.execute("UPDATE parts SET region = 's', id = 7 WHERE region = 'n'")
    (row,) = person.sample
    assert (of(row.old, "region", "id"), of(row.new, "region", "id")) == (["n", "1"], ["s", "7"])


@pytest.mark.parametrize(
    "text",
    [
        "UPDATE keyless SET b = false",
        "UPDATE keyless AS k SET (a, b) = (SELECT k.a, a IS DISTINCT FROM 1) WHERE a = 1 OR b IS NULL",
        "UPDATE ONLY public.keyless SET b = a IS DISTINCT FROM 1 FROM people p WHERE p.id = a OR a = p.id RETURNING b",
        "WITH p AS (SELECT 1 AS i UNION SELECT 2) UPDATE keyless k SET b = (k.a = 2) FROM p WHERE p.i = k.a -- and so on",
        "UPDATE keyless SET b = false WHERE a IN (SELECT a FROM keyless WHERE b OR b IS NULL);",
    ],
)
def test_updates_without_a_key_keep_their_sense(database: str, person: Person, text: str) -> None:
    """The write of the trial joins its own rows: no name of the statement gets another meaning by that."""
    with open_one(database, person, guarddb={"floor_exceptions": ["whereless_write"]}) as conn:
        assert conn.execute(text).rowcount == 2
        after = [
            list(row) for row in conn.execute("SELECT a::text, left(b::text, 1) FROM keyless ORDER BY a")
        ]
    assert person.asked[0].counted_rows == 2
    assert [of(row.old, "a", "b") for row in person.sample] == [["1", "t"], ["2", None]]
    assert [of(row.new, "a", "b") for row in person.sample] == after


def test_the_sample_of_an_update_without_a_key_is_masked_and_filtered(database: str) -> None:
    person = Person()
    policy = open_policy(
        approval_mode="writes",
        masking_rules=[{"table": "keyless", "column": "b", "kind": "null"}],
        row_filters=[{"table": "keyless", "predicate": "a = 1"}],
    )
    with guarddb.connect(database, policy=policy, approver=person, autocommit=True) as conn:
        conn.execute("UPDATE keyless SET a = a WHERE a > 0")
    assert [(of(row.old, "a", "b"), of(row.new, "a", "b")) for row in person.sample] == [
        (["1", None], ["1", None])
    ]


def test_rows_to_which_a_trigger_gives_other_keys_are_counted(
    database: str, conn: Any, person: Person
) -> None:
    with psycopg.connect(database, autocommit=True) as plain:
        plain.execute(
            "CREATE FUNCTION moved() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.id := NEW.id + 100; RETURN NEW; END'"
        )
        plain.execute("CREATE TRIGGER moves BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION moved()")
    assert conn.execute("UPDATE people SET name = 'x' WHERE id <= 4").rowcount == 4
    assert [request.counted_rows for request in person.asked] == [4]


def test_where_there_is_no_form_the_request_goes_out_without(database: str) -> None:
    """A rule that adds statements: PostgreSQL does not take that inside WITH."""
    person = Person()
    policy = open_policy(approval_mode="writes")
    with guarddb.connect(database, policy=policy, approver=person, autocommit=True) as conn:
        assert conn.execute("UPDATE ruled SET n = 2 WHERE id = 1").rowcount == 1
        assert person.sample == []
        assert person.asked[0].counted_rows == 1
        assert conn.execute("SELECT n FROM ruled").fetchone() == (2,)


def test_executemany_pipelines_and_prepared_statements(conn: Any, person: Person) -> None:
    cur = conn.cursor()
    cur.executemany("UPDATE people SET name = %s WHERE id = %s", [(f"m{i}", i) for i in range(1, 9)])
    assert [of(row.new, "id", "name") for row in person.sample] == [[str(i), f"m{i}"] for i in range(1, 6)]
    with conn.pipeline():
        conn.execute("DELETE FROM people WHERE id = %s", (9,))
    assert of(person.sample[0].old, "id") == ["9"]
    conn.execute("PREPARE p (int, text) AS UPDATE people SET name = $2 WHERE id = $1")
    conn.execute("EXECUTE p (4, 'prepared')")
    (row,) = person.sample
    assert of(row.new, "id", "name") == ["4", "prepared"]
    conn.execute("UPDATE people SET name = 'q' WHERE id = 1; DELETE FROM people WHERE id = 2")
    assert [(row.old is None, row.new is None) for row in person.sample] == [(False, False), (False, True)]
    assert person.asked[-1].counted_rows == 2
    client = psycopg.ClientCursor(conn)
    client.execute("DELETE FROM people WHERE name = %s", ("q",))
    assert of(person.sample[0].old, "name") == ["q"]
    assert conn.execute("SELECT name FROM people WHERE id = 4").fetchone() == ("prepared",)
    conn.execute("PREPARE guarddb_sample AS SELECT 1")  # the name that was used is free again


def test_a_refusal_leaves_nothing_of_the_trials(conn: Any, person: Person, database: str) -> None:
    person.answer = False
    with conn.transaction():
        conn.execute("SELECT 1")
        with pytest.raises(guarddb.ApprovalRejected):
            conn.execute("UPDATE people SET name = 'x' WHERE id > 0")
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
    with psycopg.connect(database) as plain:
        assert plain.execute("SELECT count(*) FROM people WHERE name = 'x'").fetchone() == (0,)
    assert len(person.sample) == 5


def test_only_rows_that_the_filter_leaves_are_shown(database: str) -> None:
    person = Person()
    rows = [{"table": "people", "predicate": "id < 4"}]
    with open_one(database, person, row_filters=rows) as conn:
        conn.execute("UPDATE people SET name = 'x' WHERE id > 2")
    assert [of(row.old, "id") for row in person.sample] == [["3"]]


def test_a_masked_copy_is_masked_as_well(database: str) -> None:
    """A generated column inherits its source's mask."""
    person = Person()
    masks = [*MASKS, {"table": "people", "column": "id", "kind": "null"}]
    policy = open_policy(approval_mode="writes", masking_rules=masks)
    with guarddb.connect(database, policy=policy, approver=person, autocommit=True) as conn:
        conn.execute("UPDATE people SET name = 'x' WHERE name = 'n1'")
    (row,) = person.sample
    assert of(row.old, "id", "doubled", "name") == [None, None, "n1"]
