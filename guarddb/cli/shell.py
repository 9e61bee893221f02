"""`guarddb shell`: a prompt as the agent would have it, with the verdict beside each result."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import psycopg
import typer
from pglast import parser
from rich.console import Console
from rich.table import Table
from rich.text import Text

import guarddb
from guarddb import Catalog, PolicyProfile, TerminalApprover
from guarddb.cli.branch_bar import bytes_of, copying
from guarddb.cli.inputs import (
    PolicyOption,
    Problem,
    SettingOption,
    plain_connection,
    read_policy,
    read_settings,
    sentence,
)
from guarddb.cli.psql_commands import Question, command_sql
from guarddb.cli.render import CELL_WIDTH, console, decision_lines, decision_of, result_table
from guarddb.driver.branches import DatabaseBranches
from guarddb.runtime.branches import BranchError

#: Rows shown of a result. The rest is fetched too, as an agent would, and only counted.
SHOWN_ROWS = 50

HELP = "End a statement with ; to run it. \\d lists what this policy lets you see, \\q leaves."


def shell(
    dsn: Annotated[str, typer.Argument(help="The database, as libpq writes it.")],
    policy: PolicyOption,
    settings: SettingOption = None,
    psql_compatible: Annotated[
        bool,
        typer.Option("--psql-compatible", help="Backslash commands ask what psql's do (\\d, \\dt+, \\df …)."),
    ] = False,
    branches: Annotated[
        str | None,
        typer.Option(
            "--branches",
            help="For a sandbox: a role that may make databases there.",
            metavar="DSN",
            envvar="GUARDDB_BRANCHES",
        ),
    ] = None,
    branch_limit: Annotated[
        str,
        typer.Option("--branch-limit", help="The largest database that is copied; 0: any.", metavar="SIZE"),
    ] = "10GB",
) -> None:
    """Try a policy by hand: what you type runs as an agent's statement would.

    Where the policy says so, it runs on a branch of the database, which goes when you leave, or waits until you have approved it
    at the terminal.

    A statement ends with a semicolon at the end of a line. Statements may be piped in.

    Example: guarddb shell --policy analyst.yaml postgresql://agent@localhost/shop
    """
    profile = read_policy(policy)
    under = read_policy(policy, settings)
    limit = bytes_of(branch_limit)
    out = console()
    try:
        with copying(Console(stderr=True)) as progress:
            conn = guarddb.connect(
                dsn,
                policy=profile,
                settings=read_settings(settings),
                agent="shell",
                approver=TerminalApprover(),
                branches=DatabaseBranches(branches, limit_bytes=limit, progress=progress),
                autocommit=True,
                connect_timeout=10,
            )
    except (psycopg.Error, BranchError) as ex:
        raise Problem(f"cannot connect: {sentence(ex)}") from ex
    with conn:
        conn.add_notice_handler(
            lambda diag: out.print(Text(f"{diag.severity}: {diag.message_primary}", "yellow"))
        )
        if sys.stdin.isatty():
            out.print(Text(f'policy "{profile.name}", {profile.access_mode}. {HELP}', "dim"))
        if conn.branch is not None:
            out.print(
                Text(f"You are on the branch {conn.branch.id}, which is thrown away when you leave.", "dim")
            )
        for text in statements(sys.stdin.isatty()):
            if text == "\\q":
                break
            if psql_compatible and (questions := command_sql(text)) is not None:
                for question in questions:
                    ask(out, conn, question)
            elif text in ("\\d", "\\dt"):
                list_relations(out, under, dsn)
            elif text.startswith("\\"):
                out.print(Text(HELP, "yellow"))
            else:
                run(out, conn, text)
                if conn.closed:
                    raise Problem("the server has closed the connection")


def statements(interactive: bool) -> Iterator[str]:
    """Texts to run: each ends where a line ends with a semicolon outside of quotes and comments, or where
    input ends."""
    if interactive:
        import readline  # noqa: F401  (importing it is what gives input() a history and line editing)
    pending = ""
    while True:
        try:
            line = input(("guarddb> " if not pending else "    ...> ") if interactive else "")
            line.encode()  # (under the locale C Python lets other bytes in, as surrogates, which nothing can send)
        except EOFError:
            break
        except KeyboardInterrupt:
            if not interactive:
                raise
            print()
            pending = ""
            continue
        except UnicodeError as ex:
            raise Problem("standard input is not UTF-8 text") from ex
        if not pending and line.strip().startswith("\\"):
            yield line.strip()
            continue
        pending = f"{pending}\n{line}" if pending else line
        if is_complete(pending):
            yield pending
            pending = ""
        elif not pending.strip():
            pending = ""
    if pending.strip():
        yield pending


def is_complete(text: str) -> bool:
    """Whether a text's last token is a semicolon; an open quote or comment has no last token."""
    if ";" not in text or "\0" in text:
        return "\0" in text
    try:
        tokens = parser.scan(text)
    except parser.ParseError:
        # An open quote may still be closed, anything else never: the closing brace of a psql habit, say.
        return not any(opened in text for opened in ("'", '"', "$", "/*"))
    words = [token for token in tokens if token.name not in ("SQL_COMMENT", "C_COMMENT")]
    return bool(words) and words[-1].name == "ASCII_59"


