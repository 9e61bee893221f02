"""`guarddb risk score`: the risk score of an event, explained."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from guarddb.cli.inputs import JsonOption, Problem, read_text

app = typer.Typer(
    help="The action policy: what an event scores, and why.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

VERDICT_STYLES = {
    "allow": "bold white on green",
    "flag": "bold black on yellow",
    "refuse": "bold white on red",
}


@app.callback()
def group() -> None:
    """The action policy: what an event scores, and why."""


@app.command("score")
def score(
    event: Annotated[
        Path, typer.Argument(help="The event as JSON; - is standard input.", metavar="EVENT.json")
    ],
    policy: Annotated[
        str, typer.Option("--policy", "-p", help="Action policy: YAML, JSON or TOML.", metavar="FILE")
    ],
    flag_at: Annotated[int, typer.Option(help="The score from which on an event is flagged.")] = 60,
    refuse_at: Annotated[int, typer.Option(help="The score from which on it is refused.")] = 85,
    as_json: JsonOption = False,
) -> None:
    """Score an event against an action policy, and show what the score is made of.

    Exit code 0: it may happen (it may be flagged); 1: it is refused; 2: bad input.

    Example: guarddb risk score event.json --policy actions.yaml
    """
    from guarddb.policy.errors import PolicyError
    from guarddb.risk import EventError, score as judge

    try:
        result = judge(_event(event), policy, flag_at=flag_at, refuse_at=refuse_at, explain=as_json)
    except (PolicyError, EventError) as ex:
        what = "the event: " if isinstance(ex, EventError) else ""
        raise Problem(what + " ".join(str(ex).split())) from ex
    if as_json:
        from guarddb.cli.render import print_json

        print_json(result.to_dict())
    else:
        _show(result)
    raise typer.Exit(1 if result.refused else 0)


def _event(path: Path) -> dict[str, Any]:
    if str(path) == "-":
        try:
            text = sys.stdin.buffer.read().decode()
        except UnicodeDecodeError as ex:
            raise Problem(f"standard input is not UTF-8 text (byte {ex.start})") from ex
    else:
        text = read_text(path)
    try:
        event = json.loads(text)
    except (ValueError, RecursionError) as ex:
        raise Problem(f"{path} is not JSON ({ex})") from ex
    if not isinstance(event, dict):
        raise Problem(f"{path} holds no event: an event is a JSON object")
    return event


def _show(result: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    from guarddb.cli.render import console

    out = console()
    line = Text.assemble((f" {result.verdict.upper()} ", VERDICT_STYLES[result.verdict]))
    line.append(f" score {result.score} of 100, {result.risk_level}")
    out.print(line)
    table = Table(show_edge=False, header_style="bold", pad_edge=False)
    table.add_column("rule")
    table.add_column("contribution", justify="right")
    table.add_column("because", overflow="fold")
    for component in result.score_components:
        table.add_row(Text(component.rule), f"{component.contribution:+g}", Text(component.because))
    table.add_section()
    table.add_row("score", str(result.score), "")
    out.print(table)
    for each in result.violations:
        out.print(Text.assemble(("violation: ", "red"), each))
    for each in result.notes:
        out.print(Text.assemble(("note: ", "dim"), (each, "dim")))
