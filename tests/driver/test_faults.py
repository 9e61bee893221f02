"""Row data in the server's errors and notices, and what is left of them."""

from __future__ import annotations

import pickle
from typing import Any

import psycopg
import pytest

import guarddb
from tests.driver.conftest import SELECT, Connect, Engine, block, changed, collect, run

SECRET = "078-05-1120"


def everything(ex: BaseException) -> str:
    """All that an error shows, chains included."""
    shown = [str(ex), repr(ex)]
    diag = getattr(ex, "diag", None)
    shown += [str(getattr(diag, name)) for name in dir(diag) if not name.startswith("_")]
    shown += [everything(chained) for chained in (ex.__cause__, ex.__context__) if chained is not None]
    return " ".join(shown)


@pytest.fixture
async def secrets(connect: Connect, answers: Engine) -> Any:
    """A connection with a table of secrets, every statement on which is sensitive."""
    conn = await connect(autocommit=True)
    await run(
        conn.execute(
            "CREATE TEMP TABLE secrets (id int PRIMARY KEY, ssn text UNIQUE DEFERRABLE INITIALLY DEFERRED,"
            " CONSTRAINT short CHECK (length(ssn) < 12))"
        )
    )
    await run(conn.execute(f"INSERT INTO secrets VALUES (1, '{SECRET}')"))
    return conn


STATEMENTS = {
    "SELECT ssn::int FROM secrets": psycopg.errors.InvalidTextRepresentation,
    "SELECT ssn::regclass FROM secrets": psycopg.Error,
    "SELECT ('x' || replace(ssn, '-', ''))::regtype FROM secrets": psycopg.errors.UndefinedObject,
    "SELECT ('x' || replace(ssn, '-', '') || '%TYPE')::regtype FROM secrets": psycopg.errors.SyntaxError,
    "SELECT ('x' || replace(ssn, '-', '') || '()')::regprocedure FROM secrets": psycopg.errors.UndefinedFunction,
    "SELECT ('=(int,x' || replace(ssn, '-', '') || ')')::regoperator FROM secrets": psycopg.errors.UndefinedObject,
    "SELECT ssn::date FROM secrets": psycopg.DataError,
    "SELECT (replace(ssn, '-', ''))::smallint FROM secrets": psycopg.errors.NumericValueOutOfRange,
    "INSERT INTO secrets SELECT 1, ssn FROM secrets": psycopg.errors.UniqueViolation,
    "INSERT INTO secrets SELECT 2, ssn || ssn FROM secrets": psycopg.errors.CheckViolation,
    "INSERT INTO secrets SELECT 3, ssn FROM secrets": psycopg.errors.UniqueViolation,
}


@pytest.mark.parametrize("text", STATEMENTS)
async def test_errors_keep_class_and_lose_values(secrets: Any, answers: Engine, text: str) -> None:
    answers.allow(text, sensitive=True)
    with pytest.raises(STATEMENTS[text]) as caught:
        await run(secrets.execute(text))
    ex = caught.value
    assert SECRET not in everything(ex)
    assert SECRET.replace("-", "") not in everything(ex)
    assert ex.pgresult is None
    assert ex.sqlstate == ex.diag.sqlstate
    assert SECRET not in everything(pickle.loads(pickle.dumps(ex)))


async def test_names_of_constraints_stay(secrets: Any, answers: Engine) -> None:
    text = "INSERT INTO secrets SELECT 1, 'x' FROM secrets"
    answers.allow(text, sensitive=True)
    with pytest.raises(psycopg.errors.UniqueViolation) as caught:
        await run(secrets.execute(text))
    assert str(caught.value) == 'duplicate key value violates unique constraint "secrets_pkey"'
    assert caught.value.diag.constraint_name == "secrets_pkey"
    assert caught.value.diag.table_name == "secrets"


@pytest.mark.parametrize("way", ["stream", "server", "copy", "pipeline", "executemany", "commit"])
async def test_every_path_is_cleaned(secrets: Any, answers: Engine, way: str) -> None:
    text = "SELECT ssn::int FROM secrets"
    late = "INSERT INTO secrets SELECT 3, ssn FROM secrets"
    copy = f"COPY ({text}) TO STDOUT"
    for each in (text, late, copy, f'DECLARE "c" CURSOR FOR {text}'):
        answers.allow(each, sensitive=True)

    async def go() -> None:
        if way == "stream":
            await collect(secrets.cursor().stream(text))
        elif way == "server":
            async with block(secrets.transaction()), block(secrets.cursor("c")) as cur:
                await run(cur.execute(text))
                await run(cur.fetchall())
        elif way == "copy":
            async with block(secrets.cursor().copy(copy)) as rows:
                await collect(rows)
        elif way == "pipeline":
            async with block(secrets.pipeline()):
                await run(secrets.execute(text))
        elif way == "executemany":
            await run(secrets.cursor().executemany(text, [(), ()]))
        else:
            async with block(secrets.transaction()):
                await run(secrets.execute(late))

    with pytest.raises(psycopg.Error) as caught:
        await go()
    assert SECRET not in everything(caught.value)
    assert caught.value.sqlstate in ("22P02", "23505")


async def test_error_of_parse_analysis_is_left_alone(secrets: Any, answers: Engine) -> None:
    answers.allow("SELECT nowhere FROM secrets", sensitive=True)
    with pytest.raises(psycopg.errors.UndefinedColumn, match='column "nowhere" does not exist'):
        await run(secrets.execute("SELECT nowhere FROM secrets"))


async def test_error_of_an_ordinary_statement_is_left_alone(secrets: Any) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation) as caught:
        await run(secrets.execute("INSERT INTO secrets VALUES (1, 'x')"))
    assert caught.value.diag.message_detail == "Key (id)=(1) already exists."
    assert caught.value.pgresult is not None


async def test_notices_lose_values(secrets: Any, answers: Engine, plain: psycopg.Connection[Any]) -> None:
    plain.execute(
        "CREATE OR REPLACE FUNCTION tell(text) RETURNS text LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE WARNING 'saw %', $1 USING DETAIL = $1; RETURN $1; END $$"
    )
    try:
        heard: list[str] = []
        secrets.add_notice_handler(
            lambda diag: heard.append(f"{diag.message_primary} {diag.message_detail} {diag.severity}")
        )
        answers.allow("SELECT length(tell(ssn)) FROM secrets", sensitive=True)
        answers.allow("SELECT tell('x')")
        await run(secrets.execute("SELECT length(tell(ssn)) FROM secrets"))
        await run(secrets.execute("SELECT tell('x')"))
    finally:
        plain.execute("DROP FUNCTION tell(text)")
    assert len(heard) == 2
    assert SECRET not in heard[0]
    assert heard[0].endswith("None WARNING")
    assert heard[1] == "saw x x WARNING"


async def test_marker_of_the_row_filter_check_becomes_a_refusal(connect: Connect, answers: Engine) -> None:
    sent = "SELECT ('guarddb:row_filter_violation:public.orders' || left(current_user, 0))::int"
    answers.allow("SELECT 1", changed(SELECT, sensitive=True), sql=sent)
    conn = await connect(autocommit=True)
    with pytest.raises(guarddb.PolicyViolation) as caught:
        await run(conn.execute("SELECT 1"))
    ex = caught.value
    assert (ex.rule, ex.sqlstate) == ("row_filter_violation", "42501")
    assert 'table "public.orders"' in str(ex)
    assert ex.__context__ is None
