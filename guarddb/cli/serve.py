"""`guarddb serve`: the control plane."""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path
from typing import Annotated

import typer

from guarddb.cli.inputs import Problem, sentence


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on.", envvar="GUARDDB_HOST", metavar="ADDRESS")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0: any free one.", envvar="GUARDDB_PORT", min=0, max=65535)
    ] = 8400,
    database: Annotated[
        str,
        typer.Option(
            help="A SQLite file (made when it is missing), or the URL of a PostgreSQL database.",
            envvar="GUARDDB_DATABASE",
            metavar="FILE|URL",
        ),
    ] = "guarddb.sqlite3",
    rate_limit: Annotated[
        str,
        typer.Option(
            help="Requests of one key: a number (per minute), or 10/second, 100000/hour.",
            envvar="GUARDDB_RATE_LIMIT",
            metavar="RATE",
        ),
    ] = "6000/minute",
    max_body: Annotated[
        int, typer.Option(help="Bytes that a request's body may have.", envvar="GUARDDB_MAX_BODY", min=1024)
    ] = 4 * 1024 * 1024,
    max_policies: Annotated[
        int, typer.Option(help="Policies in a project; 0: any number.", envvar="GUARDDB_MAX_POLICIES", min=0)
    ] = 0,
    max_agents: Annotated[
        int, typer.Option(help="Agents in a project; 0: any number.", envvar="GUARDDB_MAX_AGENTS", min=0)
    ] = 0,
    project: Annotated[
        str,
        typer.Option(help="The project that a new database gets.", envvar="GUARDDB_PROJECT", metavar="ID"),
    ] = "prj_default",
    private_webhooks: Annotated[
        bool,
        typer.Option(
            "--private-webhooks",
            help="Webhooks may go to private addresses, and over plain http.",
            envvar="GUARDDB_PRIVATE_WEBHOOKS",
        ),
    ] = False,
    signing_key: Annotated[
        Path | None,
        typer.Option(
            help="File with the Ed25519 private key (32 bytes in base64) that profiles are signed with.",
            envvar="GUARDDB_SIGNING_KEY",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Serve the control plane: profiles over HTTP, agents, approvals, pages.

    On an empty machine it makes its database and prints the first admin key, once.

    Example: guarddb serve --database postgresql://guarddb@db/guarddb
    """
    try:
        from guarddb.integrations.control_plane.identifiers import is_id
        from guarddb.integrations.control_plane.serve import serve as run
        from guarddb.integrations.control_plane.settings import Settings, is_loopback
        from guarddb.integrations.control_plane.store.database import DatabaseError
    except ImportError as ex:
        raise Problem(sentence(ex)) from ex
    if not is_id(project, "prj"):
        raise Problem("--project is prj_ and then letters, digits, _ or -")
    try:
        settings = Settings(
            database=database,
            project=project,
            rate_limit=rate_limit,
            max_body=max_body,
            max_policies=max_policies,
            max_agents=max_agents,
            secure_cookies=not is_loopback(host),
            private_webhooks=private_webhooks,
            signing_key=_private_key(signing_key) if signing_key else None,
            secret=os.environ.get("GUARDDB_SECRET") or None,
        )
        run(settings, host, port)
    except DatabaseError as ex:
        raise Problem(str(ex)) from ex
    except ValueError as ex:
        raise Problem(sentence(ex)) from ex
    except OSError as ex:
        raise Problem(f"cannot serve: {ex.strerror or ex}") from ex


def _private_key(path: Path) -> bytes:
    try:
        return base64.b64decode(path.read_bytes().strip(), validate=True)
    except OSError as ex:
        raise Problem(f"cannot read {path}: {ex.strerror or ex}") from ex
    except binascii.Error as ex:
        raise Problem(f"{path} does not hold a key in base64") from ex
