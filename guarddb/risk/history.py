"""What an agent has done so far, as far as it makes the next event more or less surprising.

Four rules with names, each off unless it is given points:

- `refusal_rate`: three in ten of the agent's last events, or more, were refused;
- `first_seen`: it touches a resource that it has not touched in what is remembered;
- `off_hours`: the hour is before 6 or after 22;
- `volume_spike`: `batch_size` is over ten times the agent's own median.

None speaks before it has something to compare with (`WARM_UP` events). The state is a plain value: a store keeps it, the
functions here change it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, get_args
from zoneinfo import ZoneInfo

from cachetools import LRUCache

from guarddb.policy.errors import PolicyError, one_of, quoted
from guarddb.risk.event import Event, EventLike, read_event
from guarddb.risk.folding import fold
from guarddb.risk.scoring import ScoreComponent

HistoryRule: TypeAlias = Literal["refusal_rate", "first_seen", "off_hours", "volume_spike"]
HISTORY_RULES: tuple[HistoryRule, ...] = get_args(HistoryRule)

#: Events of one agent before a rule compares, and how many of them are remembered.
WARM_UP: Final = 10
REMEMBERED: Final = 200
SIZES: Final = 64
RESOURCES: Final = 10_000
#: What a session's `preceding_actions` holds.
PRECEDING: Final = 50

REFUSAL_RATE: Final = 0.3
SPIKE: Final = 10
DAY_BEGINS, DAY_ENDS = 6, 22


@dataclass(slots=True)
class AgentState:
    """What is remembered of one agent."""

    refused: deque[bool] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    sizes: deque[float] = field(default_factory=lambda: deque(maxlen=SIZES))
    resources: dict[str, None] = field(default_factory=dict)
    actions: deque[str] = field(default_factory=lambda: deque(maxlen=PRECEDING))
    seen: int = 0

    def remember(self, event: Event, *, refused: bool) -> None:
        """Take an event and its outcome in."""
        self.seen += 1
        self.refused.append(refused)
        self.actions.append(event.action.text)
        if (size := _batch_size(event)) is not None:
            self.sizes.append(size)
        if (resource := _resource(event)) is not None:
            self.resources.pop(resource, None)
            self.resources[resource] = None
            if len(self.resources) > RESOURCES:
                del self.resources[next(iter(self.resources))]


def components(
    event: Event, state: AgentState, rules: Mapping[HistoryRule, int], timezone: ZoneInfo | None = None
) -> tuple[ScoreComponent, ...]:
    """What the agent's history adds to an event's score, before the event is remembered."""
    found = []
    for rule, points in rules.items():
        because = _WHY[rule](event, state, timezone)
        if because is not None:
            found.append(ScoreComponent(rule, points, because))
    return tuple(found)


def _refusal_rate(_: Event, state: AgentState, __: ZoneInfo | None) -> str | None:
    total, refused = len(state.refused), sum(state.refused)
    if total < WARM_UP or refused < total * REFUSAL_RATE:
        return None
    return f"{refused} of the agent's last {total} events were refused"


def _first_seen(event: Event, state: AgentState, _: ZoneInfo | None) -> str | None:
    resource = _resource(event)
    if resource is None or state.seen < WARM_UP or resource in state.resources:
        return None
    return f"the agent has not touched {quoted(resource)} before"


def _off_hours(event: Event, _: AgentState, timezone: ZoneInfo | None) -> str | None:
    hour = (event.timestamp.astimezone(timezone) if timezone is not None else event.timestamp).hour
    return f"the hour is {hour}" if hour < DAY_BEGINS or hour > DAY_ENDS else None


def _volume_spike(event: Event, state: AgentState, _: ZoneInfo | None) -> str | None:
    size = _batch_size(event)
    if size is None or len(state.sizes) < WARM_UP:
        return None
    usual = max(sorted(state.sizes)[len(state.sizes) // 2], 1)
    return f"batch_size {size:g} is over {SPIKE} times the median {usual:g}" if size > SPIKE * usual else None


_WHY = {
    "refusal_rate": _refusal_rate,
    "first_seen": _first_seen,
    "off_hours": _off_hours,
    "volume_spike": _volume_spike,
}


def _batch_size(event: Event) -> float | None:
    parameters = event.document.get("parameters") or {}
    size: Any = parameters.get("batch_size")
    usable = isinstance(size, int | float) and not isinstance(size, bool) and 0 <= size < 1e18
    return float(size) if usable else None


def _resource(event: Event) -> str | None:
    target = event.document.get("target") or {}
    resource: Any = target.get("resource_id")
    return fold(resource) if isinstance(resource, str) and resource else None


class History:
    """The agents' states, in memory, and the rules that are on.

    Args:
        rules: points for each rule that is on, `{"volume_spike": 25, "first_seen": 10}`.
        agents: how many agents are remembered; the one unseen for longest is forgotten first.

    Raises:
        PolicyError: there is no such rule, or its points or the number of agents are no whole number.
    """

    def __init__(self, rules: Mapping[str, int], *, agents: int = 10_000) -> None:
        if not isinstance(rules, Mapping):
            raise PolicyError(
                f"the rules of a history are a mapping of names to points; this is {quoted(rules)}. "
                f"There are {one_of(HISTORY_RULES)}"
            )
        if isinstance(agents, bool) or not isinstance(agents, int) or agents < 1:
            raise PolicyError(f"must be a whole number from 1 on; it is {quoted(agents)}", "agents")
        self.rules: dict[HistoryRule, int] = {}
        for name, points in rules.items():
            known: HistoryRule | None = next((rule for rule in HISTORY_RULES if rule == name), None)
            if known is None:
                raise PolicyError(f"is not a history rule; there are {one_of(HISTORY_RULES)}", str(name))
            if isinstance(points, bool) or not isinstance(points, int) or abs(points) > 1000:
                raise PolicyError(f"must be a whole number from -1000 to 1000; it is {quoted(points)}", name)
            self.rules[known] = points
        self._states: LRUCache[str, AgentState] = LRUCache(agents)
        self._lock = threading.Lock()

    def components(self, event: EventLike, timezone: ZoneInfo | None = None) -> tuple[ScoreComponent, ...]:
        """What the history of the event's agent adds: the `history` of `score`."""
        checked = read_event(event)
        with self._lock:
            return components(checked, self._state(checked), self.rules, timezone)

    def remember(self, event: EventLike, *, refused: bool) -> None:
        """Take the event and its outcome into its agent's history."""
        checked = read_event(event)
        with self._lock:
            self._state(checked).remember(checked, refused=refused)

    def preceding_actions(self, agent: Mapping[str, Any] | None) -> list[str]:
        """The agent's last 50 actions, oldest first."""
        with self._lock:
            return list(self._states.get(_agent_id(agent), AgentState()).actions)

    def _state(self, event: Event) -> AgentState:
        key = _agent_id(event.document.get("agent"))
        state: AgentState | None = self._states.get(key)
        if state is None:
            state = self._states[key] = AgentState()
        return state


def _agent_id(agent: Mapping[str, Any] | None) -> str:
    name = (agent or {}).get("agent_id")
    return name if isinstance(name, str) else ""
