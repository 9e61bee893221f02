"""`score`: an event and an action policy make a number from 0 to 100, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Final, Literal, TypeAlias

from guarddb.policy.errors import join_path, quoted
from guarddb.risk.classes import NO_FIELD_FACTOR, factor, level
from guarddb.risk.event import Event, EventLike, read_event
from guarddb.risk.folding import fold
from guarddb.risk.patterns import Action
from guarddb.risk.policy import ActionPolicyLike, CompiledActionPolicy, load_action_policy

RiskVerdict: TypeAlias = Literal["allow", "flag", "refuse"]
RiskLevel: TypeAlias = Literal["none", "low", "medium", "high", "critical"]
RiskRule: TypeAlias = Literal["ok", "action_blocked", "risk_denied"]

VERB_BASE: Final = {
    **dict.fromkeys(("read", "list", "select", "search"), 5),
    **dict.fromkeys(("execute", "call", "invoke"), 10),
    **dict.fromkeys(("insert", "create", "write", "import", "copy"), 15),
    **dict.fromkeys(("update", "alter", "modify", "set"), 20),
    "send": 25,
    **dict.fromkeys(("delete", "drop", "truncate", "revoke", "export"), 35),
    **dict.fromkeys(("grant", "install"), 40),
}
OTHER_VERB_BASE: Final = 15
#: Upper ends of the bands.
BANDS: Final[tuple[tuple[int, RiskLevel], ...]] = (
    (10, "none"),
    (30, "low"),
    (55, "medium"),
    (80, "high"),
    (100, "critical"),
)

ALLOWED_PATTERN: Final = -20
SENSITIVE_CLASS: Final = 30
BLOCKED_FLOOR: Final = 70
#: The names of the components that are not a custom rule's.
BUILT_IN: Final = ("base", "allowed_action_pattern", "blocked_floor", "bounds", "rounding")


@dataclass(frozen=True, slots=True)
class ScoreComponent:
    """What one rule adds to the score. `component["rule"]` reads as `component.rule` does."""

    rule: str
    contribution: int | float
    #: why, in words
    because: str = ""

    def __getitem__(self, key: str) -> Any:
        if key not in ("rule", "contribution"):
            raise KeyError(key)
        return getattr(self, key)

    def to_dict(self) -> dict[str, Any]:
        """`{"rule": …, "contribution": …}`."""
        return {"rule": self.rule, "contribution": self.contribution}


@dataclass(frozen=True, slots=True)
class RiskResult:
    """How risky an event is, and whether it may happen.

    Attributes:
        event_id: the event's, or None.
        score: 0 to 100.
        risk_level: the score's band: none, low, medium, high, critical.
        verdict: `allow`; `flag` (it may happen, and somebody should look); `refuse`.
        violations: for each reason of a refusal the pattern, tool or threshold, and the policy's entry.
        score_components: they add up to the score exactly.
        reasoning: one sentence.
        notes: what could not be judged: rules whose conditions are unknown for this event.
        rule: `ok`, `action_blocked` or `risk_denied`: the tag that a refusal carries.
        deciding: of a refusal, the policy's entry (`blocked_actions[0]`) or the threshold (`refuse_at`).
        explanation: the components as a table, when it was asked for.
    """

    event_id: str | None
    score: int
    risk_level: RiskLevel
    verdict: RiskVerdict
    violations: tuple[str, ...] = ()
    score_components: tuple[ScoreComponent, ...] = ()
    reasoning: str = ""
    notes: tuple[str, ...] = ()
    rule: RiskRule = "ok"
    deciding: str | None = None
    explanation: str | None = field(default=None, repr=False)
    status: str = "scored"

    @property
    def refused(self) -> bool:
        """Whether the event must not happen."""
        return self.verdict == "refuse"

    @property
    def flagged(self) -> bool:
        """Whether it may happen and somebody should look at it."""
        return self.verdict == "flag"

    def to_dict(self) -> dict[str, Any]:
        """The wire shape."""
        wire: dict[str, Any] = {
            "event_id": self.event_id,
            "status": self.status,
            "score": self.score,
            "risk_level": self.risk_level,
            "verdict": self.verdict,
            "violations": list(self.violations),
            "score_components": [component.to_dict() for component in self.score_components],
            "reasoning": self.reasoning,
            "notes": list(self.notes),
        }
        if self.explanation is not None:
            wire["explanation"] = self.explanation
        return wire


def score(
    event: EventLike,
    action_policy: ActionPolicyLike,
    *,
    flag_at: float = 60,
    refuse_at: float = 85,
    explain: bool = False,
    history: Sequence[ScoreComponent] = (),
) -> RiskResult:
    """Judge an event.

    Args:
        event: a mapping with at least `action` and `timestamp`, or a checked `Event`.
        action_policy: an `ActionPolicy`, a mapping or the path of a file. Build one ActionPolicy for many events.
        flag_at: the score, 0 to 100, from which on an event is flagged.
        refuse_at: the score from which on it is refused.
        explain: put the components as a table into the result's `explanation`.
        history: what the agent's history adds, see `guarddb.risk.History`.

    Raises:
        EventError: the event cannot be judged; it must not happen.
        PolicyError: the policy is not valid.
    """
    check_thresholds(flag_at, refuse_at)
    checked = read_event(event)
    result = judge(checked, load_action_policy(action_policy).compiled, flag_at, refuse_at, history)
    return replace(result, explanation=table(result)) if explain else result


def check_thresholds(flag_at: object, refuse_at: object) -> None:
    """Raises ValueError: one of them is no number."""
    for name, threshold in (("flag_at", flag_at), ("refuse_at", refuse_at)):
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or math.isnan(threshold):
            raise ValueError(f"{name} is a number; it is {quoted(threshold)}")


class _Facts:
    """The event as conditions see it: with the level that the policy's own fields give it."""

    __slots__ = ("action", "event", "level")

    def __init__(self, event: Event, found: int) -> None:
        self.event = event
        self.action: Action = event.action
        self.level = found

    def value(self, name: tuple[str, ...]) -> Any:
        if name == ("target", "sensitivity_level"):
            return self.level
        return self.event.value(name)


