"""How far the copy of a database is that a sandboxed session waits for, at a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from guarddb.cli.inputs import Problem
from guarddb.driver.branches import Progress as Told, shown_bytes

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)i?B?", re.IGNORECASE)
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


@contextmanager
def copying(out: Console) -> Iterator[Told | None]:
    """What `DatabaseBranches(progress=…)` calls while the block runs; None where nobody looks.

    A template is copied by the server, which does not say how far it is; the bar appears with the first bytes of a dump.
    """
    if not out.is_terminal:
        yield None
        return
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task("copying the database", total=None, visible=False)

        def tell(done: int, total: int) -> None:
            text = f"copying the database, at most {shown_bytes(total)}"
            bar.update(task, description=text, completed=done, total=total, visible=True)

        yield tell


def bytes_of(text: str) -> int:
    """`20GB` and `512 MB` as bytes; `0` is no limit.

    Raises:
        Problem: it is no size.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise Problem(f"{text!r:.40} is no size; write 512MB or 20GB")
    return int(float(found[1]) * _UNITS[found[2].upper()])
