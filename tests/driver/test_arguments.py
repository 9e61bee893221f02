"""What connect() is told is checked before anything is sent, and what is wrong with it is a sentence."""

from __future__ import annotations

from typing import Any

import pytest

import guarddb

POLICY = {"name": "arguments"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"settings": {"app.tenant": None}}, "settings.app.tenant: must be a text"),
        ({"settings": {"app.tenant": b"1"}}, "settings.app.tenant: must be a text"),
        ({"settings": {"tenant": "1"}}, "settings.tenant: is a name without a dot"),
        ({"settings": {"statement_timeout": "0"}}, "is a setting that guarddb itself keeps"),
        ({"settings": {"app tenant": "1"}}, "is not the name of a PostgreSQL setting"),
        ({"settings": {"app.t": "1", "APP.T": "2"}}, "is given twice"),
        ({"settings": {"app.tenant": "1\0"}}, "contains a NUL character"),
        ({"settings": "app.tenant=1"}, "must be a mapping"),
        ({"agent": 7}, "agent: must be a text"),
        ({"budgets": 7}, "budgets: must be a storage URI"),
        ({"budgets": {"hour": 5}}, "budgets: must be a storage URI"),
        ({"on_decision": 7}, "on_decision: must be a sink"),
        ({"on_decision": "log.jsonl"}, "on_decision: must be a sink"),
    ],
)
def test_a_bad_argument_is_refused_with_a_sentence(dsn: str, arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(guarddb.PolicyError) as error:
        guarddb.connect(dsn, policy=POLICY, **arguments)
    assert told in str(error.value)


@pytest.mark.parametrize("enforcement", ["off", None, 1, ["enforce"]])
def test_enforcement_has_two_values(dsn: str, enforcement: Any) -> None:
    with pytest.raises(guarddb.NotSupportedError, match='"enforce" or "observe"'):
        guarddb.connect(dsn, policy=POLICY, enforcement=enforcement)


def test_a_short_key_is_warned_of(
    dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GUARDDB_SHORT_KEY", "x")
    policy = {"name": "short key", "guarddb": {"hash_key_env": "GUARDDB_SHORT_KEY"}}
    with guarddb.connect(dsn, policy=policy):
        assert "GUARDDB_SHORT_KEY has 1 byte" in caplog.text
