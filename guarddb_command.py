"""The `guarddb` command's way in, outside of the package on purpose.

Importing any part of guarddb imports psycopg, and psycopg cannot be imported without libpq: whoever types
`guarddb` on such a machine should read what is missing, not a traceback.
"""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; exit code 2 and one sentence when it cannot even be imported."""
    try:
        from guarddb.cli import main as command
    except ImportError as ex:
        print(f"guarddb: cannot start: {_reason(ex)}", file=sys.stderr)
        return 2
    return command()


def _reason(ex: ImportError) -> str:
    lines = str(ex).strip().splitlines() or [type(ex).__name__]
    first = lines[0].strip().rstrip(".:")
    # psycopg raises this one itself, with a line for each implementation that it tried.
    if ex.name is None and ("pq wrapper" in first or "psycopg" in first):
        return f'{first}; psycopg needs libpq, which pip install "psycopg[binary]" brings'
    return first
