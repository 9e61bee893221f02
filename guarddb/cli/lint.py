"""`guarddb lint`: what migrations would do to everybody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.padding import Padding
from rich.text import Text

from guarddb import Catalog, Finding
from guarddb.cli.inputs import DsnOption, JsonOption, Problem, SchemaOption, read_catalog, read_sql
from guarddb.cli.migrations import Migration, of_alembic, of_django
from guarddb.cli.render import console, print_json, sql_block
from guarddb.lint.fix import fix as fixed_form
from guarddb.lint.migrations import walk
from guarddb.tree import SQLSyntaxError

STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}
_LEVELS = {"error": "error", "warning": "warning", "info": "note"}
_DOCS = "docs/migrations.md"


class Located:
    """A finding and where it is."""

    def __init__(self, migration: Migration, line: int, finding: Finding) -> None:
        self.migration = migration
        self.line = line
        self.finding = finding


def lint(
    files: Annotated[
        list[Path] | None, typer.Argument(help="SQL files; `-` is standard input.", metavar="FILE…")
    ] = None,
    schema: SchemaOption = None,
    dsn: DsnOption = None,
    as_json: JsonOption = False,
    as_sarif: Annotated[bool, typer.Option("--sarif", help="Print SARIF 2.1.0, for code scanning.")] = False,
    as_github: Annotated[
        bool, typer.Option("--github", help="Print annotations for GitHub Actions.")
    ] = False,
    fix: Annotated[bool, typer.Option("--fix", help="Print the migrations in their safe form.")] = False,
    transaction: Annotated[
        bool, typer.Option("--transaction", "-1", help="Each file runs in one transaction, as with psql -1.")
    ] = False,
    server_version: Annotated[
        int | None,
        typer.Option("--server-version", help="The server's major version, without a catalog.", min=10),
    ] = None,
    alembic: Annotated[
        Path | None,
        typer.Option("--alembic", help="Judge the pending revisions of this alembic.ini.", metavar="INI"),
    ] = None,
    django: Annotated[
        Path | None,
        typer.Option("--django", help="Judge the pending migrations of this manage.py.", metavar="MANAGE"),
    ] = None,
) -> None:
    """Say which locks a migration takes, on what, and how long others wait; nothing is run.

    With a catalog (--schema or --dsn) the size of tables, what constraints prove, types and the server's version count.

    Exit code 0: no errors; 1: errors; 2: bad input.

    Example: guarddb lint migrations/*.sql --schema catalog.json
    """
    if sum((as_json, as_sarif, as_github, fix)) > 1:
        raise Problem("give one of --json, --sarif, --github and --fix")
    migrations = list(_migrations(files or [], alembic, django, dsn, whole=transaction))
    catalog = read_catalog(schema, dsn)
    if fix:
        raise typer.Exit(_print_fixed(migrations, catalog, server_version))
    found = [each for migration in migrations for each in _findings(migration, catalog, server_version)]
    show = _sarif if as_sarif else _github if as_github else _as_json if as_json else _people
    show(migrations, found)
    raise typer.Exit(int(any(each.finding.severity == "error" for each in found)))


def _migrations(
    files: list[Path], alembic: Path | None, django: Path | None, dsn: str | None, *, whole: bool
) -> Iterator[Migration]:
    if alembic is not None:
        yield from of_alembic(alembic, dsn)
    if django is not None:
        yield from of_django(django)
    if not files and alembic is None and django is None:
        files = [Path("-")]
    for path in files:
        name = "standard input" if str(path) == "-" else str(path)
        yield Migration(name, read_sql(None, None if str(path) == "-" else path), in_transaction=whole)


def _findings(migration: Migration, catalog: Catalog | None, server_version: int | None) -> Iterator[Located]:
    try:
        for step in walk(
            migration.sql, catalog, in_transaction=migration.in_transaction, server_version=server_version
        ):
            for finding in step.findings:
                yield Located(migration, step.statement.line, finding)
    except SQLSyntaxError as ex:
        raise _not_sql(migration, ex) from None
    except RecursionError:
        raise Problem(f"{migration.name} nests too deeply to be judged") from None


def _not_sql(migration: Migration, ex: SQLSyntaxError) -> Problem:
    line = "" if ex.position is None else f", line {migration.sql.count(chr(10), 0, ex.position) + 1}"
    return Problem(f"{migration.name}{line}: {ex}")


Show = Callable[[list[Migration], list[Located]], None]


def _as_json(migrations: list[Migration], found: list[Located]) -> None:
    print_json(
        {
            "safe": not any(each.finding.severity == "error" for each in found),
            "findings": [
                {"file": each.migration.name, "line": each.line, **each.finding.to_dict()} for each in found
            ],
        }
    )


def _people(migrations: list[Migration], found: list[Located]) -> None:
    out = console()
    for each in found:
        finding = each.finding
        out.print(
            Text.assemble(
                f"{each.migration.name}:{each.line}: ",
                (finding.severity, STYLES[finding.severity]),
                (f" {finding.rule}", "bold"),
                f" {finding.message}",
            )
        )
        if finding.hint and finding.rule != "missing_lock_timeout":
            out.print(Padding(Text("instead:", "cyan"), (0, 0, 0, 2)))
            out.print(Padding(sql_block(finding.hint), (0, 0, 0, 4)))
    counts = [
        f"{sum(each.finding.severity == severity for each in found)} {word}"
        for severity, word in (("error", "errors"), ("warning", "warnings"), ("info", "remarks"))
    ]
    files = "1 migration" if len(migrations) == 1 else f"{len(migrations)} migrations"
    out.print(Text(f"{files}: {', '.join(counts)}", "bold"))


def _github(migrations: list[Migration], found: list[Located]) -> None:
    """Workflow commands, one a line (GitHub docs, Workflow commands)."""
    for each in found:
        finding = each.finding
        text = finding.message if finding.hint is None else f"{finding.message}\n{finding.hint}"
        level = _LEVELS[finding.severity].replace("note", "notice")
        place = f"file={_property(each.migration.name)},line={each.line},title={_property(finding.rule)}"
        print(f"::{level} {place}::{_data(text)}")


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _sarif(migrations: list[Migration], found: list[Located]) -> None:
    """SARIF 2.1.0 (OASIS), as code scanning reads it."""
    rules = sorted({each.finding.rule for each in found})
    results: list[dict[str, Any]] = [
        {
            "ruleId": each.finding.rule,
            "ruleIndex": rules.index(each.finding.rule),
            "level": _LEVELS[each.finding.severity],
            "message": {
                "text": each.finding.message
                if each.finding.hint is None
                else f"{each.finding.message}\n\nInstead:\n{each.finding.hint}"
            },
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": Path(each.migration.name).as_posix()},
                        "region": {"startLine": each.line},
                    }
                }
            ],
        }
        for each in found
    ]
    print_json(
        {
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "version": "2.1.0",
            "runs": [
                {
                    "tool": {
                        "driver": {
                            "name": "guarddb lint",
                            "informationUri": "https://www.postgresql.org/docs/current/explicit-locking.html",
                            "rules": [
                                {"id": rule, "shortDescription": {"text": rule.replace("_", " ")}}
                                for rule in rules
                            ],
                        }
                    },
                    "results": results,
                }
            ],
        }
    )


def _print_fixed(migrations: list[Migration], catalog: Catalog | None, server_version: int | None) -> int:
    """The safe forms on stdout; what could not be made safe as comments. 1 when an error is left."""
    left = False
    for migration in migrations:
        try:
            done = fixed_form(
                migration.sql, catalog, in_transaction=migration.in_transaction, server_version=server_version
            )
        except SQLSyntaxError as ex:
            raise _not_sql(migration, ex) from None
        if len(migrations) > 1:
            print(f"-- {migration.name}")
        print(done.sql, end="")
        for finding in done.left:
            if finding.severity != "info":
                print(f"-- {finding.severity}: {finding.rule}: {' '.join(finding.message.split())}")
        left = left or any(finding.severity == "error" for finding in done.left)
    return int(left)
