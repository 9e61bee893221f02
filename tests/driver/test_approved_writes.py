"""No statement is committed that nobody has said yes to: random scripts, and a trigger of the database's own that counts."""

from __future__ import annotations

from contextlib import closing, suppress
from typing import Any

import psycopg

import guarddb
from guarddb.runtime.approvals import ApprovalRequest
from tests.driver.conftest import open_policy
from tests.driver.test_caps import CAP, COUNTED, STEP, perform
from tests.searching import given, settings, st


def few(request: ApprovalRequest) -> bool:
    """Somebody who approves what is known to touch few rows, and nothing else."""
    shown = request.counted_rows
    assert len(request.sample) <= 5
    if request.sample and request.parameters is None and shown is not None:
        assert len(request.sample) == min(shown, 5)
    return shown is not None and shown <= CAP


@settings(max_examples=25)
@given(
    steps=st.lists(STEP.filter(lambda step: step[0] != "copy"), min_size=1, max_size=8),
    autocommit=st.booleans(),
    needs_nobody=st.sampled_from([0, 1]),
)
def test_no_statement_is_committed_that_was_not_approved(
    fresh_dsn: str, steps: list[tuple[str, Any]], autocommit: bool, needs_nobody: int
) -> None:
    with psycopg.connect(fresh_dsn, autocommit=True) as plain:
        plain.execute(COUNTED)
    policy = open_policy(approval_mode="writes", approval_auto_max_rows=needs_nobody)
    with closing(guarddb.connect(fresh_dsn, policy=policy, approver=few, autocommit=autocommit)) as conn:
        for step in [*steps, ("commit", None)]:
            with suppress(psycopg.Error):
                perform(conn, *step)
            assert not conn.closed
    with psycopg.connect(fresh_dsn) as plain:
        rows = plain.execute("SELECT max(rows) FROM audit").fetchone()
    assert rows is not None
    assert rows[0] is None or rows[0] <= CAP
