"""The action policy: patterns, conditions and a risk score for what an agent does.

Every guarded statement is an event, and an agent framework can judge its other tool calls with the same function:

    result = guarddb.risk.score({"action": "github:pull_request:create", "timestamp": "2026-03-01T12:00:00Z"}, policy)

Nothing here does I/O but `load_action_policy` with a path, and nothing asks the clock but `guard_tool`.
"""

from __future__ import annotations

from guarddb.risk.event import Event as Event, EventError as EventError
from guarddb.risk.history import History as History
from guarddb.risk.policy import (
    ActionPolicy as ActionPolicy,
    CustomRule as CustomRule,
    load_action_policy as load_action_policy,
)
from guarddb.risk.scoring import RiskResult as RiskResult, ScoreComponent as ScoreComponent, score as score
from guarddb.risk.tools import RiskWarning as RiskWarning, guard_tool as guard_tool

__all__ = [
    "ActionPolicy",
    "CustomRule",
    "Event",
    "EventError",
    "History",
    "RiskResult",
    "RiskWarning",
    "ScoreComponent",
    "guard_tool",
    "load_action_policy",
    "score",
]
