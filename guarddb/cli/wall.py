"""`guarddb wall`: the profile as what PostgreSQL itself enforces."""

from __future__ import annotations

import difflib
import sys
from typing import Annotated, Any

import psycopg
import typer
from rich.table import Table
from rich.text import Text

import guarddb
from guarddb.cli.inputs import (
    JsonOption,
    PolicyOption,
    Problem,
    plain_connection,
    read_policy,
    read_settings,
    sentence,
)
from guarddb.cli.live_wall import LiveWall, read_wall
from guarddb.cli.render import console, print_json
from guarddb.lint.unknown import unknown_rules
from guarddb.wall import Names, Wall, apply_script, drop_script, rewrite_script, statistics_script

STYLES = {"surplus": "bold red", "missing": "bold red", "changed": "bold red", "open": "cyan"}


def wall(
    policy: PolicyOption,
    dsn: Annotated[
        str, typer.Option("--dsn", "-d", help="The database, as a role that owns its tables.", metavar="DSN")
    ],
    agent_role: Annotated[
        str | None,
        typer.Option("--agent-role", "-r", help="The role that agents connect as.", metavar="ROLE"),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--settings",
            "--set",
            help="Value of a setting that row filters read, as a constant of the wall; may be repeated.",
            metavar="NAME=VALUE",
        ),
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Install it, in one transaction.")] = False,
    rewrite: Annotated[
        bool,
        typer.Option(
            "--rewrite", help="With --apply: rewrite tables that keep an old default of a masked column."
        ),
    ] = False,
    close_statistics: Annotated[
        bool,
        typer.Option(
            "--close-statistics",
            help="With --apply, as a superuser: pg_locks and pg_stat_… for pg_monitor only, for every role.",
        ),
    ] = False,
    wake_policies: Annotated[
        bool,
        typer.Option(
            "--wake-policies",
            help="With --apply: although restrictive policies that are not in force now would hide rows from other roles.",
        ),
    ] = False,
    drop: Annotated[bool, typer.Option("--drop", help="Take it away.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Show what --apply would change.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Compare what is there, and the role's rights, with it.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compile a profile's masks, filters, lists and access mode into views, row security and grants.

    Without --apply, --drop, --diff or --check it prints the SQL and does nothing.

    Exit code 0: done, nothing differs; 1: --check or --diff found something; 2: it cannot be done.

    Example: guarddb wall -p analyst.yaml --dsn postgresql://owner@localhost/shop --agent-role shop_agent --apply
    """
    if sum((apply, drop, diff, check)) > 1:
        raise Problem("give one of --apply, --drop, --diff and --check")
    if (rewrite or close_statistics or wake_policies) and not apply:
        raise Problem("--rewrite, --close-statistics and --wake-policies go with --apply")
    if agent_role is not None and not 0 < len(agent_role.encode(errors="replace")) < 64:
        raise Problem("--agent-role is the name of a role: 1 to 63 bytes")
    profile = read_policy(policy)
    values = _settings(settings)
    try:
        with plain_connection(dsn) as conn:
            # What is read has to be there still when it is changed: two at a time would drop each other's views.
            shared = "" if apply or drop else "_shared"
            conn.execute(f"SELECT pg_advisory_lock{shared}({_LOCK})")
            if drop:
                _drop(conn, Names.of(profile), as_json=as_json)
                return
            live = read_wall(conn, profile, agent_role, values)
            if live is None:
                raise Problem("name the role that agents connect as: --agent-role ROLE")
            if not (check and live.differences):
                _refuse_what_protects_nothing(conn, profile)
            if check:
                code = _check(live, as_json=as_json)
            elif diff:
                code = _diff(live, as_json=as_json)
            elif apply:
                if live.wall.wakes and not wake_policies:
                    raise Problem(
                        f"nothing is changed: {_woken(live.wall)[0]} (--wake-policies does it all the same)"
                    )
                code = _apply(conn, live, rewrite=rewrite, close_statistics=close_statistics, as_json=as_json)
            else:
                code = _print(live, as_json=as_json)
    except guarddb.PolicyError as ex:
        raise Problem(" ".join(str(ex).split())) from ex
    except psycopg.Error as ex:
        raise Problem(sentence(ex)) from ex
    raise typer.Exit(code)


#: The walls of one database are put up, taken away and looked at one after the other.
_LOCK = int.from_bytes(b"guarddb", "big")


def _settings(assignments: list[str] | None) -> dict[str, str]:
    return {name.lower(): value for name, value in read_settings(assignments).items()}


def report(wall: Wall) -> dict[str, Any]:
    """What the wall shows, what it leaves out, and what it cannot carry."""
    return {
        "policy": wall.profile.name,
        "schema": wall.names.schema,
        "agent_role": wall.agent,
        "checksum": wall.checksum,
        "views": {f"{schema}.{name}": view for (schema, name), view in sorted(wall.view_names.items())},
        "left_out": dict(sorted(wall.carried.left_out.items())),
        "notes": [{"object": name, "note": note} for name, note in wall.carried.notes],
        "not_carried": wall.limits,
        "settings_of_logins": sorted(wall.carried.late_settings),
        "wakes_policies": {table: list(asleep) for table, asleep in sorted(wall.wakes.items())},
        "to_rewrite": [relation.shown for relation in wall.carried.rewrite],
    }


def _lines(wall: Wall) -> list[str]:
    names, made = wall.names, wall.carried
    lines = [f"{len(wall.view_names)} relations are shown in the schema {names.schema}"]
    if not wall.profile.table_allowlist:
        lines.append("the profile has no table_allowlist, so every table that it does not deny is among them")
    lines += [f"left out: {name}: {reason}" for name, reason in sorted(made.left_out.items())]
    lines += [f"{name}: {note}" for name, note in made.notes]
    for setting in sorted(made.late_settings):
        lines.append(
            f"{setting} is looked up for the login: INSERT INTO {names.private}.settings VALUES ('login', '{setting}', 'value')"
        )
    for relation in made.rewrite:
        lines.append(
            f"{relation.shown}: pg_attribute keeps an old default of a masked column until the table is rewritten "
            "(--apply --rewrite)"
        )
    for policy in made.policies:
        if not policy.relation.row_security:
            lines.append(
                f"{policy.relation.shown}: with row security on, COPY … FROM works for its owner and superusers only"
            )
    lines += _woken(wall)
    lines += [f"not carried: {limit}" for limit in wall.limits]
    return lines


def _woken(wall: Wall) -> list[str]:
    return [
        f"{table}: with row security on, {', '.join(asleep)}, restrictive and not in force without a wall, would hide rows from "
        "other roles"
        for table, asleep in sorted(wall.wakes.items())
    ]


def _print(live: LiveWall, *, as_json: bool) -> int:
    script = apply_script(live.wall, live.rights)
    if as_json:
        print_json({**report(live.wall), "sql": script, "rewrite": rewrite_script(live.wall)})
    else:
        print(script)
        for line in _lines(live.wall):
            print("-- " + " ".join(line.split()))
    return 0


def _apply(
    conn: psycopg.Connection[Any], live: LiveWall, *, rewrite: bool, close_statistics: bool, as_json: bool
) -> int:
    foreign = [
        relation.shown
        for oid in {*live.wall.carried.reads, *live.wall.carried.filter_reads}
        if not (relation := live.wall.database.by_oid[oid]).mine
    ]
    if foreign:
        raise Problem(
            f"{live.wall.database.user} has not the rights of the owner of {', '.join(sorted(foreign))}"
        )
    warnings: list[str] = []
    conn.add_notice_handler(lambda notice: warnings.append(str(notice.message_primary)))
    try:
        conn.execute(apply_script(live.wall, live.rights).encode())
    except psycopg.Error as ex:
        hint = f" ({ex.diag.message_detail})" if ex.diag.message_detail else ""
        raise Problem(f"nothing is changed: {sentence(ex)}{hint}") from ex
    rewritten = rewrite_script(live.wall) if rewrite else []
    for statement in rewritten:
        conn.execute(statement.encode())
    if close_statistics:
        conn.execute(statistics_script(live.wall.names).encode())
    now = read_wall(conn, live.wall.profile, live.wall.agent, dict(live.wall.settings))
    left = [each for each in (now.differences if now is not None else ()) if each.level != "open"]
    if as_json:
        print_json({**report(live.wall), "applied": True, "rewritten": rewritten, "warnings": warnings,
                    "left": [each.to_dict() for each in left]})  # fmt: skip
        return 0
    out = console()
    out.print(Text(f'the wall of "{live.wall.profile.name}" is up in {live.wall.names.schema}', "bold"))
    for each in left:
        out.print(
            Text(
                f"  {each.level}: {each.kind} {each.object}: {each.what} {each.via} ({each.fix})",
                STYLES[each.level],
            )
        )
    for line in [*warnings, *_lines(live.wall)]:
        out.print(Text(f"  {line}"))
    return 0


def _drop(conn: psycopg.Connection[Any], names: Names, *, as_json: bool) -> None:
    conn.execute(drop_script(names).encode())
    if as_json:
        print_json({"schema": names.schema, "dropped": True})
    else:
        console().print(Text(f"the wall in {names.schema} is gone", "bold"))


def _diff(live: LiveWall, *, as_json: bool) -> int:
    before, after = live.installed or {}, live.wall.objects
    if live.state != "none" and live.installed is None:
        raise Problem("what is installed can be read only by the role that installed it")
    changes: list[dict[str, str | None]] = []
    for name in [*before, *(name for name in after if name not in before)]:
        old, new = before.get(name), after.get(name)
        if old != new:
            change = "new" if old is None else "gone" if new is None else "changed"
            changes.append({"object": name, "change": change, "before": old, "after": new})
    if as_json:
        print_json({"schema": live.wall.names.schema, "changes": changes})
    else:
        for each in changes:
            old_lines, new_lines = ((each[side] or "").splitlines() for side in ("before", "after"))
            for text in difflib.unified_diff(
                old_lines,
                new_lines,
                f"{each['object']} (installed)",
                f"{each['object']} ({each['change']})",
                lineterm="",
            ):
                print(text)
    return int(bool(changes))


def _check(live: LiveWall, *, as_json: bool) -> int:
    found = live.differences
    if as_json:
        print_json(
            {
                "schema": live.wall.names.schema,
                "agent_role": live.wall.agent,
                "state": live.state,
                "differences": [each.to_dict() for each in found],
            }
        )
    else:
        out = console()
        if found:
            table = Table(
                "", "object", "what", "by", "mend", show_edge=False, header_style="bold", pad_edge=False
            )
            for each in found:
                table.add_row(
                    Text(each.level, STYLES[each.level]), Text(f"{each.kind} {each.object}"), Text(each.what),
                    Text(each.via), Text(each.fix),
                )  # fmt: skip
            out.print(table)
        out.print(Text(f"wall: {live.state}", "bold"))
    return int(any(each.level != "open" for each in found))


def _refuse_what_protects_nothing(conn: psycopg.Connection[Any], profile: guarddb.PolicyProfile) -> None:
    """A wall by a mask whose column is misspelt would show that column: guarddb closes the tables then, and so it is here."""
    for unknown in unknown_rules(profile, guarddb.Catalog.from_connection(conn)):
        if not unknown.protects:
            continue
        if profile.guarddb.on_unknown == "refuse":
            raise Problem(
                f"{unknown.path}: {unknown.message}: it protects nothing (guarddb.on_unknown: warn makes a wall all the same)"
            )
        print(f"guarddb: warning: {unknown.path}: {unknown.message}: it protects nothing", file=sys.stderr)
