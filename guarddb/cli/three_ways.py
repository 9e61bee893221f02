"""The same attacks on the same policy three ways: guarddb alone, guarddb behind the wall, and the wall alone."""

from __future__ import annotations

from typing import Any

import psycopg
import yaml
from psycopg.conninfo import make_conninfo
from rich.console import Console
from rich.panel import Panel
from rich.rule import Rule as Line
from rich.table import Table
from rich.text import Text

import guarddb
from guarddb.cli.inputs import sentence
from guarddb.cli.live_wall import read_wall
from guarddb.cli.render import sql_block
from guarddb.wall import apply_script

#: The role of the wall; the installation makes it.
ROLE = "shop_wall_agent"

#: What an agent might try: title and text. Each once brought raw values or told of hidden rows somewhere.
ATTACKS = (
    (
        "A name that PostgreSQL does not have where it stands, so that it means a masked column further out.",
        "SELECT id, (SELECT xmin FROM pg_roles LIMIT 1) AS value FROM customers AS c (id, store, name, xmin) ORDER BY id LIMIT 1",
    ),
    (
        "A star over a join with a function, under other names.",
        "SELECT v || '' AS value FROM (SELECT * FROM (customers c CROSS JOIN unnest(ARRAY['a']) f) AS j) q(a, b, c, v) LIMIT 1",
    ),
    (
        "A condition that raises an error for a row of the first store, if it is looked at.",
        "SELECT count(*) AS value FROM customers WHERE 1 / (store_id - 1) >= 0",
    ),
    ("The table itself, by its schema.", "SELECT email AS value FROM shop.customers ORDER BY id LIMIT 1"),
)


def three_ways(dsn: str, shop_profile: str, store: str, out: Console) -> list[dict[str, Any]]:
    """Put the wall up, run each attack three ways, show and return what comes of it."""
    document = yaml.safe_load(shop_profile)
    settings = {"shop.store": store}
    alone = guarddb.load_policy(document)
    with psycopg.Connection.connect(dsn, autocommit=True) as conn:
        live = read_wall(conn, alone, ROLE, settings)
        assert live is not None
        conn.execute(apply_script(live.wall, live.rights).encode())
    schema = live.wall.names.schema
    behind = guarddb.load_policy({**document, "guarddb": {"wall": schema}})
    walled = make_conninfo(dsn, user=ROLE)
    out.print()
    out.print(
        Line(Text("The wall: the same policy inside PostgreSQL, and the same attacks three ways", "bold"))
    )
    out.print(
        Panel(
            Text(f"guarddb wall -p walled.yaml --dsn … -r {ROLE} --settings shop.store={store} --apply"),
            style="dim",
        )
    )
    results = []
    for number, (title, sql) in enumerate(ATTACKS, 1):
        out.print()
        out.print(Text.assemble((f"{number}. ", "bold"), (title, "bold")))
        out.print(sql_block(sql))
        ways = {
            "guarddb": guarded(make_conninfo(dsn, user="shop_agent"), alone, settings, sql),
            "guarddb behind the wall": guarded(walled, behind, settings, sql),
            "the wall alone": raw(walled, sql),
        }
        table = Table("", "what the agent gets", show_edge=False, header_style="bold")
        for way, answer in ways.items():
            table.add_row(Text(way), Text(answer, "red" if answer.startswith("refused") else "green"))
        out.print(table)
        results.append({"title": title, "sql": sql, "ways": ways})
    return results


def guarded(dsn: str, profile: guarddb.PolicyProfile, settings: dict[str, str], sql: str) -> str:
    with guarddb.connect(dsn, policy=profile, settings=settings, autocommit=True) as conn:
        return _answer(conn, sql)


def raw(dsn: str, sql: str) -> str:
    with psycopg.Connection.connect(dsn, autocommit=True) as conn:
        return _answer(conn, sql)


def _answer(conn: psycopg.Connection[Any], sql: str) -> str:
    try:
        row = conn.execute(sql.encode()).fetchone()
    except psycopg.Error as ex:
        return f"refused: {sentence(ex)}"
    return "no row" if row is None else ", ".join("NULL" if value is None else str(value) for value in row)
