"""guarded engines, made in every way there is, used as applications use SQLAlchemy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from guarddb.integrations import sqlalchemy as guarded
from sqlalchemy import orm
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import guarddb
from tests.fix_server import temporary_database

TENANT = "current_setting('app.tenant')::int"
POLICY: dict[str, Any] = {
    "name": "orm",
    "access_mode": "read_write",
    "masking_rules": [{"table": "people", "column": "email", "kind": "redact"}],
    "row_filters": [{"table": "notes", "predicate": f"tenant = {TENANT}"}],
    "guarddb": {"settings": {"app.tenant": "1"}, "function_allowlist": ["pg_catalog.nextval"]},
}


class Base(orm.DeclarativeBase):
    pass


class Person(Base):
    __tablename__ = "people"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str]
    email: orm.Mapped[str | None]
    notes: orm.Mapped[list[Note]] = orm.relationship(back_populates="person")


class Note(Base):
    __tablename__ = "notes"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    tenant: orm.Mapped[int]
    text: orm.Mapped[str] = orm.mapped_column(unique=True)
    person_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("people.id"))
    person: orm.Mapped[Person] = orm.relationship(back_populates="notes")


@pytest.fixture
def database(server_dsn: str) -> Iterator[str]:
    with temporary_database(server_dsn, "orm") as dsn:
        engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
        Base.metadata.create_all(engine)
        with orm.Session(engine) as session, session.begin():
            ada = Person(id=1, name="Ada", email="ada@example.org")
            ada.notes = [
                Note(id=i, tenant=i % 2 + 1, text=f"note {i}") for i in range(1, 5)
            ]  # 2 and 4 are tenant 1's
            session.add(ada)
        with engine.begin() as conn:
            conn.exec_driver_sql("SELECT setval('notes_id_seq', 100)")
        engine.dispose()
        yield dsn


def url(dsn: str, drivername: str = "postgresql+psycopg", **query: str) -> sa.URL:
    parts = psycopg.conninfo.conninfo_to_dict(dsn)
    return sa.URL.create(
        drivername,
        username=str(parts["user"]),
        database=str(parts["dbname"]),
        query={"host": str(parts["host"]), **query},
    )


def by_plugin(dsn: str, **more: Any) -> sa.Engine:
    return sa.create_engine(url(dsn), plugins=["guarddb"], guarddb_policy=POLICY, **more)


def by_hook(dsn: str, **more: Any) -> sa.Engine:
    engine = sa.create_engine(url(dsn), **more)
    with engine.connect():  # one that is in the pool already
        pass
    answer = guarded.guard(engine, policy=POLICY)
    assert answer is engine
    return engine


def by_dialect(dsn: str, **more: Any) -> sa.Engine:
    return sa.create_engine(url(dsn, "postgresql+guarddb"), connect_args={"policy": POLICY}, **more)


WAYS = (by_plugin, by_hook, by_dialect)


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def engine(request: pytest.FixtureRequest, database: str) -> Iterator[sa.Engine]:
    made: Callable[..., sa.Engine] = request.param
    engine = made(database)
    yield engine
    engine.dispose()


def test_masks_and_filters_hold_below_the_orm(engine: sa.Engine) -> None:
    with orm.Session(engine) as session:
        person = session.scalars(sa.select(Person)).one()
        assert (person.name, person.email) == ("Ada", "[redacted]")
        assert sorted(note.text for note in person.notes) == ["note 2", "note 4"]
        joined = session.scalars(sa.select(Person).options(orm.joinedload(Person.notes))).unique().one()
        assert len(joined.notes) == 2
        assert session.scalar(sa.select(sa.func.count()).select_from(Note)) == 2


def test_a_refusal_is_sqlalchemys_error_with_the_decision(engine: sa.Engine) -> None:
    with engine.connect() as conn:
        with pytest.raises(sa.exc.ProgrammingError) as refused:
            conn.execute(sa.select(Person.id).where(Person.email == "ada@example.org"))
        original = refused.value.orig
        assert isinstance(original, guarddb.PolicyViolation)
        assert original.decision is not None
        assert original.decision.rule == "masked_column_predicate"
        # Nothing was sent, so the transaction goes on.
        assert conn.scalar(sa.text("SELECT 1")) == 1


def test_every_connection_of_the_pool_is_guarded(engine: sa.Engine) -> None:
    with engine.connect() as one, engine.connect() as other:
        for conn in (one, other):
            assert isinstance(conn.connection.driver_connection, guarddb.Connection)
            assert conn.connection.driver_connection.policy.name == "orm"


def test_writes_of_the_orm(engine: sa.Engine) -> None:
    with orm.Session(engine) as session, session.begin():
        session.add_all([Note(tenant=1, text=f"new {i}", person_id=1) for i in range(30)])  # insertmanyvalues
        session.flush()
        session.execute(sa.update(Note).where(Note.text == "new 0").values(text="changed"))
        session.execute(sa.delete(Note).where(Note.text == "new 1"))
    with orm.Session(engine) as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Note)) == 31
        got = session.execute(
            sa.insert(Note).values(tenant=1, text="returned", person_id=1).returning(Note.text)
        )
        assert got.scalar_one() == "returned"
        session.rollback()
    with orm.Session(engine) as session:
        session.add(Note(tenant=2, text="another's", person_id=1))
        with pytest.raises(sa.exc.ProgrammingError) as refused:
            session.flush()
    assert getattr(refused.value.orig, "rule", "") == "row_filter_violation"


def test_upsert(engine: sa.Engine) -> None:
    statement = insert(Person).values(id=1, name="Ada L")
    with engine.begin() as conn:
        conn.execute(statement.on_conflict_do_update(index_elements=[Person.id], set_={"name": "Ada L"}))
        assert conn.scalar(sa.select(Person.name)) == "Ada L"


def test_server_side_cursor(engine: sa.Engine) -> None:
    with engine.connect().execution_options(yield_per=1) as conn:
        rows = [row.email for row in conn.execute(sa.select(Person.email))]
    assert rows == ["[redacted]"]


def test_reflection(engine: sa.Engine) -> None:
    inspector = sa.inspect(engine)
    assert set(inspector.get_table_names()) == {"people", "notes"}
    assert [c["name"] for c in inspector.get_columns("notes")] == ["id", "tenant", "text", "person_id"]
    assert inspector.get_foreign_keys("notes")[0]["referred_table"] == "people"
    assert inspector.get_unique_constraints("notes")[0]["column_names"] == ["text"]
    metadata = sa.MetaData()
    metadata.reflect(engine)
    assert set(metadata.tables) == {"people", "notes"}


def test_settings_of_a_request(engine: sa.Engine) -> None:
    """Two tenants take turns on one connection, and nobody gets the other's."""
    count = sa.select(sa.func.count()).select_from(Note)
    texts = sa.select(Note.text).order_by(Note.text)
    for _ in range(2):
        for tenant, expected in (("2", ["note 1", "note 3"]), ("1", ["note 2", "note 4"])):
            with engine.connect().execution_options(guarddb_settings={"app.tenant": tenant}) as conn:
                assert list(conn.scalars(texts)) == expected
                assert conn.scalar(count) == 2
    with engine.connect() as conn:
        # By statement, and back.
        assert list(conn.scalars(texts, execution_options={"guarddb_settings": {"app.tenant": "2"}})) == [
            "note 1",
            "note 3",
        ]
        assert list(conn.scalars(texts)) == ["note 2", "note 4"]
        conn.scalars(texts, execution_options={"guarddb_settings": {"app.tenant": "2"}}).all()
    raw = engine.raw_connection()
    try:
        cursor = raw.cursor()
        cursor.execute("SELECT text FROM notes ORDER BY 1")
        assert cursor.fetchall() == [("note 2",), ("note 4",)]
    finally:
        raw.close()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_pre_ping(database: str, way: Callable[..., sa.Engine]) -> None:
    engine = way(database, pool_pre_ping=True)
    for _ in range(2):
        with engine.connect() as conn:
            assert conn.scalar(sa.text("SELECT 1")) == 1
    engine.dispose()


