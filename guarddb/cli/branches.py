"""`guarddb branches`: the throw-away copies that sandboxed sessions work on."""

from __future__ import annotations

from typing import Annotated, Any, Protocol

import psycopg
import typer
from rich.table import Table
from rich.text import Text

from guarddb.cli.inputs import JsonOption, Problem, sentence
from guarddb.cli.render import cell, console, print_json
from guarddb.driver.branch_diff import TableDifference, differences
from guarddb.driver.branches import DatabaseBranches, shown_bytes
from guarddb.runtime.branches import Branch, BranchError, BranchProvider

app = typer.Typer(
    name="branches",
    help="List, compare and discard the branches of sandboxed sessions.",
    no_args_is_help=True,
    add_completion=False,
)

AdminOption = Annotated[
    str | None,
    typer.Option(
        "--dsn", "-d", help="A role that may drop databases, on the server of the branches.",
        metavar="DSN", envvar="GUARDDB_BRANCHES",
    ),
]  # fmt: skip
NeonOption = Annotated[
    str | None,
    typer.Option("--neon", help="A project of Neon's instead; NEON_API_KEY has the key.", metavar="PROJECT"),
]
_LABELS = {"+": ("green", "added"), "-": ("red", "removed"), "~": ("yellow", "changed")}


class _Connects(Protocol):
    def conninfo_of(self, branch: Branch, *, source: bool = False) -> str: ...


def _provider(dsn: str | None, neon: str | None) -> BranchProvider:
    if (dsn is None) == (neon is None):
        raise Problem(
            "name the server of the branches with --dsn (or GUARDDB_BRANCHES), or a project with --neon"
        )
    if neon is not None:
        from guarddb.runtime.neon import NeonBranches

        return NeonBranches(neon)
    return DatabaseBranches(dsn)


def _listed(provider: BranchProvider) -> list[Branch]:
    return list(provider.list())


def _found(provider: BranchProvider, id: str) -> Branch:
    for branch in _listed(provider):
        if branch.id == id:
            return branch
    raise Problem(f"there is no branch {id}")


@app.command("list")
def list_branches(dsn: AdminOption = None, neon: NeonOption = None, as_json: JsonOption = False) -> None:
    """List the branches there are, those of sessions that crashed among them.

    Example: guarddb branches list --dsn postgresql://admin@localhost/postgres
    """
    try:
        found = _listed(_provider(dsn, neon))
    except BranchError as ex:
        raise Problem(sentence(ex)) from ex
    if as_json:
        print_json({"branches": [branch.to_dict() for branch in found]})
        return
    out = console()
    if not found:
        out.print("no branches")
        return
    table = Table(show_edge=False, header_style="bold", pad_edge=False)
    for name in ("branch", "of", "status", "made", "size"):
        table.add_column(name)
    for branch in found:
        made = "" if branch.created_at is None else branch.created_at.strftime("%Y-%m-%d %H:%M")
        size = "" if branch.size is None else shown_bytes(branch.size)
        table.add_row(branch.id, Text(branch.source), branch.status, made, size)
    out.print(table)


@app.command("diff")
def diff(
    branch: Annotated[str, typer.Argument(help="The branch's id, brn_…")],
    dsn: AdminOption = None,
    sample: Annotated[int, typer.Option("--sample", help="Rows to show of each table.", min=0)] = 5,
    as_json: JsonOption = False,
) -> None:
    """Say what was done on a branch: rows added, changed and removed, table by table.

    What others have done to the source meanwhile shows as well.

    Exit code 0: nothing differs; 1: something does; 2: bad input.

    Example: guarddb branches diff brn_7f3a00000000 --dsn postgresql://admin@localhost/postgres
    """
    try:
        provider = _provider(dsn, None)
        assert isinstance(provider, DatabaseBranches)
        one = _found(provider, branch)
        found = list(
            differences(provider.conninfo_of(one, source=True), provider.conninfo_of(one), sample=sample)
        )
    except (BranchError, psycopg.Error) as ex:
        raise Problem(sentence(ex)) from ex
    if as_json:
        print_json({"branch": one.to_dict(), "tables": [each.to_dict() for each in found]})
    else:
        for each in found:
            _show(each)
        if not found:
            console().print("nothing differs")
    raise typer.Exit(int(bool(found)))


def _show(found: TableDifference) -> None:
    out = console()
    line = Text(found.table, "bold")
    for sign, count in (("+", found.added), ("-", found.removed), ("~", found.changed)):
        style, word = _LABELS[sign]
        if count:
            line.append(f"  {count} {word}", style)
    if found.structure:
        line.append(f"  {found.structure}", "cyan")
    out.print(line)
    for change in found.sample:
        style, _ = _LABELS[change["change"]]
        out.print(Text("  ") + Text(change["change"], style) + Text(" ") + _row(change))


def _row(change: dict[str, Any]) -> Text:
    old, new = change["old"], change["new"]
    parts = []
    for column in new or old:
        before, after = (old or {}).get(column), (new or {}).get(column)
        if old is None or new is None:
            parts.append(Text.assemble(f"{column}=", cell(after if old is None else before)))
        elif before != after:
            parts.append(Text.assemble(f"{column}=", cell(before), " → ", cell(after)))
        elif not parts:
            parts.append(Text.assemble(f"{column}=", cell(after)))
    return Text(", ").join(parts)


@app.command("discard")
def discard(
    branches: Annotated[list[str] | None, typer.Argument(help="Ids of branches, brn_…")] = None,
    dsn: AdminOption = None,
    neon: NeonOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Every branch there is.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Throw branches away, with whoever still works on them.

    Exit code 0: gone; 1: not confirmed; 2: bad input.

    Example: guarddb branches discard brn_7f3a00000000 --dsn postgresql://admin@localhost/postgres
    """
    if bool(branches) == everything:
        raise Problem("name branches, or --all")
    try:
        provider = _provider(dsn, neon)
        there = _listed(provider)
        known = {branch.id: branch for branch in there}
        if missing := [id for id in branches or () if id not in known]:
            raise Problem(f"there is no branch {missing[0]}")
        chosen = there if everything else [known[id] for id in branches or ()]
        if chosen and not yes and not typer.confirm(f"Discard {', '.join(b.id for b in chosen)}?", err=True):
            raise typer.Exit(1)
        for branch in chosen:
            provider.discard(branch)
            print(f"discarded {branch.id}")
    except BranchError as ex:
        raise Problem(sentence(ex)) from ex
