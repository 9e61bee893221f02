"""What an action policy adds to a point SELECT: seven sections, twenty rules.

Target: at most 1.15 times the same guarded connection without one.

    python benchmarks/action_policy.py [--rounds 200]
"""

from __future__ import annotations

import argparse
from typing import Any

import psycopg
from common import FULL_PROFILE, cores, interleaved, met, pin, report, server

import guarddb

RATIO_TARGET = 1.15
ORDERS = "SELECT id, status, total FROM orders WHERE id = 4711"

POLICY: dict[str, Any] = {
    "sensitive_fields": ["ssn", "password", "credit_card", "accounts.email"],
    "allowed_tools": ["postgres", "slack"],
    "blocked_actions": ["database:table:drop", "database:table:truncate"],
    "allowed_action_patterns": ["database:*:select"],
    "blocked_action_patterns": ["*:*:delete", "database:schema:*", "mcp:*:*.delete"],
    "sensitive_classifications": ["PII", "PHI", "financial", "secret", "restricted"],
    "custom_rules": {
        "bulk": {"condition": "batch_size > 100 AND target.sensitivity_level >= 3", "score_impact": 40},
        "off_hours": {"condition": "hour(timestamp) < 6 OR hour(timestamp) > 22", "score_impact": 5},
        **{
            f"rule {n}": {
                "condition": f"target.resource_id LIKE 'public.t{n}%' AND batch_size > {n} OR weekday(timestamp) = 9",
                "score_impact": n,
            }
            for n in range(18)
        },
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args().rounds
    rows = []
    with server() as dsn:
        without = guarddb.connect(dsn, policy=FULL_PROFILE, autocommit=True)
        scored = guarddb.connect(dsn, policy=FULL_PROFILE, action_policy=POLICY, autocommit=True)
        remembering = guarddb.connect(
            dsn,
            policy=FULL_PROFILE,
            action_policy=POLICY,
            action_history={"volume_spike": 10},
            autocommit=True,
        )
        client, backend = cores()[0], cores()[-1]
        pin(0, client)
        for conn in (without, scored, remembering):
            pin(conn.info.backend_pid, backend)
        for title, conn in (("20 rules", scored), ("20 rules and the agent's history", remembering)):
            base, cost = interleaved([one(without.cursor()), one(conn.cursor())], rounds)
            target = met(cost / base, RATIO_TARGET) if conn is scored else ""
            rows.append((title, f"{base:.1f}", f"{cost:.1f}", f"{cost / base:.3f}", target))
        for conn in (without, scored, remembering):
            conn.close()
    report(
        "Point SELECT under an action policy, medians",
        ("policy", "without µs", "with µs", "ratio", "target"),
        rows,
    )


def one(cur: psycopg.Cursor[Any]) -> Any:
    text = ORDERS.encode()

    def call() -> object:
        cur.execute(text)
        return cur.fetchone()

    return call


if __name__ == "__main__":
    main()
