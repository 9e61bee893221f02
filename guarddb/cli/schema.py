"""`guarddb schema` and `guarddb snapshot`: the two JSON documents other tools need."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from guarddb.cli.inputs import Problem, read_catalog
from guarddb.cli.render import print_json
from guarddb.policy.profile import json_schema

OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write to this file instead of stdout.", metavar="FILE")
]


def schema() -> None:
    """Print the JSON Schema of a policy profile, for editors and validators.

    Example: guarddb schema > policy.schema.json
    """
    print_json(json_schema())


def snapshot(
    dsn: Annotated[str, typer.Option("--dsn", "-d", help="The database to read.", metavar="DSN")],
    output: OutputOption = None,
) -> None:
    """Write a database's catalog as JSON, so that `eval` and `check` can work without the database.

    It holds names, types, view definitions and function signatures; no rows.

    Example: guarddb snapshot --dsn postgresql://localhost/shop -o catalog.json
    """
    catalog = read_catalog(None, dsn)
    assert catalog is not None
    text = catalog.to_json()
    if output is None:
        sys.stdout.write(text + "\n")
        return
    try:
        output.write_text(text + "\n", encoding="utf-8")
    except OSError as ex:
        raise Problem(f"cannot write {output}: {ex.strerror or ex}") from ex
