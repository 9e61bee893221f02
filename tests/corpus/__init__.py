"""Statements that people and programs really send, over one small shop (`shop.sql`).

`ordinary/*.sql` hold what must keep working under a policy that does not forbid it: the measure of false
alarms, and with a plain connection beside a guarded one the measure of changed results. Each file is a list
of sections that start with a line `-- name: …`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).parent
SHOP_SQL = CORPUS / "shop.sql"

#: Files whose statements write, and files that are about the session itself; the others only read.
WRITE_FILES = frozenset({"writes.sql"})
SESSION_FILES = frozenset({"session.sql"})


@dataclass(frozen=True)
class Case:
    """One statement: what it is called, its text, and the file that it is in."""

    name: str
    sql: str
    file: str

    @property
    def reads_only(self) -> bool:
        return self.file not in WRITE_FILES | SESSION_FILES

    def __str__(self) -> str:
        return f"{self.file.removesuffix('.sql')}: {self.name}"


def load_ordinary() -> list[Case]:
    """Every ordinary statement, in the order of the files; text before the first section is a comment."""
    cases = []
    for path in sorted((CORPUS / "ordinary").glob("*.sql")):
        _, *parts = re.split(r"^-- name: (.+)$", path.read_text(), flags=re.MULTILINE)
        for name, sql in zip(parts[::2], parts[1::2], strict=True):
            cases.append(Case(name.strip(), sql.strip(), path.name))
    return cases
