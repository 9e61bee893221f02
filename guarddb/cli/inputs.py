"""What the commands are given: a profile, a catalog, a statement, a connection. Whatever is wrong with one is
a `Problem`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer

import guarddb
from guarddb import Catalog, PolicyProfile


class Problem(Exception):
    """The command cannot be carried out; its text is the one sentence that the user reads."""


PolicyOption = Annotated[
    str, typer.Option("--policy", "-p", help="Policy profile: a YAML, JSON or TOML file.", metavar="FILE")
]
SchemaOption = Annotated[
    Path | None,
    typer.Option("--schema", "-s", help="Catalog JSON, as `guarddb snapshot` writes it.", metavar="FILE"),
]
DsnOption = Annotated[
    str | None,
    typer.Option("--dsn", "-d", help="Read the catalog from this database instead.", metavar="DSN"),
]
SettingOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting that row filters read; may be repeated.", metavar="NAME=VALUE"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, without colour.")]


def sentence(ex: BaseException) -> str:
    """The first line of an error's text, without the indented advice that libpq puts below it."""
    lines = str(ex).strip().splitlines()
    return " ".join(lines[0].split()) if lines else type(ex).__name__


def read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")  # psql passes over a byte order mark, too
    except OSError as ex:
        raise Problem(f"cannot read {path}: {ex.strerror or ex}") from ex
    except UnicodeDecodeError as ex:
        raise Problem(f"{path} is not UTF-8 text (byte {ex.start})") from ex


def read_sql(sql: str | None, file: Path | None) -> str:
    """The statement: the argument, else the file (`-` is standard input), else what is piped in."""
    if sql is not None and file is not None:
        raise Problem("give the statement as an argument or with --file, not both")
    if sql is not None:
        return sql
    if file is not None and str(file) != "-":
        return read_text(file)
    if file is None and sys.stdin.isatty():
        raise Problem("no statement: give it as an argument, with --file, or on standard input")
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as ex:
        raise Problem(f"standard input is not UTF-8 text (byte {ex.start})") from ex


def read_policy(source: str, settings: Sequence[str] | None = None) -> PolicyProfile:
    """The profile, with the values of `--set` over its own `guarddb.settings`."""
    try:
        profile = guarddb.load_policy(source)
        if settings:
            document: dict[str, Any] = profile.model_dump(exclude_unset=True, mode="json")
            extension: dict[str, Any] = document.get("guarddb") or {}
            extension["settings"] = {**(extension.get("settings") or {}), **read_settings(settings)}
            profile = guarddb.load_policy({**document, "guarddb": extension})
    except guarddb.PolicyError as ex:
        raise Problem(" ".join(str(ex).split())) from ex
    except OSError as ex:
        raise Problem(f"cannot read the policy {source}: {ex.strerror or ex}") from ex
    except (ValueError, UnicodeError) as ex:
        raise Problem(f"the policy {source} cannot be read: {sentence(ex)}") from ex
    return profile


def read_settings(assignments: Sequence[str] | None) -> dict[str, str]:
    settings = {}
    for assignment in assignments or ():
        name, equals, value = assignment.partition("=")
        if not equals or not name.strip():
            raise Problem(f"--set takes NAME=VALUE, not {assignment!r}")
        settings[name.strip()] = value
    return settings


@contextmanager
def plain_connection(dsn: str) -> Iterator[psycopg.Connection]:
    """A connection without a policy, for the command's own reading of catalogs."""
    try:
        conn = psycopg.Connection.connect(dsn, autocommit=True, connect_timeout=10)
    except psycopg.Error as ex:
        raise Problem(f"cannot connect: {sentence(ex)}") from ex
    except UnicodeError as ex:
        raise Problem("cannot connect: the DSN is not valid text") from ex
    with conn:
        yield conn


def read_catalog(schema: Path | None, dsn: str | None) -> Catalog | None:
    """The catalog to judge against, or None when neither a file nor a database is named."""
    if schema is not None and dsn is not None:
        raise Problem("give --schema or --dsn, not both")
    if schema is not None:
        text = read_text(schema)
        try:
            return Catalog.from_json(text)
        except Exception as ex:  # whatever a hand-edited snapshot makes the reader trip over
            raise Problem(f"{schema} is not a catalog that `guarddb snapshot` wrote ({sentence(ex)})") from ex
    if dsn is None:
        return None
    with plain_connection(dsn) as conn:
        try:
            return Catalog.from_connection(conn)
        except psycopg.Error as ex:
            raise Problem(f"cannot read the catalog: {sentence(ex)}") from ex
