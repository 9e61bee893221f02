"""`guarddb mcp`: an MCP server over a database under a policy."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import psycopg
import typer

from guarddb.cli.inputs import (
    PolicyOption,
    Problem,
    SettingOption,
    read_policy,
    read_settings,
    sentence,
)


class Transport(StrEnum):
    """How clients reach the server."""

    stdio = "stdio"
    http = "http"


def mcp(
    dsn: Annotated[str, typer.Argument(help="The database, as libpq writes it.")],
    policy: PolicyOption,
    settings: SettingOption = None,
    transport: Annotated[
        Transport, typer.Option(help="stdio, or http (streamable HTTP at /mcp).")
    ] = Transport.stdio,
    host: Annotated[str, typer.Option(help="With http: address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="With http: port to listen on.", min=1, max=65535)] = 8401,
    agent: Annotated[str, typer.Option(help="Who budgets and logs are for.")] = "mcp",
    max_rows: Annotated[int, typer.Option(help="Rows of one answer at the most.", min=1, max=200)] = 200,
    budgets: Annotated[
        str | None, typer.Option(help="Where budgets are counted: memory://, redis://…", metavar="URI")
    ] = None,
) -> None:
    """Serve a database to agents over MCP: query, validate_sql, list_tables, describe_table, explain and more.

    Example: guarddb mcp --policy analyst.yaml postgresql://agent@localhost/shop
    """
    try:
        from guarddb.integrations.mcp import server
    except ImportError as ex:
        raise Problem(str(ex)) from ex
    # A URL stays one, so that a stored profile is followed while the server runs.
    source = policy if "://" in policy else read_policy(policy)
    try:
        made = server(
            dsn,
            source,
            agent=agent,
            settings=read_settings(settings),
            max_rows=max_rows,
            **({"budgets": budgets} if budgets else {}),
        )
    except psycopg.ProgrammingError as ex:
        raise Problem(f"cannot connect: {sentence(ex)}") from ex
    if transport is Transport.stdio:
        made.run("stdio")
        return
    try:
        made.run("streamable-http", host=host, port=port)
    except SystemExit as ex:  # uvicorn's, which has said why
        if ex.code:
            raise Problem(f"cannot listen on {host}:{port}") from ex
        raise
