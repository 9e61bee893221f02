"""`guarddb eval`: the decision on a statement, without running it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import guarddb
from guarddb.cli.inputs import (
    DsnOption,
    JsonOption,
    PolicyOption,
    SchemaOption,
    SettingOption,
    read_catalog,
    read_policy,
    read_sql,
)
from guarddb.cli.render import console, decision_lines, print_json


def evaluate(
    policy: PolicyOption,
    sql: Annotated[str | None, typer.Argument(help="The statement; else --file or stdin.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Read the statement from a file.", metavar="FILE")
    ] = None,
    schema: SchemaOption = None,
    dsn: DsnOption = None,
    settings: SettingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge a statement against a profile. Nothing is run.

    Without --schema or --dsn names are taken as typed, and what a database may hold is not known: under a profile
    that restricts data a connection may refuse or mask more, which ends with exit code 3.

    Exit code 0: it would run; 1: it is blocked; 2: bad input; 3: only a catalog can tell.

    Example: guarddb eval -p analyst.yaml --schema catalog.json "SELECT email FROM customers"
    """
    profile = read_policy(policy, settings)
    text = read_sql(sql, file)
    decision = guarddb.evaluate(text, profile, read_catalog(schema, dsn))
    if as_json:
        print_json(decision.to_dict())
    else:
        console().print(decision_lines(decision, text))
    raise typer.Exit(1 if decision.blocked else 3 if decision.needs_catalog else 0)
