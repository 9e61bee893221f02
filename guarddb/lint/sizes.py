"""How large a table is, and how long work on it takes."""

from __future__ import annotations

from dataclasses import dataclass

from guarddb.lint.acts import Target, Work
from guarddb.lint.script import Script

_BLOCK = 8192
#: Up to here the work is over before anybody notices.
TINY_ROWS, TINY_BYTES = 10_000, 8 * 1024 * 1024

#: Bytes of table a second, of a server with ordinary disks and nothing else to do. Orders of magnitude: the true figure depends
#: on the width of rows, the number of indexes and what is in the cache.
_SPEED: dict[Work, int] = {
    Work.REWRITE: 50_000_000,
    Work.SCAN: 400_000_000,
    Work.INDEX: 80_000_000,
    Work.FOREIGN_KEY: 60_000_000,
}


@dataclass(frozen=True, slots=True)
class Size:
    """Rows and bytes by PostgreSQL's own estimate, children included; None where there is none."""

    rows: int | None
    bytes: int | None

    @property
    def tiny(self) -> bool:
        return (
            self.bytes is not None
            and self.bytes <= TINY_BYTES
            and (self.rows <= TINY_ROWS if self.rows is not None else self.bytes <= TINY_BYTES // 8)
        )

    @property
    def empty(self) -> bool:
        return self.rows == 0 and self.bytes == 0

    def shown(self, work: Work | None) -> str:
        """`about 2.1 million rows, 310 MB: some 6 seconds`; empty when nothing is known."""
        if self.bytes is None:
            return ""
        text = _bytes(self.bytes)
        if self.rows is not None:
            text = f"about {_count(self.rows)} rows, {text}"
        return text if work is None else f"{text}: some {_seconds(self.bytes / _SPEED[work])}"


def size_of(target: Target, script: Script) -> Size:
    """The size of a relation with its partitions and children."""
    relations = [each.relation for each in (target, *script.children(target)) if each.relation is not None]
    stored = [relation for relation in relations if relation.kind != "p"]
    if not stored:
        return Size(None, None)
    size = sum(relation.pages for relation in stored) * _BLOCK
    # -1: never vacuumed or analyzed. Its pages are those of the file then, see catalog.sql.
    if any(relation.estimated_rows < 0 for relation in stored):
        return Size(0 if size == 0 else None, size)
    return Size(int(sum(relation.estimated_rows for relation in stored)), size)


def _count(rows: int) -> str:
    if rows >= 1_000_000_000:
        return f"{rows / 1_000_000_000:.1f} billion"
    if rows >= 1_000_000:
        return f"{rows / 1_000_000:.1f} million"
    return f"{rows:,}"


def _bytes(size: int) -> str:
    for unit, power in (("TB", 40), ("GB", 30), ("MB", 20)):
        if size >= 1 << power:
            return f"{size / (1 << power):.1f} {unit}"
    return f"{size // 1024} kB"


def _seconds(seconds: float) -> str:
    if seconds >= 7200:
        return f"{seconds / 3600:.0f} hours"
    if seconds >= 120:
        return f"{seconds / 60:.0f} minutes"
    if seconds >= 1.5:
        return f"{seconds:.0f} seconds"
    return "1 second" if seconds >= 0.5 else "tenths of a second"