def judge(
    event: Event,
    policy: CompiledActionPolicy,
    flag_at: float,
    refuse_at: float,
    history: Sequence[ScoreComponent] = (),
) -> RiskResult:
    """`score` of what is checked already."""
    blocking = [(place, pattern) for place, pattern in policy.blocked if pattern.matches(event.action)]
    action_blocked = bool(blocking)
    violations = tuple(
        f"action_blocked: the action {event.action.text} is blocked by {quoted(pattern.text, 200)} ({place})"
        for place, pattern in blocking
    )
    deciding = blocking[0][0] if blocking else None
    # An event of no tool is for the patterns alone.
    if policy.tools and event.tool_name is not None and fold(event.tool_name) not in policy.tools:
        tool = quoted(event.tool_name, 200)
        violations += (f"action_blocked: the tool {tool} is not in allowed_tools",)
        deciding = deciding or "allowed_tools"
    components: list[ScoreComponent] = []
    notes: list[str] = []

    # The data: the class of each field, and which of these are sensitive to this policy.
    touched: dict[str, str] = {}
    heaviest, found_level, weight = "no field", 1, NO_FIELD_FACTOR
    for accessed in event.fields:
        name = accessed.data_class
        if (entry := policy.sensitive_field(accessed.name)) is not None:
            name = name if name is not None else "pii"
            touched.setdefault(name, f"{accessed.name} ({entry})")
        elif name is not None and (entry := policy.classes.get(name)) is not None:
            touched.setdefault(name, f"{accessed.name} ({entry})")
        found_level = max(found_level, level(name))
        if heaviest == "no field" or factor(name) > weight:
            heaviest, weight = f"{accessed.name} is {name or 'of no class'}", factor(name)

    verb = event.action.last_part if event.action.verb not in VERB_BASE else event.action.verb
    verb_base = VERB_BASE.get(verb, OTHER_VERB_BASE)
    base = min(Fraction(verb_base * weight, 10), Fraction(100))
    components.append(
        _component("base", base, f"{verb} {verb_base} × {_shown(Fraction(weight, 10))}: {heaviest}")
    )
    if not action_blocked:
        allowed = next((each for each in policy.allowed if each[1].matches(event.action)), None)
        if allowed is not None:
            place, pattern = allowed
            components.append(
                _component("allowed_action_pattern", ALLOWED_PATTERN, f"{quoted(pattern.text)} ({place})")
            )
    components.extend(
        _component(f"sensitive_class:{name}", SENSITIVE_CLASS, touched[name]) for name in sorted(touched)
    )
    facts = _Facts(event, event.level if event.level is not None else found_level)
    for name, rule, condition in policy.rules:
        fired, unknown = condition.evaluate(facts, policy.timezone)
        if fired:
            shown = f"custom_rules.{name}" if name in BUILT_IN else name
            components.append(_component(shown, rule.score_impact, rule.description or rule.condition))
        elif fired is None:
            notes.append(
                f"{join_path('custom_rules', name)} did not fire, it is unknown: {'; '.join(unknown)}"
            )
    components.extend(history)

    total = sum((Fraction(each.contribution) for each in components), Fraction(0))
    if action_blocked and total < BLOCKED_FLOOR:
        components.append(
            _component("blocked_floor", BLOCKED_FLOOR - total, f"a blocked action scores {BLOCKED_FLOOR}")
        )
        total = Fraction(BLOCKED_FLOOR)
    bounded = min(max(total, Fraction(0)), Fraction(100))
    if bounded != total:
        components.append(_component("bounds", bounded - total, "a score is between 0 and 100"))
    whole = math.floor(bounded + Fraction(1, 2))
    if whole != bounded:
        components.append(_component("rounding", whole - bounded, "a score is a whole number, halves up"))

    risk_level = next(name for end, name in BANDS if whole <= end)
    verdict: RiskVerdict = "allow"
    rule_tag: RiskRule = "ok"
    if violations:
        verdict, rule_tag = "refuse", "action_blocked"
    if whole >= refuse_at:
        violations = (
            *violations,
            f"risk_denied: the score {whole} is not below {_shown(refuse_at)} (refuse_at)",
        )
        if verdict != "refuse":
            verdict, rule_tag, deciding = "refuse", "risk_denied", "refuse_at"
    elif whole >= flag_at and verdict == "allow":
        verdict = "flag"
    return RiskResult(
        event.event_id,
        whole,
        risk_level,
        verdict,
        violations,
        tuple(components),
        _reasoning(event, verdict, whole, risk_level, violations, components),
        tuple(notes),
        rule_tag,
        deciding,
    )


