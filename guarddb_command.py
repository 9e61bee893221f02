"""The `guarddb` command's way in, outside of the package on purpose.

Importing any part of guarddb imports psycopg, and psycopg cannot be imported without libpq: whoever types
`guarddb` on such a machine should read what is missing, not a traceback.
"""

from __future__ import annotations

import signal
import sys


def main() -> int:
    """Run the command line; exit code 2 and one sentence when it cannot even be imported."""
    # Ctrl-C while modules are read ends the process, as it ends one that does not know of signals: nothing is under way yet, and
    # Python would show where in a module it was.
    quick = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if quick:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        from guarddb.cli import main as command
    except ImportError as ex:
        print(f"guarddb: cannot start: {_reason(ex)}", file=sys.stderr)
        return 2
    finally:
        if quick:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return command()
    except KeyboardInterrupt:  # before or after what the command does
        return 130


def _reason(ex: ImportError) -> str:
    lines = str(ex).strip().splitlines() or [type(ex).__name__]
    first = lines[0].strip().rstrip(".:")
    # psycopg raises this one itself, with a line for each implementation that it tried.
    if ex.name is None and ("pq wrapper" in first or "psycopg" in first):
        return f'{first}; psycopg needs libpq, which pip install "psycopg[binary]" brings'
    return first
