"""The approver at the terminal: prints what would run and asks."""

from __future__ import annotations

import selectors
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import TextIO

from guarddb.content.visible import visible
from guarddb.runtime.approvals import Answer, ApprovalRequest, ApproverLost, ChangedRow, Outcome

#: The shown part of a statement, of a list of parameters, of a value; what is cut is said.
_SQL_CHARS, _PARAMETERS, _VALUE_CHARS = 20_000, 50, 200


class TerminalApprover:
    """Asks the person at the terminal (`/dev/tty`), one request at a time. Sync; an async connection asks it in a thread.

    `y` or `yes` approves; everything else rejects. No terminal, or one that is closed while it is asked, is no answer.

    Args:
        input, output: other streams to read the answer from and to write to.
        unmasked: show what the profile masks, in the sample of the rows.
    """

    def __init__(
        self, input: TextIO | None = None, output: TextIO | None = None, *, unmasked: bool = False
    ) -> None:
        self.unmasked = unmasked
        self._input = input
        self._output = output
        self._one_at_a_time = threading.Lock()

    def submit(self, request: ApprovalRequest) -> ApprovalRequest:
        return request

    def wait(self, request: ApprovalRequest, timeout: float | None) -> Answer:
        with self._one_at_a_time, self._streams() as (reading, writing):
            # Another request may have been on the screen until now.
            if request.expired():
                return Answer("expired")
            writing.write(shown(request))
            writing.write("Run this statement? [y/N] ")
            writing.flush()
            line = _read_line(reading, request.seconds_left())
            if line is None:
                writing.write("\nno answer in time: refused\n")
                return Answer("expired")
            if not line:
                raise ApproverLost("the terminal was closed")
            answer = line.strip().lower()
            if answer in ("y", "yes"):
                return Answer("approved", "terminal", request_id=request.id)
            return Answer(
                "rejected",
                "terminal",
                None if answer in ("", "n", "no") else f"the answer was {visible(answer, lines=False)!r:.40}",
                request.id,
            )

    def report(self, request: ApprovalRequest, status: Outcome) -> None:
        pass

    @contextmanager
    def _streams(self) -> Iterator[tuple[TextIO, TextIO]]:
        if self._input is not None and self._output is not None:
            yield self._input, self._output
            return
        with ExitStack() as opened:
            try:
                # Not stdin and stdout: these may be the agent's.
                reading = opened.enter_context(open("/dev/tty", encoding="utf-8", errors="replace"))
                writing = opened.enter_context(
                    open("/dev/tty", "w", encoding="utf-8", errors="backslashreplace")
                )
            except OSError as ex:
                raise ApproverLost(f"there is no terminal to ask at: {ex.strerror or ex}") from ex
            yield self._input or reading, self._output or writing


def _read_line(stream: TextIO, timeout: float | None) -> str | None:
    """A line, an empty text at the end of the stream, or None when time is up."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError, AttributeError):
        return stream.readline()  # a stream in memory
    with selectors.DefaultSelector() as selector:
        try:
            selector.register(descriptor, selectors.EVENT_READ)
        except (PermissionError, ValueError):
            return stream.readline()  # a regular file is always ready
        if not selector.select(timeout):
            return None
    return stream.readline()


def shown(request: ApprovalRequest) -> str:
    """A request as a person reads it. Every text in it that came from elsewhere is made visible."""
    lines = ["", f"-- approval {visible(request.id, lines=False)} " + "-" * 40]
    sql = request.sql
    cut = len(sql) - _SQL_CHARS
    lines.append(visible(sql[:_SQL_CHARS].strip()))
    if cut > 0:
        lines.append(f"… and {cut} more characters")
    lines.append("-" * 76)
    for index, value in enumerate((request.parameters or ())[:_PARAMETERS], 1):
        lines.append(f"  ${index} = {_short(value)}")
    if request.parameters and len(request.parameters) > _PARAMETERS:
        lines.append(f"  … and {len(request.parameters) - _PARAMETERS} more parameters")
    lines.append(f"kind:    {request.kind}")
    if request.tables:
        lines.append("tables:  " + ", ".join(visible(table, lines=False) for table in request.tables))
    lines.append(f"rows:    {_rows(request)}")
    if request.agent:
        lines.append(f"agent:   {_short(request.agent)}")
    if request.policy:
        lines.append(f"policy:  {_short(request.policy)}")
    lines.extend(
        f"{finding.severity + ':':8} {visible(finding.rule)}: {visible(finding.message, lines=False)}"
        for finding in request.findings
    )
    if request.sample:
        lines.append("sample of the rows:")
        lines.extend("  " + _row(row) for row in request.sample)
    if request.expires_at is not None:
        left = int((request.expires_at - datetime.now(UTC)).total_seconds())
        lines.append(f"expires: in {max(left, 0)} seconds")
    return "\n".join(lines) + "\n"


def _rows(request: ApprovalRequest) -> str:
    if request.counted_rows is not None:
        return f"{request.counted_rows} (counted in a trial run that was rolled back)"
    if request.estimated_rows is not None:
        return f"about {request.estimated_rows} (the planner's estimate)"
    return "not known"


def _row(row: ChangedRow) -> str:
    table = visible(row.table, lines=False)
    if row.old is None or row.new is None:
        sign, values = ("+", row.new) if row.old is None else ("-", row.old)
        return f"{table} {sign} " + ", ".join(f"{_short(c)}={_short(v)}" for c, v in (values or {}).items())
    changes = []
    for column, new in row.new.items():
        old = row.old.get(column)
        changes.append(
            f"{_short(column)}={_short(old)}" + ("" if old == new else f" \N{RIGHTWARDS ARROW} {_short(new)}")
        )
    return f"{table}: " + ", ".join(changes)


def _short(value: str | None) -> str:
    if value is None:
        return "NULL"
    text = visible(value[:_VALUE_CHARS], lines=False)
    return text if len(value) <= _VALUE_CHARS else f"{text}… ({len(value)} characters)"
