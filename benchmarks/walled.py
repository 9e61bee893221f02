"""Behind the wall: the plans of everyday statements, and what judging a new text costs there.

First the statements of row_filters.py on one table: native row-level security, the text that a guarded connection sends behind
the wall, and the agent's own text over views written by hand (`SELECT * FROM t`, owned by a role that the same policies hold:
no view can be plainer), all three as roles that the same predicate holds. They take turns and are sent anew each time, so that
planning counts; or with --prepared they are planned once, as in a program that sends the same text again and again (psycopg
prepares what it has sent five times). Writes are undone. What the views by hand cost over native row security is PostgreSQL's,
some microseconds of rewriting and planning for each view, whatever it shows; what the wall costs over those is ours. Targets:
the median of the ratios to native row security at most 1.05 where plans are kept, each at most 1.3; the median of the ratios to
the views by hand at most 1.05 in any case. Then first-seen texts: the decision behind the wall against the same text's under a
profile that allows everything, at most 1.2: by itself, and from sending it to its rows. With --cpu, for a machine that does
other things as well, the time that the server (or this process, for decisions) was on a processor.

    python benchmarks/walled.py [--rows 1000000] [--seconds 2] [--filter setting] [--rounds 400] [--prepared] [--cpu]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from time import process_time_ns
from typing import Any

import psycopg
from common import cores, interleaved, met, on_processor, pin, report, server
from first_seen import CTES, JOINS, SIMPLE, texts
from psycopg.conninfo import make_conninfo
from row_filter_queries import QUERIES
from row_filters import (
    PREDICATES,
    SCHEMA,
    SETTINGS,
    TENANTS,
    in_turns,
    indexes,
    one,
    profile,
    shape,
    shown,
)

import guarddb
from guarddb.cli.live_wall import read_wall
from guarddb.driver.plans import ask
from guarddb.wall import apply_script

MEDIAN_TARGET = 1.05
EACH_TARGET = 1.3
FIRST_SEEN_TARGET = 1.2
AGENT = "behind"
#: Whose views are written by hand, and who reads through them.
HAND, HANDS = "hand_reader", "hand_agent"
TABLES = ("customers", "orders", "lines")
#: The first-seen texts read these.
FIRST_SEEN_PROFILE: dict[str, Any] = {
    "name": "first seen",
    "access_mode": "read_only",
    "masking_rules": [{"table": "accounts", "column": "email", "kind": "redact"}],
    "row_filters": [{"table": "accounts", "predicate": "tenant_id < 10"}],
}
OPEN: dict[str, Any] = {"name": "open", "access_mode": "read_write"}


def put_up(conn: psycopg.Connection[Any], document: dict[str, Any]) -> dict[str, Any]:
    """Install a profile's wall for the agent's role; the profile that runs behind it."""
    live = read_wall(conn, guarddb.load_policy(document), AGENT, SETTINGS)
    assert live is not None
    conn.execute(apply_script(live.wall, live.rights).encode())
    return {**document, "guarddb": {**document.get("guarddb", {}), "wall": live.wall.names.schema}}


def put_up_by_hand(conn: psycopg.Connection[Any], predicates: dict[str, str]) -> None:
    """The least that shows the same rows through views: a role that the policies hold, and a view of each table that it owns."""
    conn.execute(f"CREATE ROLE {HAND} NOLOGIN; CREATE ROLE {HANDS} LOGIN; CREATE SCHEMA byhand".encode())
    conn.execute(f"GRANT USAGE, CREATE ON SCHEMA byhand TO {HAND}; GRANT USAGE ON SCHEMA byhand TO {HANDS}")
    for table, predicate in predicates.items():
        conn.execute(
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON public.{table} TO {HAND};"
            f"CREATE POLICY by_hand ON public.{table} AS RESTRICTIVE TO {HAND} USING ({predicate}) WITH CHECK ({predicate});"
            f"CREATE VIEW byhand.{table} AS SELECT * FROM public.{table}; ALTER VIEW byhand.{table} OWNER TO {HAND};"
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON byhand.{table} TO {HANDS}".encode()
        )
    conn.execute(f"GRANT SELECT ON members TO {HAND}; ALTER ROLE {HANDS} SET search_path TO byhand, public")


def first_seen(dsn: str, admin: psycopg.Connection[Any], rounds: int, *, cpu: bool) -> None:
    behind = put_up(admin, FIRST_SEEN_PROFILE)
    opened = guarddb.load_policy(OPEN)
    rows, answered = [], []
    with (
        guarddb.connect(make_conninfo(dsn, user=AGENT), policy=behind) as walled,
        guarddb.connect(dsn, policy=opened) as plain,
    ):
        sides = [conn._guard for conn in (plain, walled)]
        for side, conn in zip(sides, (plain, walled), strict=True):
            conn.execute("SELECT count(*) FROM accounts")
            assert side.catalog is not None
        for title, template in (("simple", SIMPLE), ("two joins", JOINS), ("large CTEs", CTES)):
            for column in ("balance", "email"):

                def deciding(session: Any, column: str = column, template: str = template) -> Any:
                    source = texts(template, column)
                    return lambda: ask(
                        next(source),
                        session.in_force.compiled.policy,
                        session.catalog,
                        session.names.snapshot,
                        session.wall,
                    )

                def answering(
                    conn: psycopg.Connection[Any], column: str = column, template: str = template
                ) -> Any:
                    source = texts(template, column)
                    return lambda: conn.execute(next(source).encode()).fetchall()

                verdicts = "/".join(deciding(side)().decision.verdict for side in sides)
                shown = f"{title}, {'masked' if column == 'email' else 'filtered'}"
                clocks = [process_time_ns] * 2 if cpu else None
                base, cost = interleaved([deciding(side) for side in sides], rounds, batch=5, clocks=clocks)
                rows.append(_compared(shown, verdicts, base, cost))
                both = (plain, walled)
                clocks = [with_server(conn.info.backend_pid) for conn in both] if cpu else None
                base, cost = interleaved([answering(conn) for conn in both], rounds, batch=5, clocks=clocks)
                answered.append(_compared(shown, verdicts, base, cost))
    columns = ("first-seen statement", "verdicts", "open µs", "walled µs", "ratio", "target")
    report("A decision on a text never seen before, behind the wall, medians", columns, rows)
    report("The same from sending the text to its rows", columns, answered)


def with_server(pid: int) -> Callable[[], int]:
    """A clock of the time that this process and a process of the server were on a processor."""
    theirs = on_processor(pid)
    return lambda: process_time_ns() + theirs()


def _compared(shown: str, verdicts: str, base: float, cost: float) -> tuple[str, ...]:
    ratio = cost / base
    return shown, verdicts, f"{base:.0f}", f"{cost:.0f}", f"{ratio:.2f}", met(ratio, FIRST_SEEN_TARGET)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=2, help="of measuring, for each statement")
    parser.add_argument("--rounds", type=int, default=400, help="of first-seen texts")
    parser.add_argument("--filter", choices=PREDICATES, default="constant")
    parser.add_argument("--prepared", action="store_true", help="plan each statement once")
    parser.add_argument("--cpu", action="store_true", help="time on a processor, not time that passes")
    arguments = parser.parse_args()
    predicate = PREDICATES[arguments.filter]
    results, ratios, over_hand, hand_ratios, differences, refused = [], [], [], [], [], []
    options = f"-c max_parallel_workers_per_gather=0 -c app.tenant={SETTINGS['app.tenant']}"
    with server() as dsn, psycopg.Connection.connect(dsn, autocommit=True) as admin:
        admin.execute("CREATE ROLE native LOGIN NOBYPASSRLS")
        admin.execute(f"CREATE ROLE {AGENT} LOGIN NOBYPASSRLS".encode())
        pin(0, cores()[0])
        first_seen(dsn, admin, arguments.rounds, cpu=arguments.cpu)
        admin.execute("DROP SCHEMA first_seen_wall, first_seen_wall_private CASCADE; DROP OWNED BY behind")
        admin.execute(SCHEMA.format(rows=arguments.rows, tenants=TENANTS, role="native").encode())
        # The wall lets all other roles see every row of a table that had no row security; what is native's alone comes on top.
        admin.execute("DROP POLICY everybody ON customers")
        for table in TABLES:
            admin.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY".encode())
        behind = put_up(admin, profile(predicate))
        held = {table: "tenant_id < 10" if table == "customers" else predicate for table in TABLES}
        for table, holds in held.items():
            admin.execute(
                f"CREATE POLICY visible ON {table} AS RESTRICTIVE TO native USING ({holds}) WITH CHECK ({holds})".encode()
            )
        admin.execute("VACUUM ANALYZE")
        role = make_conninfo(dsn, user=AGENT)
        texts_sent: dict[str, str] = {}
        with guarddb.connect(role, policy=behind, options=options) as conn:
            for title, sql in QUERIES.items():
                try:
                    decision = conn.execute(sql.encode()).decision
                except psycopg.Error as ex:
                    refused.append((title, " ".join(str(ex).split())))
                    continue
                finally:
                    conn.rollback()
                assert decision is not None
                assert decision.rewritten_sql is not None
                texts_sent[title] = decision.rewritten_sql
        # (The wall stands on the views that there are: these come when it has been asked.)
        put_up_by_hand(admin, held)
        native = psycopg.Connection.connect(make_conninfo(dsn, user="native"), options=options)
        walled = psycopg.Connection.connect(role, options=options)
        byhand = psycopg.Connection.connect(make_conninfo(dsn, user=HANDS), options=options)
        for side in (native, walled, byhand):
            pin(side.info.backend_pid, cores()[-1])
        for title, sent in texts_sent.items():
            sql = QUERIES[title]
            own, theirs = shape(walled, sent), shape(native, sql)
            if indexes(own) != indexes(theirs):
                differences.append((title, shown(own), shown(theirs)))
            sides = ((walled, sent), (native, sql), (byhand, sql))
            ours, rls, hand = in_turns(
                [one(side, text, prepare=arguments.prepared) for side, text in sides],
                arguments.seconds,
                [on_processor(side.info.backend_pid) for side, _ in sides] if arguments.cpu else None,
            )
            ratios.append(ours / rls)
            over_hand.append(ours / hand)
            hand_ratios.append(hand / rls)
            results.append(
                (
                    title,
                    f"{rls / 1000:.2f}",
                    f"{ours / 1000:.2f}",
                    f"{hand / 1000:.2f}",
                    f"{hand / rls:.2f}",
                    f"{ours / rls:.2f}",
                    met(ours / rls, EACH_TARGET),
                    "same" if own == theirs else "other",
                )
            )
        for side in (native, walled, byhand):
            side.close()
    columns = (
        "statement", "native RLS ms", "walled ms", "by hand ms", "by hand / RLS", "walled / RLS", "target", "plan",
    )  # fmt: skip
    how = "medians of the time on a processor" if arguments.cpu else "medians"
    report(f"Filter {predicate} over {arguments.rows:,} orders, {how}", columns, results)
    middle = statistics.median(ratios)
    print(f"\nMedian of {len(ratios)} ratios: {middle:.3f} ({met(middle, MEDIAN_TARGET)})")
    print(f"Views written by hand, over native row security: {statistics.median(hand_ratios):.3f}")
    middle = statistics.median(over_hand)
    print(f"The wall over views written by hand: {middle:.3f} ({met(middle, MEDIAN_TARGET)})\n")
    if differences:
        report("Plans with other indexes", ("statement", "walled", "native RLS"), differences)
    if refused:
        report("Refused behind the wall", ("statement", "why"), refused)


if __name__ == "__main__":
    main()
