"""`guarddb catalog push`: a database's catalog to a control plane, so that its evaluations judge as live sessions do."""

from __future__ import annotations

from typing import Annotated

import typer

import guarddb
from guarddb.cli.inputs import DsnOption, Problem, SchemaOption, read_catalog, sentence
from guarddb.policy.remote import Remote, describe, headers, read_key, require_httpx

app = typer.Typer(
    help="The catalog that a control plane evaluates with.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def group() -> None:
    """The catalog that a control plane evaluates with."""


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
