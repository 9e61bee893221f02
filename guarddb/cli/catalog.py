"""`guarddb catalog`: a database's catalog to a control plane, and a trigger by which the database announces its changes."""

from __future__ import annotations

from typing import Annotated

import psycopg
import typer

import guarddb
from guarddb.cli.inputs import (
    DsnOption,
    JsonOption,
    Problem,
    SchemaOption,
    plain_connection,
    read_catalog,
    sentence,
)
from guarddb.cli.render import print_json
from guarddb.policy.remote import Remote, describe, headers, read_key, require_httpx
from guarddb.sql.catalog import DROP_TRIGGER, INSTALL_TRIGGER

app = typer.Typer(
    help="The catalog: send it to a control plane, or have the database announce its changes.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def group() -> None:
    """The catalog: send it to a control plane, or have the database announce its changes."""


@app.command("push")
def push(
    project: Annotated[
        str,
        typer.Argument(help="The project: https://host/v1/projects/prj_…", metavar="URL", show_default=False),
    ],
    schema: SchemaOption = None,
    dsn: DsnOption = None,
) -> None:
    """Send a catalog: names, types, view definitions, no rows. The key is read from GUARDDB_API_KEY and has to be an admin's.

    Exit code 0: it was taken; 2: it was not.

    Example: guarddb catalog push https://policies.example/v1/projects/prj_1 --dsn postgresql://localhost/shop
    """
    catalog = read_catalog(schema, dsn)
    if catalog is None:
        raise Problem("name the catalog: --schema FILE, or --dsn DSN to read it from")
    try:
        httpx = require_httpx()
        remote = Remote.parse(project)
        key = read_key()
    except guarddb.PolicyError as ex:
        raise Problem(sentence(ex)) from ex
    if remote.events_url is None or "/policies/" in remote.profile_url:
        raise Problem("the URL is that of a project: https://host/v1/projects/prj_…")
    url = remote.events_url.removesuffix("/events") + "/catalog"
    told = {**headers(key), "Content-Type": "application/json"}
    try:
        answer = httpx.put(
            url, content=catalog.to_json().encode(), headers=told, timeout=60, trust_env=not remote.loopback
        )
    except httpx.HTTPError as ex:
        raise Problem(f"the control plane cannot be reached: {describe(ex)}") from ex
    if not answer.is_success:
        try:
            reason = str(answer.json()["error"]["message"])
        except (ValueError, LookupError, TypeError):
            reason = "no reason"
        raise Problem(f"the control plane answers {answer.status_code}: {reason}")
    print(f"pushed; digest {answer.json()['digest'][:12]}")


@app.command("install-trigger")
def install_trigger(
    dsn: Annotated[
        str | None,
        typer.Option("--dsn", "-d", help="The database, as a superuser of it.", metavar="DSN"),
    ] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Take the trigger away.")] = False,
    print_: Annotated[bool, typer.Option("--print", help="Print the SQL and do nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Install an event trigger by which the database announces changes of its catalog, so that connections see them at once.

    It is optional: without it a connection asks, and judges by a catalog that is at most 50 ms old (100 ms while others
    write all the time). It is not fired by ALTER SYSTEM, by commands about roles, databases and tablespaces and grants of
    these, by those about event triggers, nor by writes of the system's tables themselves; what of that concerns a catalog is
    seen after a second at most.

    PostgreSQL lets superusers alone make event triggers (up to version 18). Agents' roles need nothing.

    Exit code 0: it is done, or printed; 2: it cannot be done.

    Example: guarddb catalog install-trigger --dsn postgresql://postgres@localhost/shop
    """
    script = DROP_TRIGGER if drop else INSTALL_TRIGGER
    if print_:
        if as_json:
            print_json({"drop": drop, "sql": script})
        else:
            print(script)
        return
    if dsn is None:
        raise Problem("name the database: --dsn DSN, or --print to see the SQL")
    with plain_connection(dsn) as conn:
        try:
            with conn.transaction():
                conn.execute("SET LOCAL client_min_messages = warning")
                conn.execute(script.encode())
        except psycopg.errors.InsufficientPrivilege as ex:
            raise Problem(
                f"nothing is changed: {sentence(ex)}. Event triggers are a superuser's (up to PostgreSQL 18); "
                "without one connections ask by themselves, and see changes after 50 to 100 ms"
            ) from ex
        except psycopg.Error as ex:
            raise Problem(f"nothing is changed: {sentence(ex)}") from ex
        database = conn.info.dbname
    if as_json:
        print_json({"database": database, "installed": not drop})
    else:
        print(f"{database}: {'the trigger is gone' if drop else 'changes of the catalog are announced'}")
