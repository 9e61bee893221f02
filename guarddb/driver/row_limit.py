"""How many rows a write may touch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg as _psycopg

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

#: Command tags that count rows which were written. (COPY's is asked about where it ends.)
_COUNTED = (b"INSERT", b"UPDATE", b"DELETE", b"MERGE")


@dataclass(slots=True)
class RowLimit:
    """How many rows may be touched: `cap` by each statement, and how many have been by all that this is about."""

    cap: int | None
    touched: int = 0

    def add(self, answers: Iterable[PGresult]) -> None:
        """Count what the server says was touched.

        Raises:
            TooManyRows: by one statement.
        """
        for answer in answers:
            if (answer.command_status or b"").partition(b" ")[0] in _COUNTED:
                self.add_rows(answer.command_tuples or 0)

    def add_rows(self, rows: int) -> None:
        self.touched += rows
        if self.cap is not None and rows > self.cap:
            raise TooManyRows(rows)


class TooManyRows(_psycopg.Error):
    """One statement has touched so many rows, and is to be taken back."""

    def __init__(self, rows: int) -> None:
        super().__init__(f"{rows} rows")
        self.rows = rows
