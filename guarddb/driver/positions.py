"""Errors that speak of the agent's text: where in it something is wrong, and the line that is quoted.

PostgreSQL says where by a position in the text that it got, with the masks and filters written into it.
"""

from __future__ import annotations

import re

from psycopg import errors as e
from psycopg.pq import DiagnosticField as Field

from guarddb.driver.plans import JudgedText

#: What libpq adds to the message (fe-protocol3.c, reportErrorPosition), and how much of a line it quotes.
_QUOTED_LINE = re.compile(r"\nLINE \d+: [^\n]*\n *\^")
_WIDTH, _RIGHT = 60, 10


def in_the_agents_text(edits: tuple[tuple[int, int, int], ...], position: int) -> int:
    """The place in the agent's text for one in the sent text, both from 0; what was put in counts as where it stands.

    >>> in_the_agents_text(((7, 10, 20), (15, 15, 4)), 30)
    13
    >>> in_the_agents_text(((7, 10, 20), (15, 15, 4)), 12)
    7
    """
    shift = 0
    for start, end, length in edits:
        begins = start + shift
        if position < begins:
            break
        if position < begins + length:
            return start
        shift += length - (end - start)
    return position - shift


def quoted_line(text: str, position: int) -> str:
    """The line of a place and a caret below it, as libpq shows them."""
    number = text.count("\n", 0, position) + 1
    first = text.rfind("\n", 0, position) + 1
    last = text.find("\n", position)
    line = (text[first:] if last < 0 else text[first:last]).rstrip("\r").replace("\t", " ")
    column = position - first
    if len(line) > _WIDTH:
        if column + _RIGHT < _WIDTH:
            line = line[:_WIDTH] + "..."
        else:
            end = min(column + _RIGHT, len(line))
            begin = max(0, end - _WIDTH)
            line = "..." + line[begin:end] + ("..." if end < len(line) else "")
            column = column - begin + 3
    lead = f"LINE {number}: "
    return f"\n{lead}{line}\n{' ' * (len(lead) + column)}^"


def placed(error: e.Error, judged: JudgedText | None) -> None:
    """Let an error about a statement that was rewritten speak of the text that the agent sent."""
    if judged is None or not judged.plan.edits or error._info is None:
        return
    diagnostic = error.diag
    said = diagnostic.statement_position
    if said is None or diagnostic.internal_query or not said.isdecimal():
        return
    position = min(in_the_agents_text(judged.plan.edits, int(said) - 1), len(judged.text))
    fields = error._info if isinstance(error._info, dict) else fields_of(diagnostic)
    fields[Field.STATEMENT_POSITION] = str(position + 1).encode()
    message = str(error)
    error._info = fields
    line = quoted_line(judged.text, position)
    error.args = (_QUOTED_LINE.sub(lambda _: line, message, count=1),)


def fields_of(diagnostic: e.Diagnostic) -> dict[int, bytes | None]:
    """All fields of a server message."""
    encoding = diagnostic._encoding
    fields: dict[int, bytes | None] = {}
    for field in Field:
        value = diagnostic._error_message(field)
        if value is not None:
            fields[field] = value.encode(encoding, "replace")
    return fields
