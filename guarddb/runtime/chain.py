"""The hash chain of a decision log, and its verification.

Every line is a JSON object with `seq`, `prev` (the hash of the line before) and `hash`: SHA-256 over the line without its hash,
or HMAC-SHA-256 under a key. Beside the file stands `<file>.head` with the last line's number and hash, for a chain by itself
does not show that lines are missing at its end. Without a key whoever can write both files can forge both; with one he cannot.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

#: What the first line's `prev` is.
GENESIS: Final = "0" * 64
#: A longer line is none of ours.
MAX_LINE: Final = 16 << 20

#: `<file>.<first record>-<last record>`, by which a file is called when a new one is begun.
_CLOSED: Final = re.compile(r"\.([0-9]+)-([0-9]+)$")

Fault: TypeAlias = Literal["changed", "removed", "reordered", "truncated"]


@dataclass(frozen=True, slots=True)
class LogFault:
    """What is wrong with one line of a log.

    Attributes:
        file, line: where, the first line is 1. Of removed lines the line behind the gap, or one behind the last.
        fault: what.
        detail: in words.
    """

    file: str
    line: int
    fault: Fault
    detail: str


@dataclass(slots=True)
class Verification:
    """The outcome of verifying log files: how many lines were right, and every fault."""

    lines: int = 0
    faults: list[LogFault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def intact(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults


def canonical(record: Mapping[str, Any]) -> bytes:
    """The bytes that a line's hash is over."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def digest(record: Mapping[str, Any], key: bytes | None) -> str:
    """The hash of a line: of everything in it but the hash."""
    data = canonical({name: value for name, value in record.items() if name != "hash"})
    return hmac.digest(key, data, "sha256").hex() if key is not None else hashlib.sha256(data).hexdigest()


def head_path(path: str | Path) -> Path:
    """Where the number and hash of a file's last line stand."""
    return Path(f"{path}.head")


def head_text(seq: int, line_hash: str, key: bytes | None) -> bytes:
    """What stands there: always as many bytes, so that it is written over in place."""
    sealed = digest({"seq": seq, "last": line_hash}, key)
    return f"{seq:020d} {line_hash} {sealed}\n".encode()


def read_head(data: bytes, key: bytes | None) -> tuple[int, str] | None:
    """(number, hash) of the last line; None when the text is not ours, or not sealed with this key."""
    parts = data.decode("ascii", "replace").split()
    if len(parts) != 3 or not parts[0].isdigit():
        return None
    seq = int(parts[0])
    same = hmac.compare_digest(digest({"seq": seq, "last": parts[1]}, key), parts[2])
    return (seq, parts[1]) if same else None


@dataclass(slots=True)
class _Line:
    file: str
    number: int
    record: dict[str, Any] | None
    complete: bool
    own_hash: bool


def verify(paths: Iterable[str | Path], key: bytes | None = None) -> Verification:
    """Verify log files, the rotated ones of a log together with its current one, in any order.

    Raises:
        OSError: a file cannot be read.
    """
    outcome = Verification()
    files = [(str(path), list(_lines(Path(path), key))) for path in paths]
    files.sort(key=lambda each: next((line.record["seq"] for line in each[1] if line.record), 0))
    last: _Line | None = None
    for name, lines in files:
        begins = _first_of(name) if last is None else None
        last = _verify_file(name, lines, last, outcome, begins=begins)
        try:
            head = head_path(name).read_bytes()
        except OSError:
            head = None
        _verify_end(name, lines, head, key, outcome)
    return outcome


def verify_lines(
    name: str, lines: Iterable[bytes], head: bytes | None, key: bytes | None = None
) -> Verification:
    """Verify a log that is in no file; `name` stands for it in what is found."""
    outcome = Verification()
    read = [_line(name, number, data, key) for number, data in enumerate(lines, 1)]
    _verify_file(name, read, None, outcome, begins=1)
    _verify_end(name, read, head, key, outcome)
    return outcome


def _first_of(name: str) -> int | None:
    """The record that a file has to begin with, when it is the first one that is given; None where that cannot be told.

    A closed file says it by its name: what came before may have been thrown away (`keep`). The current one continues the
    newest closed one, which is always kept.
    """
    if (closed := _CLOSED.search(name)) is not None:
        return int(closed[1])
    path = Path(name)
    lasts = [
        int(found[2])
        for other in path.parent.glob(f"{escape(path.name)}.*")
        if (found := _CLOSED.fullmatch(other.name[len(path.name) :])) is not None
    ]
    return max(lasts, default=0) + 1


