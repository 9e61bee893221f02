"""The action policy: what an agent may do, beyond one database's profile."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeAlias
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from guarddb.policy.errors import PolicyError, from_validation, join_path, quoted
from guarddb.policy.load import parse_document, policy_path, read_policy_file
from guarddb.policy.model import null_is_default
from guarddb.risk.classes import covered
from guarddb.risk.conditions import Condition, parse_condition
from guarddb.risk.folding import fold
from guarddb.risk.patterns import ActionPattern

#: What `load_action_policy` takes.
ActionPolicyLike: TypeAlias = "ActionPolicy | Mapping[str, Any] | str | os.PathLike[str]"

#: Entries of one section, and rules of one policy.
MAX_ENTRIES = 10_000
MAX_RULES = 1_000


def _entry(text: str) -> str:
    if not text.strip():
        raise PolicyError("is empty")
    return text


def _pattern(text: str) -> str:
    ActionPattern(text)
    return text


def _condition(text: str) -> str:
    parse_condition(text)
    return text


def _timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError; a directory is an OSError
        raise PolicyError(f"is not the name of a time zone (Europe/Berlin, UTC): {quoted(name)}") from None
    return name


Text = Annotated[str, Field(strict=True)]
Entry = Annotated[Text, AfterValidator(_entry)]
Pattern = Annotated[Text, AfterValidator(_pattern)]
RuleName = Annotated[Text, Field(max_length=200), AfterValidator(_entry)]
Entries: TypeAlias = Annotated[tuple[Entry, ...], Field(max_length=MAX_ENTRIES)]
Patterns: TypeAlias = Annotated[tuple[Pattern, ...], Field(max_length=MAX_ENTRIES)]


class _Part(BaseModel):
    """Frozen, no unknown keys, null means the default, errors are PolicyError."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as ex:
            raise from_validation(ex, _unknown) from None

    # As pydantic marks its own: nested parts are built without calling it.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Build from a mapping, or give back an instance. Raises PolicyError."""
        try:
            return super().model_validate(obj, **options)
        except ValidationError as ex:
            raise from_validation(ex, _unknown) from None

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """Build from JSON text. Raises PolicyError."""
        try:
            return super().model_validate_json(json_data, **options)
        except ValidationError as ex:
            raise from_validation(ex, _unknown) from None

    @model_validator(mode="before")
    @classmethod
    def _null_is_default(cls, data: Any) -> Any:
        return null_is_default(cls, data)


class CustomRule(_Part):
    """A condition and what it adds to the score."""

    if TYPE_CHECKING:

        def __init__(self, **data: Any) -> None: ...

    condition: Annotated[Text, AfterValidator(_condition)] = Field(
        description="SQL boolean expression over the event."
    )
    score_impact: Annotated[int, Field(strict=True, ge=-1000, le=1000)] = Field(
        description="Added to the score when the condition is true; may be negative."
    )
    description: Text = Field("", description="What the rule is about, for people.")

    @cached_property
    def parsed(self) -> Condition:
        """The checked condition."""
        return parse_condition(self.condition)


