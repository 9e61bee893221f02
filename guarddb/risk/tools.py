"""`guard_tool`: an agent framework's other tools, judged by the same action policy as its SQL."""

from __future__ import annotations

import functools
import inspect
import logging
import warnings
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Literal, ParamSpec, TypeVar, cast

from guarddb.decision.plan import Decision
from guarddb.errors import PolicyViolation
from guarddb.policy.errors import quoted
from guarddb.risk.event import EventError, now
from guarddb.risk.history import History
from guarddb.risk.policy import ActionPolicyLike, load_action_policy
from guarddb.risk.scoring import RiskResult, score

logger = logging.getLogger("guarddb.risk")

P = ParamSpec("P")
R = TypeVar("R")


class RiskWarning(UserWarning):
    """A tool call was flagged: it runs, and somebody should look at it."""


class guard_tool:
    """Judge a tool's calls before they run: a decorator for functions and coroutine functions, and a context manager.

        @guard_tool("github:pull_request:create", policy="actions.yaml")
        def create_pull_request(repo: str, title: str) -> str: ...

        with guard_tool("mcp:s3:object.delete", policy=policy, parameters={"batch_size": 500}) as result:
            ...

    A refused call raises `guarddb.PolicyViolation` and the tool does not run; a flagged one warns (`RiskWarning`) and runs.
    What cannot be judged is refused too.

    Args:
        action: `domain:scope:verb`.
        policy: an ActionPolicy, a mapping, or the path of a file; read once, here.
        tool_name: the tool for `allowed_tools`; the decorated function's own name when left out.
        agent: who acts: the `agent` of the event, or its `agent_id` alone.
        target: the `target` of the event, or a function of the call's parameters that gives it.
        fields: the `data_fields_accessed`, or a function of the call's parameters that gives them.
        parameters: the event's parameters; a decorated function's own arguments by name come over them.
        session, metadata: as in the event.
        history: remembers the agent's events and adds what its rules find.
        flag_at, refuse_at: see `score`.
        on_result: is called with each result, before a refusal is raised.

    Raises:
        PolicyError: the policy or the action is not valid.
    """

    def __init__(
        self,
        action: str,
        *,
        policy: ActionPolicyLike,
        tool_name: str | None = None,
        agent: str | Mapping[str, Any] | None = None,
        target: Mapping[str, Any] | Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
        fields: Iterable[Any] | Callable[[Mapping[str, Any]], Iterable[Any]] | None = None,
        parameters: Mapping[str, Any] | None = None,
        session: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        history: History | None = None,
        flag_at: float = 60,
        refuse_at: float = 85,
        on_result: Callable[[RiskResult], object] | None = None,
    ) -> None:
        self.action = action
        self.policy = load_action_policy(policy)
        self.tool_name = tool_name
        self.agent = {"agent_id": agent} if isinstance(agent, str) else agent
        self.target = target
        listed = isinstance(fields, Iterable) and not isinstance(fields, str | bytes)
        if not (fields is None or callable(fields) or listed):
            raise EventError(f"fields: must be a list of fields or a function; it is {quoted(fields)}")
        self.fields = fields if fields is None or callable(fields) else list(fields)
        if parameters is not None and not isinstance(parameters, Mapping):
            raise EventError(f"parameters: must be a mapping; it is {quoted(parameters)}")
        self.parameters = dict(parameters or {})
        self.session = session
        self.metadata = metadata
        self.history = history
        self.flag_at = flag_at
        self.refuse_at = refuse_at
        self.on_result = on_result
        # A misspelt action or threshold is found now and not at the first call.
        score(self._event({}, now=now()), {}, flag_at=flag_at, refuse_at=refuse_at)

    def judge(self, parameters: Mapping[str, Any] | None = None) -> RiskResult:
        """Judge one call with these parameters (over those of the guard).

        Raises:
            guarddb.PolicyViolation: the call is refused, or cannot be judged.
        """
        try:
            event = self._event({**self.parameters, **(parameters or {})}, now=now(), call=True)
            extra = self.history.components(event, self.policy.compiled.timezone) if self.history else ()
            result = score(event, self.policy, flag_at=self.flag_at, refuse_at=self.refuse_at, history=extra)
        except EventError as ex:
            raise self._refusal("internal_error", f"the call cannot be judged: {ex}") from None
        except Exception as ex:
            logger.exception("a tool call could not be judged and is refused")
            raise self._refusal(
                "internal_error", f"the call cannot be judged ({type(ex).__name__})"
            ) from None
        if self.history is not None:
            self.history.remember(event, refused=result.refused)
        if self.on_result is not None:
            self.on_result(result)
        if result.rule != "ok":
            raise self._refusal(result.rule, result.reasoning, result)
        if result.flagged:
            logger.warning("%s", result.reasoning)
            warnings.warn(result.reasoning, RiskWarning, stacklevel=3)
        return result

    def _event(self, parameters: dict[str, Any], *, now: Any, call: bool = False) -> dict[str, Any]:
        told = {
            "tool_name": self.tool_name,
            "agent": self.agent,
            "session": self.session,
            "metadata": self.metadata,
        }
        event: dict[str, Any] = {"action": self.action, "timestamp": now, "parameters": parameters}
        event.update((key, value) for key, value in told.items() if value is not None)
        if call and self.history is not None:
            event["preceding_actions"] = self.history.preceding_actions(self.agent)
        if call or not callable(self.target):
            event["target"] = self.target(parameters) if callable(self.target) else self.target
        if call or not callable(self.fields):
            event["data_fields_accessed"] = self.fields(parameters) if callable(self.fields) else self.fields
        return event

    def _refusal(
        self,
        rule: Literal["action_blocked", "risk_denied", "internal_error"],
        reason: str,
        result: RiskResult | None = None,
    ) -> PolicyViolation:
        notes = result.notes if result is not None else ()
        error = PolicyViolation(
            f"blocked by the action policy: {reason}", Decision("block", rule, reason, notes=notes), rule=rule
        )
        error.result = result  # type: ignore[attr-defined]
        return error

    # ------------------------------------------------------------------ decorator

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        guard = self
        if self.tool_name is None:
            guard = self._for_tool(getattr(function, "__name__", None))

        def judge(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:
                return  # the function raises it itself, and does not run
            bound.apply_defaults()
            arguments = dict(bound.arguments)
            for name, parameter in signature.parameters.items():
                if parameter.kind is parameter.VAR_KEYWORD:
                    # What came by name is a parameter by that name; a named one is not hidden by it.
                    arguments = {**arguments.pop(name, {}), **arguments}
            arguments.pop("self", None)
            guard.judge(arguments)

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def guarded_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                judge(args, kwargs)
                return await cast("Any", function)(*args, **kwargs)

            return cast("Callable[P, R]", guarded_async)
        if inspect.isasyncgenfunction(function):

            @functools.wraps(function)
            async def guarded_rows(*args: P.args, **kwargs: P.kwargs) -> Any:
                judge(args, kwargs)
                async for item in cast("Any", function)(*args, **kwargs):
                    yield item

            return cast("Callable[P, R]", guarded_rows)

        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            judge(args, kwargs)
            return function(*args, **kwargs)

        return guarded

    def _for_tool(self, name: str | None) -> guard_tool:
        guard = object.__new__(guard_tool)
        guard.__dict__.update(self.__dict__)
        guard.tool_name = name
        return guard

    # ------------------------------------------------------------------ context manager

    def __enter__(self) -> RiskResult:
        return self.judge()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def __aenter__(self) -> RiskResult:
        return self.judge()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None
