"""Names in a reason are the agent's: what reads them, a terminal, a log, a person, must not be moved by them."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest

from guarddb import evaluate
from guarddb.errors import PolicyViolation, refusal_message

POLICY: dict[str, Any] = {
    "name": "texts",
    "access_mode": "read_write",
    "masking_rules": [{"table": "people", "column": "ssn", "kind": "redact"}],
    "table_denylist": ["vault.*"],
}
NAMES = (
    "a\nFAKE: line",
    "a\x1b[31mb",
    "a\u202eb",
    "a\U000e0041b",
    "a\rb",
    "a\u2028b",
    "a\x07b",
    "a\x9bb",
    "a\u200bb",
)
STATEMENTS = (
    'DELETE FROM "{}"',
    'UPDATE "{}" SET a = 1',
    'SELECT upper(ssn) AS "{}" FROM people',
    'SELECT ssn AS "{}" FROM people',
    'SELECT "{}"(1)',
    'SELECT 1 OPERATOR("{}".=) 2',
    'SELECT * FROM vault."{}"',
    'FETCH "{}"',
    'EXECUTE "{}"',
    'DECLARE "{}" CURSOR FOR SELECT upper(ssn) FROM people',
    'DROP TABLE "{}"',
    "SELECT {}",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("statement", STATEMENTS)
def test_nothing_unseen_in_a_reason(statement: str, name: str) -> None:
    decision = evaluate(statement.format(name), POLICY)
    told = [decision.reason, refusal_message("a\nb", decision.reason)]
    told.append((decision.hint or "").replace("\n", ""))  # a proposal may have lines, as the statement has
    for text in told:
        assert not [c for c in text if unicodedata.category(c) in {"Cc", "Cf", "Co", "Zl", "Zp"}], text


def test_the_proposed_statement_is_exact() -> None:
    """Escapes are for reading; what is to be sent keeps its names."""
    decision = evaluate('DECLARE "a\x1bb" CURSOR FOR SELECT upper(ssn) FROM people', POLICY)
    assert decision.try_sql == 'DECLARE "a\x1bb" CURSOR FOR SELECT ssn FROM people'


def test_the_message_of_a_refusal_is_one_line() -> None:
    assert "\n" not in str(PolicyViolation(refusal_message("p", "one\ntwo")))