def test_everything_in_the_url(database: str, tmp_path: Path) -> None:
    profile = tmp_path / "orm.yaml"
    profile.write_text("name: from the url\nmasking_rules: [{table: people, column: email, kind: 'null'}]\n")
    for made in (
        url(database, plugin="guarddb", guarddb_policy=str(profile), guarddb_agent="web"),
        url(database, "postgresql+guarddb", guarddb_policy=str(profile), guarddb_agent="web"),
    ):
        engine = sa.create_engine(made)
        with engine.connect() as conn:
            assert conn.scalar(sa.select(Person.email)) is None
            driver: Any = conn.connection.driver_connection
            assert (driver.policy.name, driver.agent) == ("from the url", "web")
        engine.dispose()


def test_a_bad_policy_is_an_error_when_the_engine_is_made(database: str) -> None:
    with pytest.raises(guarddb.PolicyError, match="no_such_field"):
        sa.create_engine(url(database), plugins=["guarddb"], guarddb_policy={"name": "x", "no_such_field": 1})


def test_another_driver_is_refused() -> None:
    with pytest.raises(ValueError, match=r"psycopg 3.*pysqlite"):
        guarded.guard(sa.create_engine("sqlite://"), policy=POLICY)


ASYNC_WAYS: dict[str, Callable[[str], AsyncEngine]] = {
    "plugin": lambda dsn: create_async_engine(url(dsn), plugins=["guarddb"], guarddb_policy=POLICY),
    "hook": lambda dsn: guarded.guard(create_async_engine(url(dsn)), policy=POLICY),  # type: ignore[dict-item,return-value]
    "dialect": lambda dsn: create_async_engine(
        url(dsn, "postgresql+guarddb"), connect_args={"policy": POLICY}
    ),
}


