"""Running it: uvicorn, a graceful stop, and what is printed at the start."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from .app import create_app, open_server
from .settings import Settings, is_loopback
from .state import Server

#: Seconds that requests under way get when the server is told to stop.
GRACE = 5


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until the process is told to stop.

    Raises:
        DatabaseError: the database cannot be used.
        OSError: the address cannot be listened on.
    """
    with _listen(host, port) as listening:
        _serve(settings, host, listening)


def _serve(settings: Settings, host: str, listening: socket.socket) -> None:
    server, first = open_server(settings)
    _log_to_stderr()
    port = listening.getsockname()[1]
    told = [f"guarddb control plane: http://{f'[{host}]' if ':' in host else host}:{port}"]
    if first is not None:
        told += [
            f"project: {first.project_id}",
            f"admin key: {first.key}",
            "The key is shown this once. Keep it; the server keeps a hash of it only.",
        ]
    if not is_loopback(host):
        told.append("Other machines can reach it: put a proxy with TLS in front.")
    Running(server, told).run([listening])


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError:
        listening.close()
        raise
    return listening


class Running(uvicorn.Server):
    """A control plane that runs, in this thread or another one.

    Attributes:
        told: what is printed once it accepts connections.
    """

    def __init__(self, server: Server, told: list[str] | None = None) -> None:
        config = uvicorn.Config(
            create_app(server),
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=2048,
            timeout_graceful_shutdown=GRACE,
            timeout_keep_alive=75,
        )
        super().__init__(config)
        self.told = told or []
        self._control_plane = server

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self.told:
            # Only now: whoever reads it can connect.
            print("\n".join(self.told), flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # An open event stream would otherwise keep the server until the grace is over.
        await self._control_plane.broker.stop()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn sends itself the signal once more after a graceful stop; then the exit code would not be 0.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    for name in ("guarddb", "uvicorn.error"):
        log = logging.getLogger(name)
        log.setLevel(logging.INFO)
        log.addHandler(handler)