class ActionPolicy(_Part):
    """An action policy. One that exists can be used: patterns and conditions are checked when it is built.

    Built from the bare body or from the stored form, which nests it under `policies`.
    """

    if TYPE_CHECKING:

        def __init__(self, **data: Any) -> None: ...

    sensitive_fields: Entries = Field(
        (), description="Fields whose access is sensitive: name, table.name or schema.table.name."
    )
    allowed_tools: Entries = Field(
        (), description="Not empty: an event of a tool that is not in it is refused."
    )
    blocked_actions: Patterns = Field(
        (), description="Actions that are refused whatever the score; globs too."
    )
    allowed_action_patterns: Patterns = Field(
        (), description="Globs of actions whose score is lowered by 20."
    )
    blocked_action_patterns: Patterns = Field((), description="Globs of actions that are refused.")
    sensitive_classifications: Entries = Field(
        (), description="Data classes whose access adds 30 to the score: PII, PHI, financial …"
    )
    custom_rules: dict[RuleName, CustomRule] = Field(
        default_factory=dict,
        description="Conditions over the event, each with its score_impact.",
        max_length=MAX_RULES,
    )
    timezone: Annotated[Text, AfterValidator(_timezone)] | None = Field(
        None, description="IANA name of the zone that hour() and weekday() tell the time in; UTC without it."
    )

    @model_validator(mode="before")
    @classmethod
    def _stored_form(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or "policies" not in data:
            return data
        both = [key for key in data if key in cls.model_fields]
        if both:
            raise PolicyError(
                "stands beside policies; a stored policy has all its sections inside of policies", both[0]
            )
        inner = data["policies"]
        if not isinstance(inner, Mapping):
            raise PolicyError(f"must be a mapping of fields; it is {quoted(inner)}", "policies")
        if "policies" in inner:
            raise PolicyError("stands inside of policies", "policies.policies")
        return dict(inner)

    @cached_property
    def compiled(self) -> CompiledActionPolicy:
        """The policy made ready for scoring; once, when it is first asked for."""
        return CompiledActionPolicy(self)


class CompiledActionPolicy:
    """Patterns, labels and conditions as scoring asks for them, each with the place in the policy it comes from."""

    __slots__ = ("allowed", "blocked", "classes", "fields", "rules", "timezone", "tools")

    def __init__(self, policy: ActionPolicy) -> None:
        self.blocked = tuple(
            (join_path(section, index), ActionPattern(text))
            for section in ("blocked_actions", "blocked_action_patterns")
            for index, text in enumerate(getattr(policy, section))
        )
        self.allowed = tuple(
            (join_path("allowed_action_patterns", index), ActionPattern(text))
            for index, text in enumerate(policy.allowed_action_patterns)
        )
        self.tools = frozenset(fold(tool).strip() for tool in policy.allowed_tools)
        #: a sensitive field's name in folded letters -> its place
        self.fields: dict[str, str] = {}
        for index, text in enumerate(policy.sensitive_fields):
            self.fields.setdefault(fold(text).strip(), join_path("sensitive_fields", index))
        #: a sensitive class -> its place
        self.classes: dict[str, str] = {}
        for index, text in enumerate(policy.sensitive_classifications):
            for name in covered(text):
                self.classes.setdefault(name, join_path("sensitive_classifications", index))
        self.rules = tuple((name, rule, rule.parsed) for name, rule in policy.custom_rules.items())
        self.timezone = ZoneInfo(policy.timezone) if policy.timezone is not None else None

    def sensitive_field(self, name: str) -> str | None:
        """The entry of `sensitive_fields` that means the field: it by its whole name, or by the last parts of it."""
        if not self.fields:
            return None
        while True:
            found = self.fields.get(name)
            if found is not None:
                return found
            _, dot, name = name.partition(".")
            if not dot:
                return None


def load_action_policy(source: ActionPolicyLike) -> ActionPolicy:
    """The action policy in `source`: one that is built (given back as it is), a mapping, or the path of a file.

    Raises:
        PolicyError: there is no such file, it is not readable as its format (.yaml, .yml, .json, .toml), or the policy
            in it is not valid. The message names the place, `custom_rules.bulk.condition` for instance.
    """
    if isinstance(source, ActionPolicy):
        return source
    if isinstance(source, Mapping):
        return ActionPolicy.model_validate(source)
    if not isinstance(source, str | os.PathLike):
        raise PolicyError(
            f"an action policy is an ActionPolicy, a mapping or the path of a file; this is {quoted(source)}"
        )
    path = policy_path(source)
    try:
        return ActionPolicy.model_validate(parse_document(read_policy_file(path), path))
    except PolicyError as ex:
        raise ex if ex.source is not None else ex.in_file(path) from None


def _unknown(location: tuple[str | int, ...]) -> str:
    model: type[BaseModel] = CustomRule if len(location) > 1 else ActionPolicy
    known = list(model.model_fields)
    near = difflib.get_close_matches(str(location[-1])[:100], known, n=1)
    meant = f'did you mean "{near[0]}"? Allowed' if near else "allowed"
    place = "of a custom rule" if model is CustomRule else "of an action policy"
    return f"is not a key {place}; {meant} there: {', '.join(known)}"