@pytest.fixture(params=ASYNC_WAYS)
async def async_engine(request: pytest.FixtureRequest, database: str) -> AsyncIterator[AsyncEngine]:
    engine = ASYNC_WAYS[request.param](database)
    yield engine
    await engine.dispose()


async def test_async(async_engine: AsyncEngine) -> None:
    async with async_engine.connect() as conn:
        raw = await conn.get_raw_connection()
        assert isinstance(raw.driver_connection, guarddb.AsyncConnection)
        assert (await conn.execute(sa.select(Person.email))).scalar_one() == "[redacted]"
        with pytest.raises(sa.exc.ProgrammingError) as refused:
            await conn.execute(sa.text("DELETE FROM notes"))
        assert getattr(refused.value.orig, "decision", None) is not None or isinstance(
            getattr(refused.value.orig, "__cause__", None), guarddb.PolicyViolation
        )
    option = {"guarddb_settings": {"app.tenant": "2"}}
    async with async_engine.connect() as conn:
        texts = sa.select(Note.text).order_by(Note.text)
        assert list(await conn.scalars(texts, execution_options=option)) == ["note 1", "note 3"]
        assert list(await conn.scalars(texts)) == ["note 2", "note 4"]
        result = await conn.stream(sa.select(Person.email))
        assert [row.email async for row in result] == ["[redacted]"]


def test_alembic_upgrade_and_autogenerate(database: str) -> None:
    """A migration under a profile that may define: the version table, an added column, and nothing left to generate."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    policy = {"name": "migrations", "access_mode": "read_write"}
    engine = sa.create_engine(url(database), plugins=["guarddb"], guarddb_policy=policy)
    with engine.begin() as conn:
        context = MigrationContext.configure(conn, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        context._ensure_version_table()
        Operations(context).add_column("people", sa.Column("phone", sa.Text))
        found = compare_metadata(context, Base.metadata)
        assert [each[0] for each in found] == ["remove_column"]
    engine.dispose()
