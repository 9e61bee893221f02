"""Decision records as lines of JSON in a file: chained, rotated, and shared by processes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, TypeAlias

from guarddb.policy.errors import PolicyError
from guarddb.runtime import background
from guarddb.runtime.chain import GENESIS, canonical, digest, head_path, head_text, read_head
from guarddb.runtime.decision_log import DecisionLogError, DecisionRecord

try:
    import fcntl
except ImportError:  # Windows: one process to a file
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("guarddb.decisions")

#: When a line is forced to the disk: after each, after refusals, never (the system's own time), or at most so many seconds late.
Fsync: TypeAlias = Literal["always", "refusals", "never"] | float
OnFull: TypeAlias = Literal["refuse", "pass"]

#: Kept free beside the log, so that the record of the statement that meets a full disk is still written.
RESERVE_BYTES: Final = 64 << 10
_TAIL: Final = 1 << 20


class JsonlSink:
    """Writes decision records to a file, one JSON object a line. Pass it as `on_decision`.

    Several connections, threads and processes may write one file. See `guarddb audit verify` for the chain.

    Args:
        path: the file; it is continued when it is there.
        key: of HMAC-SHA-256; None: `key_env`'s, else plain SHA-256.
        key_env: the environment variable that holds the key.
        max_bytes: the file is closed and a new one begun when it would grow beyond; 0: never. Closed ones are
            `<path>.<first record>-<last record>`.
        keep: closed files that are kept, the newest; 0: all.
        fsync: `always`, `refusals`, `never`, or a number of seconds that a line may wait for the disk.
        on_full: what becomes of statements while the log cannot be written: `refuse`, or `pass` with a CRITICAL log line and the
            number of lost records in the next one.
        literals: with the text as it was written and sent. It holds values.

    Raises:
        PolicyError: an argument is not what it should be, or the key is not set.
        OSError: the file cannot be opened.
    """

    #: A disk is waited for like a server, see `queued_log.py`.
    remote: ClassVar[bool] = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        key: bytes | str | None = None,
        key_env: str | None = None,
        max_bytes: int = 0,
        keep: int = 0,
        fsync: Fsync = "refusals",
        on_full: OnFull = "refuse",
        literals: bool = False,
    ) -> None:
        if fsync not in ("always", "refusals", "never") and not isinstance(fsync, int | float):
            raise PolicyError('fsync is "always", "refusals", "never" or a number of seconds')
        if isinstance(fsync, bool) or (isinstance(fsync, int | float) and not 0 <= fsync < float("inf")):
            raise PolicyError(f"fsync is a number of seconds from 0 on, not {fsync}")
        for name, number in (("max_bytes", max_bytes), ("keep", keep)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                raise PolicyError(f"{name} is a whole number from 0 on (0: no limit), not {number!r:.80}")
        if not isinstance(path, str | os.PathLike) or not os.fspath(path) or "\0" in str(path):
            raise PolicyError(f"the decision log's path is that of a file, not {path!r:.80}")
        if on_full not in ("refuse", "pass"):
            raise PolicyError('on_full is "refuse" or "pass"')
        self.path = Path(path).absolute()
        self.max_bytes, self.keep, self.fsync = max_bytes, keep, fsync
        self.on_full: OnFull = on_full
        self.literals = literals
        self._key = read_key(key, key_env)
        self._lock = threading.Lock()
        self._disk = threading.Lock()
        self._file = -1
        self._pid = 0
        self._seq, self._last, self._end = 0, GENESIS, 0
        self._first = 1
        self._synced = time.monotonic()
        self._lost = 0
        self._failure: str | None = None
        #: files whose lines are to be forced to the disk, each open for that
        self._behind: list[int] = []
        self._on_event_loop: _OnEventLoop | None = None
        with self._lock, self._locked():
            self._make_reserve()

    def __call__(self, record: DecisionRecord) -> None:
        """Write a record. A failure is logged, and remembered for `ready`; it is never raised."""
        if self.write(record):
            self.force(record)

    def write(self, record: DecisionRecord) -> bool:
        """Write a record, as a call does; whether it is due to be forced to the disk, which waits for the disk."""
        try:
            entry = record.to_dict(literals=self.literals)
            with self._lock, self._locked():
                self._append(entry, refused=record.outcome == "refused")
                return bool(self._behind)
        except OSError as ex:
            self._failed(f"{ex.strerror or ex}", record)
        except Exception as ex:
            self._failed(type(ex).__name__, record)
        return False

    def force(self, record: DecisionRecord | None = None) -> bool:
        """Force what is due to the disk, while others may write; whether it is there. Fails as a call does."""
        # Whoever finds nothing due waits for the one who is forcing it.
        with self._disk:
            with self._lock:
                due, self._behind = self._behind, []
            try:
                for file in due:
                    os.fsync(file)
            except OSError as ex:
                self._failed(f"{ex.strerror or ex}", record)
                return False
            finally:
                for file in due:
                    os.close(file)
        return True

    @property
    def failing(self) -> bool:
        """Whether the last record could not be written."""
        return self._failure is not None

    def on_event_loop(self) -> _OnEventLoop:
        """The same log for an event loop: it writes at once, and the disk is waited for in a thread."""
        with self._lock:
            if self._on_event_loop is None:
                self._on_event_loop = _OnEventLoop(self)
            return self._on_event_loop

    def ready(self) -> None:
        """Whether the log can be written now; a log that failed is tried again.

        Raises:
            DecisionLogError: it cannot, and `on_full` is `refuse`.
        """
        if self._failure is None or self.on_full == "pass":
            return
        try:
            with self._lock, self._locked():
                self._append({"outcome": "resumed", "after": self._failure}, refused=True)
                self._make_reserve()
            self._failure = None
        except OSError as ex:
            raise DecisionLogError(
                f"the decision log {self.path} cannot be written: {ex.strerror or ex}"
            ) from None
        if not self.force():
            raise DecisionLogError(f"the decision log {self.path} cannot be written")

    def close(self) -> None:
        """Force what was written to the disk and close the file; the next record opens it again."""
        self.force()
        with self._lock:
            if self._file >= 0:
                os.fsync(self._file)
                os.close(self._file)
                self._file = -1

    # ------------------------------------------------------------------ the file

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The file, open, alone, and with its end known."""
        self._open()
        if fcntl is not None:
            fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            if not self._is_current():  # another process has begun a new file
                if fcntl is not None:
                    fcntl.flock(self._file, fcntl.LOCK_UN)
                os.close(self._file)
                self._file = -1
                self._open()
                if fcntl is not None:
                    fcntl.flock(self._file, fcntl.LOCK_EX)
            if os.fstat(self._file).st_size != self._end:
                self._resume()
            yield
        finally:
            if fcntl is not None and self._file >= 0:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _open(self) -> None:
        if self._file >= 0 and self._pid == os.getpid():
            return
        # (A forked process must not share the parent's lock.)
        self._file = os.open(
            self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o600
        )
        self._pid = os.getpid()
        self._end = -1

    def _is_current(self) -> bool:
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return False
        mine = os.fstat(self._file)
        return (there.st_ino, there.st_dev) == (mine.st_ino, mine.st_dev)

    def _resume(self) -> None:
        """Find the end of the chain in a file that somebody else has written."""
        self._end = os.fstat(self._file).st_size
        if not self._end:
            self._continue_from(self._closed_before())
            self._first = self._seq + 1
            return
        self._continue_from(self._last_record())
        first = _record(os.pread(self._file, min(self._end, _TAIL), 0).partition(b"\n")[0])
        self._first = first["seq"] if first is not None else 1
        if os.pread(self._file, 1, self._end - 1) != b"\n":
            # Somebody died while writing. The half line stays, for whoever verifies the log; the chain goes on behind it.
            self._write(b"\n")

    def _continue_from(self, found: tuple[int, str]) -> None:
        """Continue behind the last record that the file has, or behind a later one that it had: the next line must not seal a
        cut. Somebody without the key can take lines away, and would have their numbers given out once more."""
        written = self._seq, self._last
        with suppress(OSError):
            written = max(written, read_head(head_path(self.path).read_bytes(), self._key) or written)
        if written[0] > found[0]:
            logger.critical(
                "the decision log %s ends with record %s, and record %s was written: lines are missing",
                self.path,
                found[0],
                written[0],
            )
        self._seq, self._last = max(found, written, key=lambda each: each[0])

    def _last_record(self) -> tuple[int, str]:
        size = min(self._end, _TAIL)
        while True:
            lines = os.pread(self._file, size, self._end - size).split(b"\n")
            for line in reversed(lines[1:] if size < self._end else lines):
                if (record := _record(line)) is not None:
                    return record["seq"], record["hash"]
            if size == self._end:
                return 0, GENESIS
            size = min(self._end, size * 4)

    def _closed_before(self) -> tuple[int, str]:
        """The end of the newest closed file: a new one continues it."""
        closed = self._closed()
        if not closed:
            return 0, GENESIS
        with closed[-1].open("rb") as file:
            file.seek(max(0, closed[-1].stat().st_size - _TAIL))
            for line in reversed(file.read().split(b"\n")):
                if (record := _record(line)) is not None:
                    return record["seq"], record["hash"]
        return 0, GENESIS

    def _closed(self) -> list[Path]:
        found = []
        for path in self.path.parent.glob(f"{self.path.name}.*-*"):
            first, _, last = path.name[len(self.path.name) + 1 :].partition("-")
            if first.isdigit() and last.isdigit():
                found.append((int(last), path))
        return [path for _, path in sorted(found)]

    # ------------------------------------------------------------------ lines

    def _append(self, entry: dict[str, Any], *, refused: bool) -> None:
        line, line_hash = self._line(entry)
        if self.max_bytes and self._end and self._end + len(line) > self.max_bytes:
            self._rotate()
            line, line_hash = self._line(entry)
        self._write(line)
        self._seq, self._last, self._lost = self._seq + 1, line_hash, 0
        self._write_head()
        self._sync(refused=refused)

    def _line(self, entry: dict[str, Any]) -> tuple[bytes, str]:
        record = {"v": 1, "seq": self._seq + 1, "prev": self._last, **entry}
        if self._lost:
            record["lost"] = self._lost
        # As a reader of the line will have it: tuples are lists, and so on.
        record = json.loads(json.dumps(record, default=str))
        record["hash"] = digest(record, self._key)
        return canonical(record) + b"\n", record["hash"]

    def _write(self, data: bytes) -> None:
        """Append, all of it or nothing; on a full disk the reserve is given up first."""
        for attempt in (1, 2):
            written = 0
            try:
                while written < len(data):
                    written += os.write(self._file, data[written:])
            except OSError as ex:
                os.ftruncate(self._file, self._end)
                if attempt == 2 or not self._give_up_reserve():
                    raise
                self._failure = f"{ex.strerror or ex}"
                logger.critical("the disk of the decision log %s is full; its reserve is in use", self.path)
            else:
                self._end += written
                return

    def _write_head(self) -> None:
        head = os.open(head_path(self.path), os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(head, head_text(self._seq, self._last, self._key), 0)
        finally:
            os.close(head)

    def _sync(self, *, refused: bool) -> None:
        now = time.monotonic()
        if isinstance(self.fsync, str):
            due = self.fsync == "always" or (self.fsync == "refusals" and refused)
        else:
            due = now - self._synced >= self.fsync
        if due:
            self._synced = now
            self._is_behind()

    def _is_behind(self) -> None:
        """The file is to be forced once the locks are free, so that nobody waits for the disk who need not."""
        self._behind.append(os.dup(self._file))

    def _rotate(self) -> None:
        self._is_behind()
        closed = self.path.with_name(f"{self.path.name}.{self._first}-{self._seq}")
        os.rename(self.path, closed)
        if head_path(self.path).exists():
            os.rename(head_path(self.path), head_path(closed))
        fresh = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o600)
        if fcntl is not None:
            fcntl.flock(fresh, fcntl.LOCK_EX)
        os.close(self._file)  # and with it the lock that others wait for: they then find the new file
        self._file, self._end, self._first = fresh, 0, self._seq + 1
        if self.keep:
            for old in self._closed()[: -self.keep]:
                old.unlink(missing_ok=True)
                head_path(old).unlink(missing_ok=True)

    # ------------------------------------------------------------------ a full disk

    @property
    def _reserve(self) -> Path:
        return Path(f"{self.path}.reserve")

    def _make_reserve(self) -> None:
        if self.on_full == "refuse" and not self._reserve.exists():
            self._reserve.write_bytes(b"\0" * RESERVE_BYTES)

    def _give_up_reserve(self) -> bool:
        try:
            self._reserve.unlink()
        except OSError:
            return False
        return True

    def _failed(self, why: str, record: DecisionRecord | None) -> None:
        self._failure = why
        self._lost += record is not None
        what = (
            "statements are refused until it can be"
            if self.on_full == "refuse"
            else "statements go on unlogged"
        )
        logger.critical(
            "the decision log %s cannot be written (%s); %s. Lost: %s",
            self.path,
            why,
            what,
            f"statement {record.statement_id}, {record.outcome} {record.decision.rule}"
            if record is not None
            else "what is not on the disk yet, if the machine goes down",
        )