def run(out: Console, conn: guarddb.Connection[Any], text: str) -> None:
    """Execute one text and show verdict, rows, and what was refused."""
    cur = conn.cursor()
    try:
        cur.execute(text.encode())
        if cur.decision is not None:
            out.print(decision_lines(cur.decision, text))
        while True:
            show_result(out, cur)
            if not cur.nextset():
                break
    except psycopg.Error as ex:
        if (decision := decision_of(ex, cur)) is not None:
            out.print(decision_lines(decision, text))
        if getattr(ex, "rule", None) is None:
            out.print(Text.assemble((f"{ex.sqlstate or type(ex).__name__} ", "bold red"), sentence(ex)))


def ask(out: Console, conn: guarddb.Connection[Any], question: Question) -> None:
    """Run what a backslash command of psql asks, and show the table."""
    cur = conn.cursor()
    error: psycopg.Error | None = None
    for statement in question.statements:
        try:
            cur.execute(statement.encode(), question.parameters or None)
        except psycopg.Error as ex:
            error = ex
            continue
        out.print(Text(question.title, "bold"))
        show_result(out, cur)
        return
    assert error is not None
    if (decision := decision_of(error, cur)) is not None:
        out.print(decision_lines(decision, question.statements[-1]))
    else:
        out.print(Text.assemble((f"{error.sqlstate or type(error).__name__} ", "bold red"), sentence(error)))


def show_result(out: Console, cur: Any) -> None:
    if cur.description is None:
        out.print(Text(cur.statusmessage or "", "dim"))
        return
    shown = cur.fetchmany(SHOWN_ROWS)
    rest = sum(1 for _ in cur)
    out.print(result_table(cur.description, shown, CELL_WIDTH if out.is_terminal else None))
    count = len(shown) + rest
    tail = f"({count} row{'' if count == 1 else 's'}{f', {SHOWN_ROWS} shown' if rest else ''})"
    out.print(Text(tail + (" cut by max_rows" if cur.truncated else ""), "dim"))


def list_relations(out: Console, profile: PolicyProfile, dsn: str) -> None:
    """The relations a plain SELECT may read, with what the policy does to each: the engine is asked, not the
    profile."""
    with plain_connection(dsn) as conn:
        catalog = Catalog.from_connection(conn)
    table = Table("relation", "masked columns", "row filter", show_edge=False, header_style="bold")
    for relation in sorted(catalog.relations.values(), key=lambda r: (r.schema, r.name)):
        if relation.kind in ("S", "c"):
            continue
        name = ".".join('"' + part.replace('"', '""') + '"' for part in (relation.schema, relation.name))
        decision = guarddb.evaluate(f"SELECT * FROM {name}", profile, catalog)
        if not decision.blocked or decision.rule == "row_filter_unsafe":
            masked = ", ".join(f"{column.column} ({column.kind})" for column in decision.masked_columns)
            shown = f"closed: {decision.reason}" if decision.blocked else decision.row_filter_predicate
            # (As Text: the brackets of `ARRAY['a']` are none of rich's.)
            table.add_row(Text(f"{relation.schema}.{relation.name}"), Text(masked), Text(shown or ""))
    out.print(table)
