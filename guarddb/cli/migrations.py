"""The SQL that frameworks would run: Alembic's pending revisions, Django's pending migrations.

The framework is run as its own command line in a process of its own: what it prints is what it would send.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser, Error as ConfigParserError
from dataclasses import dataclass
from pathlib import Path

import psycopg

from guarddb.cli.inputs import Problem, plain_connection

_TIMEOUT_SECONDS = 300
#: `[ ]  shop.0002_total`; an applied one has an X.
_PENDING = re.compile(r"^\[ \]\s+(\w+)\.(\w+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Migration:
    """A script, its name, and whether all of it runs in one transaction."""

    name: str
    sql: str
    in_transaction: bool = False


def of_alembic(config: Path, dsn: str | None) -> list[Migration]:
    """The revisions that a database has not (of a new one, without a DSN), as `alembic upgrade --sql` prints them."""
    if not config.is_file():
        raise Problem(f"cannot read {config}: no such file")
    if importlib.util.find_spec("alembic") is None:
        raise Problem("--alembic needs Alembic: pip install alembic")
    start = _current_revision(dsn) if dsn is not None else None
    command = [sys.executable, "-m", "alembic", "-c", str(config.absolute()), "upgrade"]
    command += [f"{start}:heads" if start else "heads", "--sql"]
    return [Migration(f"{config}", _output(command, _directory_for(config), "alembic"))]


def _directory_for(config: Path) -> Path:
    """Where Alembic is run: beside its file, and where its scripts are not there, here, as Alembic itself would look for them."""
    parser = ConfigParser({"here": str(config.absolute().parent)})
    try:
        parser.read(config, encoding="utf-8")
        location = Path(parser.get("alembic", "script_location"))
    except (ConfigParserError, UnicodeDecodeError):
        return config.parent  # Alembic will say what is wrong
    here = Path.cwd()
    return here if (here / location).is_dir() and not (config.parent / location).is_dir() else config.parent


def _current_revision(dsn: str) -> str | None:
    with plain_connection(dsn) as conn:
        try:
            row = conn.execute("SELECT version_num FROM alembic_version").fetchone()
        except psycopg.errors.UndefinedTable:
            return None
        except psycopg.Error as ex:
            raise Problem(f"cannot read alembic_version: {str(ex).splitlines()[0]}") from ex
    return None if row is None else str(row[0])


def of_django(manage: Path) -> Iterator[Migration]:
    """The migrations that the settings' database has not, as `manage.py sqlmigrate` prints them."""
    if not manage.is_file():
        raise Problem(f"cannot read {manage}: no such file")
    if importlib.util.find_spec("django") is None:
        raise Problem("--django needs Django: pip install django")
    base = [sys.executable, manage.name]
    plan = _output([*base, "showmigrations", "--plan", "--no-color"], manage.parent, "manage.py")
    for app, name in _PENDING.findall(plan):
        sql = _output([*base, "sqlmigrate", app, name, "--no-color"], manage.parent, "manage.py")
        yield Migration(f"{app}.{name}", sql)


def _output(command: list[str], directory: Path, what: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - the user's own project, named on the command line
            command,
            cwd=directory or None,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as ex:
        raise Problem(f"{what} could not be run: {ex}") from ex
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise Problem(f"{what} failed: {last}")
    return done.stdout
