"""How decisions and results look on a terminal, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from guarddb import Decision
from guarddb.content.visible import visible

VERDICT_STYLES = {
    "allow": "bold white on green",
    "mask": "bold white on magenta",
    "row-filter": "bold white on blue",
    "block": "bold white on red",
}

#: Longest value of a cell on a terminal; a result is shown to be looked at there, not to be read to the end.
CELL_WIDTH = 48


def decision_of(ex: BaseException, cur: Any) -> Decision | None:
    """The decision behind an error: what the engine said, or what was refused after it had allowed the text.

    A budget and a written row that a filter hides are found later; the error then says so in its own words.
    """
    decision: Decision | None = getattr(ex, "decision", None) or getattr(cur, "decision", None)
    rule = getattr(ex, "rule", None)
    if rule is None or (decision is not None and decision.blocked):
        return decision
    return Decision("block", rule, " ".join(str(ex).split()), getattr(ex, "hint", None))


class Described(Protocol):
    """A column of `cursor.description`, as far as a table needs it."""

    @property
    def name(self) -> str: ...


def print_json(document: Any) -> None:
    """Plain JSON on stdout: ASCII, so that no terminal encoding can spoil it."""
    print(json.dumps(document, indent=2, default=json_value))


def json_value(value: Any) -> str:
    """A database value that JSON has no word for, as PostgreSQL's text would show it."""
    if isinstance(value, bytes | bytearray | memoryview):
        return "\\x" + bytes(value).hex()
    return str(value)


def sql_block(sql: str) -> Syntax:
    return Syntax(
        visible(sql.strip()), "postgresql", theme="ansi_dark", background_color="default", word_wrap=True
    )


def verdict_line(decision: Decision) -> Text:
    """`BLOCK table_denied: table "shop.api_keys" is denied …`"""
    line = Text.assemble((f" {decision.verdict.upper()} ", VERDICT_STYLES[decision.verdict]))
    if decision.rule != "ok":
        line.append(f" {decision.rule}", "bold")
    if decision.reason:
        line.append(f" {visible(decision.reason, lines=False)}")
    return line


def decision_lines(decision: Decision, original: str | None = None, *, notes: bool = True) -> Group:
    """The verdict with everything that goes with it. `original` keeps a text that was not changed from being
    repeated."""
    parts: list[RenderableType] = [verdict_line(decision)]
    if decision.hint:
        parts.append(Text.assemble(("hint: ", "yellow"), visible(decision.hint)))
    if decision.try_sql is not None and decision.try_sql not in (decision.hint or ""):
        parts.append(Text("try:", "cyan"))
        parts.append(Padding(sql_block(decision.try_sql), (0, 0, 0, 2)))
    if decision.needs_catalog:
        needs = "a connection may refuse or mask more: use --schema or --dsn"
        parts.append(Text.assemble(("needs a catalog: ", "yellow"), needs))
    if decision.masked_columns:
        names = ", ".join(f"{visible(m.column, lines=False)} ({m.kind})" for m in decision.masked_columns)
        parts.append(Text.assemble(("masked: ", "magenta"), names))
    if decision.row_filter_predicate:
        parts.append(Text.assemble(("filter: ", "blue"), visible(decision.row_filter_predicate)))
    sent = decision.rewritten_sql
    if sent is not None and (original is None or sent.strip() != original.strip()):
        parts.append(Text("sent:", "cyan"))
        parts.append(Padding(sql_block(sent), (0, 0, 0, 2)))
    if notes:
        parts.extend(Text.assemble(("note: ", "dim"), (visible(note), "dim")) for note in decision.notes)
    return Group(*parts)


def result_table(
    description: Sequence[Described], rows: Sequence[Sequence[Any]], width: int | None = CELL_WIDTH
) -> Table:
    """The rows as a table, its values cut after so many characters (None: as they are)."""
    table = Table(show_edge=False, header_style="bold", pad_edge=False)
    for column in description:
        table.add_column(Text(visible(column.name, lines=False)), overflow="fold")
    for row in rows:
        table.add_row(*(cell(value, width) for value in row))
    return table


def cell(value: Any, width: int | None = CELL_WIDTH) -> Text:
    if value is None:
        return Text("NULL", "dim")
    if isinstance(value, bool | dict | list):
        shown = json.dumps(value, ensure_ascii=False, default=json_value)
    else:
        shown = value if isinstance(value, str) else json_value(value)
    if width is not None and len(shown) > width:
        shown = shown[: width - 1] + "…"
    return Text(visible(shown))


def console() -> Console:
    """A console; where output is piped, lines are as long as they need to be and carry no colour."""
    # No markup and no emoji: a table named "[red]" or a value ":smile:" is shown as it is.
    made = Console(highlight=False, markup=False, emoji=False)
    return made if made.is_terminal else Console(highlight=False, markup=False, emoji=False, width=140)