def _lines(path: Path, key: bytes | None) -> Iterator[_Line]:
    with path.open("rb") as file:
        for number, data in enumerate(iter(lambda: file.readline(MAX_LINE), b""), 1):
            yield _line(str(path), number, data, key)


def _line(name: str, number: int, data: bytes, key: bytes | None) -> _Line:
    record: dict[str, Any] | None = None
    with suppress(ValueError, RecursionError):
        found = json.loads(data)
        if isinstance(found, dict) and type(found.get("seq")) is int and isinstance(found.get("hash"), str):
            record = found
    right = record is not None and hmac.compare_digest(
        digest(record, key).encode(), record["hash"].encode("utf-8", "replace")
    )
    # Cut off, also where somebody has ended the line later.
    complete = data.endswith(b"\n") and data.rstrip().endswith(b"}")
    return _Line(name, number, record, complete, right)


def _verify_file(
    name: str, lines: list[_Line], last: _Line | None, outcome: Verification, *, begins: int | None = None
) -> _Line | None:
    """`last`: the line with the highest number so far, which the next one continues; `begins`: where there is none, the record
    that comes first."""
    there = {line.record["seq"] for line in lines if line.record is not None}
    unreadable = 0

    def fault(line: _Line, what: Fault, detail: str) -> None:
        outcome.faults.append(LogFault(name, line.number, what, detail))

    for line in lines:
        record = line.record
        if record is None:
            unreadable += 1
            if line.complete:
                fault(line, "changed", "the line is no record of this log")
            else:
                fault(line, "truncated", "the line ends in the middle")
            continue
        seq: int = record["seq"]
        if not line.own_hash:
            fault(line, "changed", f"record {seq} does not have the hash that it says")
        else:
            outcome.lines += 1
        if last is None or last.record is None:
            if seq == 1 and record.get("prev") != GENESIS:
                fault(line, "changed", "the first record does not begin a chain")
            elif begins is not None and seq - begins > unreadable:
                missing = f"record {begins} is" if seq == begins + 1 else f"records {begins} to {seq - 1} are"
                fault(line, "removed", f"{missing} missing before this line")
            elif seq != 1 and not unreadable:
                outcome.notes.append(f"{name} begins with record {seq}; what is before it was not given")
        elif seq <= last.record["seq"]:
            fault(line, "reordered", f"record {seq} stands behind record {last.record['seq']}")
            continue
        else:
            expected = last.record["seq"] + 1
            if seq > expected and expected in there:
                fault(line, "reordered", f"record {seq} stands where {expected} belongs")
            elif seq - expected > unreadable:
                missing = (
                    f"record {expected} is" if seq == expected + 1 else f"records {expected} to {seq - 1} are"
                )
                fault(line, "removed", f"{missing} missing before this line")
            elif (
                seq == expected
                and record.get("prev") != last.record["hash"]
                and last.own_hash
                and line.own_hash
            ):
                fault(
                    line,
                    "changed",
                    f"record {seq} does not continue the one before it: one of the two was changed",
                )
        last, unreadable = line, 0
    return last


def _verify_end(
    name: str, lines: list[_Line], data: bytes | None, key: bytes | None, outcome: Verification
) -> None:
    last = next((line for line in reversed(lines) if line.record is not None), None)
    if data is None:
        outcome.notes.append(
            f"the head of {name} is not there, so lines that are missing at the end would not be noticed"
        )
        return
    head = read_head(data, key)
    behind = (lines[-1].number if lines else 0) + 1
    if head is None:
        outcome.faults.append(
            LogFault(
                name,
                behind,
                "changed",
                f"{head_path(name)} was not written by this log (or with another key)",
            )
        )
        return
    seq = last.record["seq"] if last is not None and last.record is not None else 0
    if seq < head[0]:
        missing = f"record {head[0]} is" if head[0] == seq + 1 else f"records {seq + 1} to {head[0]} are"
        outcome.faults.append(LogFault(name, behind, "removed", f"{missing} missing at the end"))
    elif last is not None and last.record is not None and seq == head[0] and last.record["hash"] != head[1]:
        outcome.faults.append(
            LogFault(name, last.number, "changed", "the last record is not the one that was written")
        )
    elif seq > head[0] + 1:
        outcome.faults.append(LogFault(name, behind - 1, "changed", f"the head of {name} is older than it"))
