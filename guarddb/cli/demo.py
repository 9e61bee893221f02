"""`guarddb demo`: a database of its own, and an agent's session on it."""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Iterator
from importlib import resources
from time import perf_counter
from typing import Any

import psycopg
import yaml
from psycopg.conninfo import make_conninfo
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.rule import Rule as Line
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

import guarddb
from guarddb import Decision
from guarddb.cli.inputs import JsonOption, sentence
from guarddb.cli.render import (
    VERDICT_STYLES,
    console,
    decision_lines,
    decision_of,
    json_value,
    print_json,
    result_table,
    sql_block,
)
from guarddb.cli.server import embedded_server
from guarddb.cli.three_ways import three_ways
from guarddb.cli.tour import SCENES, Scene, Step

#: Rows of a result that the tour shows.
SHOWN_ROWS = 5

#: The store whose agents the tour follows; what `current_setting('shop.store')` in the profiles' row filters
#: gives.
STORE = "2"


def demo(as_json: JsonOption = False) -> None:
    """Start an embedded PostgreSQL, load a shop, and follow three agents at work.

    Needs the extra "demo" and no database of yours: everything happens in a temporary directory that is
    removed at the end.

    Example: guarddb demo
    """
    out = Console(quiet=True) if as_json else console()
    # The key of the e-mail hashes: new for each run, so that nothing of the tour can be looked up elsewhere.
    os.environ.setdefault("GUARDDB_DEMO_HASH_KEY", secrets.token_hex(16))
    with embedded_server() as dsn:
        out.print(Text("An embedded PostgreSQL is running; it ends with this command.", "dim"))
        rows = load_shop(dsn, out)
        out.print(Text(f"The shop is open: {rows:,} rows.", "dim"))
        results = [result for scene in SCENES for result in play(scene, dsn, out)]
        wall = three_ways(dsn, shop_text("walled.yaml"), STORE, out)
    if as_json:
        print_json({"rows_loaded": rows, "steps": results, "wall": wall})
    else:
        summary(results, out)


def shop_text(name: str) -> str:
    return (resources.files("guarddb.cli") / "shop" / name).read_text(encoding="utf-8")


def load_shop(dsn: str, out: Console) -> int:
    """Create the shop's tables, rows and views; how many rows there are."""
    parts = [part.partition("\n") for part in shop_text("02-rows.sql").split("\n--- ")[1:]]
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with (
        psycopg.Connection.connect(dsn, autocommit=True) as conn,
        Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar,
    ):
        task = bar.add_task("tables", total=len(parts) + 2)
        conn.execute("SET synchronous_commit = off")
        conn.execute(shop_text("01-tables.sql").encode())
        for table, _, statements in parts:
            bar.update(task, description=table, advance=1)
            conn.execute(statements.encode())
        bar.update(task, description="views and indexes", advance=1)
        conn.execute(shop_text("03-views.sql").encode())
        conn.execute("ANALYZE")
        total = conn.execute(
            "SELECT sum(reltuples)::bigint FROM pg_class"
            " WHERE relkind = 'r' AND relnamespace = 'shop'::regnamespace"
        ).fetchone()
        bar.update(task, advance=1)
    assert total is not None
    return int(total[0])


def play(scene: Scene, dsn: str, out: Console) -> Iterator[dict[str, Any]]:
    """One agent's session, step by step, as documents for --json; shown on the way."""
    profile = guarddb.load_policy(yaml.safe_load(shop_text(scene.policy)))
    out.print()
    out.print(Line(Text(scene.title, "bold")))
    policy = Syntax(
        shop_text(scene.policy).strip(), "yaml", theme="ansi_dark", background_color="default", word_wrap=True
    )
    out.print(Panel(policy, title=f"policy {scene.policy}", border_style="dim"))
    with guarddb.connect(
        make_conninfo(dsn, user="shop_agent"),
        policy=profile,
        agent=scene.agent,
        settings={"shop.store": STORE},
        autocommit=True,
        **scene.arguments,
    ) as conn:
        for number, step in enumerate(scene.steps, 1):
            out.print()
            out.print(Text.assemble((f"{number}. ", "bold"), (step.title, "bold")))
            out.print(sql_block(step.sql))
            yield take(step, scene, conn, out)


def take(step: Step, scene: Scene, conn: guarddb.Connection[Any], out: Console) -> dict[str, Any]:
    """Run one statement as the agent would, show what comes of it, and return it as a document."""
    result: dict[str, Any] = {
        "policy": scene.policy,
        "agent": scene.agent,
        "title": step.title,
        "sql": step.sql,
    }
    cur = conn.cursor()
    decision: Decision | None = None
    started = perf_counter()
    try:
        cur.execute(step.sql.encode())
        decision = cur.decision
        if cur.description is not None:
            rows = cur.fetchall()
            result |= {
                "columns": [column.name for column in cur.description],
                "rows": [[_plain(value) for value in row] for row in rows[:SHOWN_ROWS]],
                "row_count": len(rows),
                "truncated": cur.truncated,
            }
        else:
            result["row_count"] = cur.rowcount
    except psycopg.Error as ex:
        decision = decision_of(ex, cur)
        if getattr(ex, "rule", None) is None:
            result["error"] = {"sqlstate": ex.sqlstate, "message": sentence(ex)}
    result["milliseconds"] = round((perf_counter() - started) * 1000, 2)
    if decision is not None:
        result |= decision.to_dict()
        out.print(decision_lines(decision, step.sql, notes=False))
    result["as_expected"] = decision is not None and (decision.verdict, decision.rule) == (
        step.verdict,
        step.rule,
    )
    if (error := result.get("error")) is not None:
        out.print(
            Text.assemble(("server error ", "red"), (f"{error['sqlstate']} ", "bold"), error["message"])
        )
    elif "columns" in result:
        out.print(result_table(cur.description or (), result["rows"]))
        count = result["row_count"]
        words = f"{count} row{'' if count == 1 else 's'}"
        if count > SHOWN_ROWS:
            words += f", {SHOWN_ROWS} shown"
        if cur.truncated:
            words += "; there were more, cut by max_rows (cursor.truncated)"
        out.print(Text(f"({words}, {result['milliseconds']} ms)", "dim"))
    elif "row_count" in result:
        out.print(Text(cur.statusmessage or "", "dim"))
    return result


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | dict | list | None) else json_value(value)


def summary(results: list[dict[str, Any]], out: Console) -> None:
    """How often each verdict and rule was given."""
    counts = Counter((result.get("verdict", "none"), result.get("rule", "none")) for result in results)
    table = Table(
        "verdict", "rule", "statements", title="What the guard did", show_edge=False, header_style="bold"
    )
    for (verdict, rule), count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        table.add_row(Text(f" {verdict} ", VERDICT_STYLES.get(verdict, "")), rule, str(count))
    out.print()
    out.print(table)
    blocked = sum(result.get("verdict") == "block" for result in results)
    odd = [result for result in results if not result["as_expected"]]
    total = f"{len(results)} statements, {blocked} refused; nothing is left running."
    out.print(Text(total, "bold"))
    for result in odd:
        out.print(Text(f"not the answer this tour was written for: {result['sql']}", "yellow"))
