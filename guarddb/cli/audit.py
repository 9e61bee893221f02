"""`guarddb audit verify`: whether a decision log is as it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from guarddb.cli.inputs import JsonOption, Problem

app = typer.Typer(
    help="The decision log.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def group() -> None:
    """The decision log."""


@app.command("verify")
def verify(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="The files of one log, the rotated ones too, in any order.", metavar="FILE..."),
    ] = None,
    key_env: Annotated[
        str | None,
        typer.Option("--key-env", help="Environment variable with the HMAC key of the log.", metavar="NAME"),
    ] = None,
    dsn: Annotated[
        str | None,
        typer.Option("--dsn", "-d", help="A log in a table of this database instead.", metavar="DSN"),
    ] = None,
    table: Annotated[str, typer.Option(help="The table of the log, with --dsn.")] = "guarddb_decisions",
    as_json: JsonOption = False,
) -> None:
    """Check the hash chain of a decision log: no line changed, removed, reordered or cut off.

    Exit code 0: the log is as it was written; 1: it is not, and each line that is wrong is named; 2: it cannot be read.

    Example: guarddb audit verify decisions.jsonl decisions.jsonl.1-5000
    """
    from guarddb.policy.errors import PolicyError
    from guarddb.runtime.chain import verify as check
    from guarddb.runtime.jsonl import read_key

    if bool(files) == (dsn is not None):
        raise Problem("give the files of a log, or --dsn, one of the two")
    try:
        key = read_key(None, key_env)
        outcome = check(files, key) if files else _check_table(dsn or "", table, key)
    except PolicyError as ex:
        raise Problem(str(ex)) from ex
    except OSError as ex:
        raise Problem(f"cannot read {ex.filename}: {ex.strerror or ex}") from ex
    if as_json:
        _print_json(outcome)
    else:
        _show(outcome)
    raise typer.Exit(0 if outcome.intact else 1)


def _check_table(dsn: str, table: str, key: bytes | None) -> Any:
    from psycopg import Error

    from guarddb.cli.inputs import sentence
    from guarddb.driver.decision_table import PostgresSink
    from guarddb.runtime.chain import verify_lines

    sink = PostgresSink(dsn, table=table)
    try:
        lines, head = sink.lines()
    except Error as ex:
        raise Problem(f"cannot read the table {table}: {sentence(ex)}") from ex
    finally:
        sink.close()
    return verify_lines(table, lines, head, key)


def _print_json(outcome: Any) -> None:
    from dataclasses import asdict

    from guarddb.cli.render import print_json

    faults = [asdict(fault) for fault in outcome.faults]
    print_json({"intact": outcome.intact, "lines": outcome.lines, "faults": faults, "notes": outcome.notes})


def _show(outcome: Any) -> None:
    from rich.text import Text

    from guarddb.cli.render import console

    out = console()
    for fault in outcome.faults:
        line = Text.assemble((f"{fault.file}:{fault.line}: ", "bold"), (fault.fault, "bold red"))
        out.print(line.append(f": {fault.detail}"), soft_wrap=True)
    for note in outcome.notes:
        out.print(Text.assemble(("note: ", "dim"), (note, "dim")), soft_wrap=True)
    if outcome.intact:
        out.print(f"{outcome.lines} lines, the chain is whole")
    else:
        out.print(f"{len(outcome.faults)} faults; {outcome.lines} lines are right by themselves")
