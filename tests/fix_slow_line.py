"""A line to a real server on which every answer takes its time, as over a network: what comes of a statement is known later."""

from __future__ import annotations

import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo


@contextmanager
def slow_line(dsn: str, seconds: float) -> Iterator[str]:
    """Yields a DSN that leads to the same database, each of whose answers comes so much later."""
    file = f".s.PGSQL.{conninfo_to_dict(dsn).get('port') or 5432}"
    target = f"{conninfo_to_dict(dsn)['host']}/{file}"
    with tempfile.TemporaryDirectory(prefix="gdb-line-") as directory, socket.socket(socket.AF_UNIX) as door:
        door.bind(f"{directory}/{file}")
        door.listen()

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = door.accept()
                    server = socket.socket(socket.AF_UNIX)
                    server.connect(target)
                    for pair, late in (((client, server), 0.0), ((server, client), seconds)):
                        threading.Thread(target=_pass_on, args=(*pair, late), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield make_conninfo(dsn, host=str(Path(directory)))
        finally:
            door.shutdown(socket.SHUT_RDWR)


def _pass_on(source: socket.socket, target: socket.socket, late: float) -> None:
    with source, target, suppress(OSError):
        while data := source.recv(1 << 16):
            time.sleep(late)
            target.sendall(data)
        target.shutdown(socket.SHUT_RDWR)
