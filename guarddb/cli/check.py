"""`guarddb check`: the lint of a profile."""

from __future__ import annotations

from typing import Annotated

import psycopg
import typer
from psycopg import pq
from rich.text import Text

import guarddb
from guarddb import Catalog, PolicyProfile
from guarddb.cli.inputs import (
    DsnOption,
    JsonOption,
    Problem,
    SchemaOption,
    plain_connection,
    read_catalog,
    read_policy,
    sentence,
)
from guarddb.cli.live_wall import read_wall
from guarddb.cli.render import console, print_json
from guarddb.decision.dependencies import dependencies
from guarddb.decision.filters.trials import trials
from guarddb.decision.on_catalog import CompiledPolicy
from guarddb.lint.profile import Finding, lint

STYLES = {"error": "bold red", "warning": "yellow", "advice": "cyan"}


def check(
    policy: Annotated[str, typer.Argument(help="The profile: a YAML, JSON or TOML file.")],
    schema: SchemaOption = None,
    dsn: DsnOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look for rules that protect nothing, rules that can never fire, and gaps.

    With a catalog (--schema or --dsn) the profile's tables and columns are looked up; with --dsn the role
    that the DSN connects as is looked at as well.

    Exit code 0: nothing worse than warnings; 1: errors; 2: the profile cannot be read.

    Example: guarddb check analyst.yaml --dsn postgresql://agent@localhost/shop
    """
    profile = read_policy(policy)
    catalog = read_catalog(schema, dsn)
    findings = lint(profile, catalog)
    if catalog is not None:
        findings += dependencies(profile, catalog)
    if dsn is not None and catalog is not None:
        findings += unreadable_filters(profile, catalog, dsn)
        findings += role_findings(dsn)
    wall = None if dsn is None else wall_state(profile, dsn)
    if as_json:
        document = {"policy": profile.name, "findings": [finding.to_dict() for finding in findings]}
        print_json(document if wall is None else {**document, "wall": wall})
    else:
        out = console()
        for finding in findings:
            place = f"{finding.path}: " if finding.path else ""
            out.print(Text.assemble((finding.level, STYLES[finding.level]), f" {place}{finding.message}"))
        errors = sum(finding.level == "error" for finding in findings)
        warnings = sum(finding.level == "warning" for finding in findings)
        out.print(Text(f'profile "{profile.name}": {errors} errors, {warnings} warnings', "bold"))
        if wall is not None:
            out.print(Text(f"wall: {wall}", "bold"))
    raise typer.Exit(int(any(finding.level == "error" for finding in findings)))


def wall_state(profile: PolicyProfile, dsn: str) -> str:
    """`up`, `none` or `out of date`: the wall of the profile in the database, see `guarddb wall --check`."""
    with plain_connection(dsn) as conn:
        try:
            live = read_wall(conn, profile, None, {})
        except (psycopg.Error, guarddb.PolicyError) as ex:
            raise Problem(f"cannot read the wall: {sentence(ex)}") from ex
    return "none" if live is None else live.state


def unreadable_filters(profile: PolicyProfile, catalog: Catalog, dsn: str) -> list[Finding]:
    """The filters that PostgreSQL cannot read; they are parsed, and nothing is run."""
    found = []
    governance = CompiledPolicy(profile, profile.version, profile.guarddb.settings).governance(catalog)
    with plain_connection(dsn) as conn:
        for trial in trials(governance):
            result = conn.pgconn.prepare(b"", trial.sql.encode())
            if result.status == pq.ExecStatus.FATAL_ERROR:
                error = psycopg.errors.error_from_result(result)
                if (fault := trial.fault(error.sqlstate, error.diag.message_primary or "")) is not None:
                    found.append(Finding("error", fault.path, fault.message))
    return found


def role_findings(dsn: str) -> list[Finding]:
    """What the role of a DSN may do that no agent needs: such a right is one mistake away from being used."""
    with plain_connection(dsn) as conn:
        try:
            row = conn.execute(
                "SELECT rolname, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication,"
                " (SELECT count(*) FROM pg_catalog.pg_class WHERE relowner = r.oid)"
                " FROM pg_catalog.pg_roles r WHERE rolname = current_user"
            ).fetchone()
        except psycopg.Error as ex:
            raise Problem(f"cannot read the role: {sentence(ex)}") from ex
    if row is None:
        return []
    name, *flags, owned = row
    words = ("SUPERUSER", "BYPASSRLS", "CREATEROLE", "CREATEDB", "REPLICATION")
    excess = [word for word, flag in zip(words, flags, strict=True) if flag]
    found = [
        Finding("warning", "role", f'the role "{name}" is {word}; an agent\'s role should not be')
        for word in excess
    ]
    if owned and "SUPERUSER" not in excess:
        found.append(
            Finding(
                "warning",
                "role",
                f'the role "{name}" owns {owned} relations, and an owner may alter or drop them',
            )
        )
    return found