class _OnEventLoop:
    """A log whose disk an event loop does not wait for.

    Lines are written at once. A refusal's is forced to the disk in a thread, which `flush` waits for before the error is raised;
    what else is due is forced in the background.
    """

    def __init__(self, log: JsonlSink) -> None:
        self._log = log
        self._under_way = False
        self.ready = log.ready

    def __call__(self, record: DecisionRecord) -> None:
        due = self._log.write(record)
        if due and record.outcome != "refused" and not self._under_way:
            self._under_way = True
            background.submit(self._force())

    async def _force(self) -> None:
        self._under_way = False  # what is due from here on may come too late for this one
        await asyncio.to_thread(self._log.force)

    @property
    def waits(self) -> bool:
        """Whether `ready()` may wait, so that an event loop must ask it in a thread."""
        return self._log.failing

    def flush(self) -> None:
        """Wait until what was due is on the disk."""
        self._log.force()


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    right = isinstance(found, dict) and type(found.get("seq")) is int and isinstance(found.get("hash"), str)
    return found if right else None


def read_key(key: bytes | str | None, key_env: str | None) -> bytes | None:
    """The key of a chain: given, or in an environment variable. Raises PolicyError: the variable is not set, or it is no key."""
    if key is not None and (not isinstance(key, str | bytes) or not key):
        raise PolicyError("the key of the decision log is a text or bytes, and not empty")
    if key_env is not None and not isinstance(key_env, str):
        raise PolicyError(
            f"key_env is the name of the environment variable that holds the key, not {key_env!r:.80}"
        )
    if key is not None:
        return key.encode() if isinstance(key, str) else key
    if key_env is None:
        return None
    value = os.environ.get(key_env)
    if not value:
        raise PolicyError(
            f"the environment variable {key_env}, which holds the key of the decision log, is not set"
        )
    return value.encode()