def _component(rule: str, contribution: int | Fraction, because: str) -> ScoreComponent:
    exact = Fraction(contribution)
    # Every fraction here is a half (a base is a multiple of 5, a factor one of 0.1), which a float holds exactly.
    value: int | float = exact.numerator if exact.denominator == 1 else float(exact)
    return ScoreComponent(rule, value, because)


def _shown(value: float | Fraction) -> str:
    number = float(value)
    return str(int(number)) if number.is_integer() else str(number)


def _reasoning(
    event: Event,
    verdict: RiskVerdict,
    whole: int,
    risk_level: RiskLevel,
    violations: tuple[str, ...],
    components: Sequence[ScoreComponent],
) -> str:
    told = ", ".join(f"{each.rule} {each.contribution:+g}" for each in components)
    said = {"allow": "is allowed", "flag": "is allowed and flagged", "refuse": "is refused"}[verdict]
    sentence = f"{event.action.text} {said}: score {whole} ({risk_level}) = {told}"
    if violations:
        sentence += "; " + "; ".join(violations)
    return sentence


def table(result: RiskResult) -> str:
    """The components of a score as lines of text, the sum below them."""
    rows = [(c.rule, f"{c.contribution:+g}", c.because) for c in result.score_components]
    rows.append(("score", str(result.score), f"{result.risk_level}; {result.verdict}"))
    wide = max(len(rule) for rule, _, _ in rows)
    lines = [f"{rule:<{wide}}  {contribution:>6}  {because}".rstrip() for rule, contribution, because in rows]
    lines += [f"violation: {each}" for each in result.violations]
    lines += [f"note: {each}" for each in result.notes]
    return "\n".join(lines)
