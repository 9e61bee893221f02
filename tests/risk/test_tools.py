"""`guard_tool`: decorator and context manager, sync and async."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

import guarddb
from guarddb.risk import History, RiskResult, RiskWarning, guard_tool

ACTION = "github:pull_request:create"
FLAG = {"custom_rules": {"r": {"condition": "true", "score_impact": 50}}}
REFUSE = {"custom_rules": {"r": {"condition": "true", "score_impact": 90}}}
BLOCK = {"blocked_actions": [ACTION]}


def test_an_allowed_call_runs() -> None:
    @guard_tool(ACTION, policy={})
    def create(repo: str, *, title: str = "t") -> str:
        """Make one."""
        return f"{repo}/{title}"

    assert create("r", title="x") == "r/x"
    assert (create.__name__, create.__doc__) == ("create", "Make one.")
    assert list(inspect.signature(create).parameters) == ["repo", "title"]


@pytest.mark.parametrize(("policy", "rule"), [(BLOCK, "action_blocked"), (REFUSE, "risk_denied")])
def test_a_refused_call_does_not_run(policy: dict[str, Any], rule: str) -> None:
    ran = []
    create = guard_tool(ACTION, policy=policy)(lambda: ran.append(1))
    with pytest.raises(guarddb.PolicyViolation) as caught:
        create()
    assert ran == []
    assert caught.value.rule == rule
    assert caught.value.decision is not None
    assert caught.value.decision.blocked
    assert caught.value.decision.rule == rule
    assert ("blocked_actions[0]" if policy is BLOCK else "refuse_at") in str(caught.value)


def test_a_flagged_call_runs_with_a_warning() -> None:
    create = guard_tool(ACTION, policy=FLAG)(lambda: "done")
    with pytest.warns(RiskWarning, match="flagged: score 65"):
        assert create() == "done"


async def test_a_coroutine_function_is_guarded_too() -> None:
    ran = []

    async def tool(x: int) -> int:
        ran.append(x)
        return x

    allowed, refused = guard_tool(ACTION, policy={})(tool), guard_tool(ACTION, policy=BLOCK)(tool)
    assert inspect.iscoroutinefunction(allowed)
    assert await allowed(3) == 3
    with pytest.raises(guarddb.PolicyViolation):
        await refused(4)
    assert ran == [3]


async def test_an_async_generator_is_guarded_too() -> None:
    async def rows() -> Any:
        yield 1
        yield 2

    assert [row async for row in guard_tool(ACTION, policy={})(rows)()] == [1, 2]
    with pytest.raises(guarddb.PolicyViolation):
        [row async for row in guard_tool(ACTION, policy=BLOCK)(rows)()]


def test_the_context_manager() -> None:
    with guard_tool(ACTION, policy={}, parameters={"batch_size": 2}) as result:
        assert isinstance(result, RiskResult)
        assert result.score == 15
    ran = []
    with pytest.raises(guarddb.PolicyViolation), guard_tool(ACTION, policy=BLOCK):
        ran.append(1)
    assert ran == []
    with pytest.raises(KeyError), guard_tool(ACTION, policy={}):
        raise KeyError("the body's own errors come through")


async def test_the_context_manager_in_a_coroutine() -> None:
    async with guard_tool(ACTION, policy={}) as result:
        assert result.verdict == "allow"
    with pytest.raises(guarddb.PolicyViolation):
        async with guard_tool(ACTION, policy=BLOCK):
            raise AssertionError


def test_the_calls_arguments_are_the_events_parameters() -> None:
    policy = {
        "custom_rules": {
            "bulk": {"condition": "batch_size > 100 AND repo = 'x' AND extra = 1", "score_impact": 90}
        }
    }

    class Tools:
        @guard_tool(ACTION, policy=policy, parameters={"repo": "unset"})
        def create(self, repo: str, batch_size: int = 5, **more: Any) -> str:
            return "done"

    assert Tools().create("x", extra=1) == "done"
    assert Tools().create("y", 101, extra=1) == "done"
    with pytest.raises(guarddb.PolicyViolation, match="bulk"):
        Tools().create("x", batch_size=101, extra=1)
    with pytest.raises(TypeError):
        Tools().create()  # type: ignore[call-arg]


def test_the_tools_name_is_the_functions_unless_it_is_given() -> None:
    def slack() -> str:
        return "sent"

    assert guard_tool(ACTION, policy={"allowed_tools": ["slack"]})(slack)() == "sent"
    with pytest.raises(guarddb.PolicyViolation, match='"slack" is not in allowed_tools'):
        guard_tool(ACTION, policy={"allowed_tools": ["email"]})(slack)()
    assert guard_tool(ACTION, policy={"allowed_tools": ["email"]}, tool_name="Email")(slack)() == "sent"


def test_target_and_fields_may_be_told_by_the_call() -> None:
    results: list[RiskResult] = []
    create = guard_tool(
        "crm:contact:read",
        policy={"sensitive_fields": ["ssn"]},
        target=lambda p: {"resource_id": p["contact"]},
        fields=lambda p: p["fields"],
        on_result=results.append,
    )(lambda contact, fields: None)
    create("c1", ["name"])
    create("c1", ["ssn"])
    assert [r.score for r in results] == [7, 43]


def test_what_cannot_be_judged_is_refused() -> None:
    def broken(_: Any) -> Any:
        raise RuntimeError("boom")

    guarded = guard_tool(ACTION, policy={}, fields=broken)(lambda: "ran")
    with pytest.raises(guarddb.PolicyViolation) as caught:
        guarded()
    assert caught.value.rule == "internal_error"
    odd = guard_tool(ACTION, policy={})(lambda **options: "ran")
    with pytest.raises(guarddb.PolicyViolation, match="letter case"):
        odd(Size=1, size=2)


def test_a_misspelt_guard_is_an_error_at_once() -> None:
    with pytest.raises(ValueError, match="three segments"):
        guard_tool("create", policy={})
    with pytest.raises(guarddb.PolicyError):
        guard_tool(ACTION, policy={"blocked": []})
    with pytest.raises(ValueError, match="flag_at"):
        guard_tool(ACTION, policy={}, flag_at="high")  # type: ignore[arg-type]


def test_an_agents_refusals_raise_its_score_until_it_is_stopped() -> None:
    history = History({"refusal_rate": 80})
    policy = {"blocked_action_patterns": ["*:*:delete"]}
    read = guard_tool("crm:contact:read", policy=policy, agent="a1", history=history)(lambda: "read")
    delete = guard_tool("crm:contact:delete", policy=policy, agent="a1", history=history)(lambda: "gone")
    other = guard_tool("crm:contact:read", policy=policy, agent="a2", history=history)(lambda: "read")
    for _ in range(7):
        assert read() == "read"
    for _ in range(3):
        with pytest.raises(guarddb.PolicyViolation):
            delete()
    with pytest.raises(guarddb.PolicyViolation, match="refusal_rate"):
        read()
    assert other() == "read"


def test_many_threads_may_call_one_guard() -> None:
    history = History({"volume_spike": 10})
    guarded = guard_tool(ACTION, policy={}, history=history)(lambda batch_size: batch_size)

    async def run() -> list[int]:
        return await asyncio.gather(*(asyncio.to_thread(guarded, n) for n in range(100)))

    assert asyncio.run(run()) == list(range(100))
    assert len(history.preceding_actions(None)) == 50
