"""A statement never seen before: the whole decision against `pglast.parse_sql` of the same text alone.

Targets: at most 1.0 times parse_sql without rewriting, and at most 1.5 times with rewriting and its check.
Literals and comments differ from call to call, so no cache knows the text.

    python benchmarks/first_seen.py [--rounds 400]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from itertools import count

import pglast
import psycopg
from common import FULL_PROFILE, cores, interleaved, met, pin, report, server

import guarddb
from guarddb import Catalog, PolicyProfile, load_policy

SIMPLE = "SELECT id, {a} AS n, city FROM accounts WHERE id = {n} /* {n} */"
JOINS = """SELECT a.city, count(*) AS orders, sum(o.total * {n}) AS revenue -- {n}
FROM accounts a JOIN orders o ON o.account_id = a.id JOIN items i ON i.order_id = o.id
WHERE o.placed_at >= '2025-01-01' AND o.total > {n} AND i.quantity BETWEEN 1 AND {n}
GROUP BY a.city ORDER BY revenue DESC LIMIT 20"""
CTES = """WITH recent AS (
  SELECT o.id, o.account_id, o.total, o.placed_at FROM orders o
  WHERE o.placed_at > timestamptz '2025-06-01' AND o.total > {n} AND o.status IN ('paid', 'open', 's{n}')),
per_account AS (
  SELECT r.account_id, count(*) AS orders, sum(r.total) AS spent, max(r.placed_at) AS latest,
         avg(r.total) FILTER (WHERE r.total > {n}) AS average_large
  FROM recent r GROUP BY r.account_id HAVING count(*) > 1),
ranked AS (
  SELECT p.*, rank() OVER (ORDER BY p.spent DESC) AS place,
         lag(p.spent) OVER (ORDER BY p.spent DESC) AS before
  FROM per_account p),
lines AS (
  SELECT i.order_id, string_agg(i.product, ', ' ORDER BY i.line) AS products,
         sum(i.quantity) AS pieces
  FROM items i WHERE i.quantity < {n} GROUP BY i.order_id)
SELECT a.name, a.city, k.orders, k.spent, k.place, k.spent - coalesce(k.before, 0) AS step, l.products,
       CASE WHEN k.spent > {n} THEN 'large' WHEN k.spent > 100 THEN 'medium' ELSE 'small' END AS size
FROM ranked k JOIN accounts a ON a.id = k.account_id
LEFT JOIN recent r ON r.account_id = a.id AND r.placed_at = k.latest
LEFT JOIN lines l ON l.order_id = r.id
WHERE k.place <= {n} AND EXISTS (SELECT 1 FROM orders x WHERE x.account_id = a.id AND x.status = 'paid')
ORDER BY k.place, a.name LIMIT 50 /* {n} */"""

#: Without rules that change the text; with them, it is a filter and a mask on accounts, which all three read.
UNCHANGED = {**FULL_PROFILE, "masking_rules": [], "row_filters": [], "max_rows": 0}


def texts(template: str, column: str) -> Iterator[str]:
    for number in count(100_000):
        yield template.replace("{n}", str(number)).replace("{a}", column)


def parsing(source: Iterator[str]) -> Callable[[], object]:
    return lambda: pglast.parse_sql(next(source))


def deciding(source: Iterator[str], profile: PolicyProfile, catalog: Catalog) -> Callable[[], object]:
    return lambda: guarddb.evaluate(next(source), profile, catalog)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=400)
    rounds = parser.parse_args().rounds
    with server() as dsn, psycopg.Connection.connect(dsn, autocommit=True) as conn:
        catalog = Catalog.from_connection(conn)
    pin(0, cores()[0])
    plain, changing = load_policy(UNCHANGED), load_policy(FULL_PROFILE)
    rows = []
    for title, template in (("simple", SIMPLE), ("two joins", JOINS), ("large CTEs", CTES)):
        for what, profile, target, column in (
            ("", plain, 1.0, "balance"),
            (", rewritten and checked", changing, 1.5, "email"),
        ):
            first = guarddb.evaluate(next(texts(template, column)), profile, catalog)
            base, cost = interleaved(
                [parsing(texts(template, column)), deciding(texts(template, column), profile, catalog)],
                rounds,
                batch=5,
            )
            rows.append(
                (
                    title + what,
                    first.verdict,
                    f"{base:.0f}",
                    f"{cost:.0f}",
                    f"{cost / base:.2f}",
                    met(cost / base, target),
                )
            )
    columns = ("first-seen statement", "verdict", "parse_sql µs", "decision µs", "ratio", "target")
    report("A decision on a text never seen before, medians", columns, rows)


if __name__ == "__main__":
    main()
