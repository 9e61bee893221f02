"""What all parts of a profile share: the base model, and the types of their fields."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NoReturn, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from guarddb.facts.groups import OPENABLE
from guarddb.policy.errors import PolicyError, from_validation, one_of, quoted
from guarddb.policy.patterns import FunctionPattern, RelationPattern, parse_column
from guarddb.vocabulary import FLOOR_RULES, MaskKind, Rule

INT64_MAX = 2**63 - 1
#: The most PostgreSQL accepts for statement_timeout.
INT32_MAX = 2**31 - 1


def _relation(text: str) -> str:
    RelationPattern.parse(text)
    return text


def _function(text: str) -> str:
    FunctionPattern.parse(text)
    return text


def _column(text: str) -> str:
    parse_column(text)
    return text


def _null_kind(kind: object) -> object:
    # YAML reads `kind: null` as no value at all; the kind meant is the strictest one, so this errs to the
    # safe side.
    return "null" if kind is None else kind


def _function_group(name: str) -> str:
    if name not in OPENABLE:
        raise PolicyError(f"is not a group that can be opened; groups: {', '.join(OPENABLE)}")
    return name


def _floor_rule(rule: object) -> object:
    if rule not in FLOOR_RULES:
        raise PolicyError(f"must be one of {one_of(FLOOR_RULES)}; it is {quoted(rule)}")
    return rule


Text = Annotated[str, Field(strict=True)]
RelationName = Annotated[Text, AfterValidator(_relation)]
FunctionName = Annotated[Text, AfterValidator(_function)]
ColumnName = Annotated[Text, AfterValidator(_column)]
Count = Annotated[int, Field(strict=True, ge=0, le=INT64_MAX)]
ContentClass = Literal["phrases", "template_tokens", "links"]
FloorRule = Annotated[
    Rule, BeforeValidator(_floor_rule), WithJsonSchema({"type": "string", "enum": list(FLOOR_RULES)})
]
FunctionGroup = Annotated[
    str, AfterValidator(_function_group), WithJsonSchema({"type": "string", "enum": list(OPENABLE)})
]
MaskKindField = Annotated[MaskKind, BeforeValidator(_null_kind)]


class FrozenSettings(dict[str, str]):
    """A dict that cannot be changed, so that a profile cannot either; hashable like the rest of it."""

    __slots__ = ()

    def _refuse(self, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError("the settings of a profile cannot be changed")

    __setitem__ = __delitem__ = _refuse
    clear = pop = popitem = setdefault = update = __ior__ = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[type[FrozenSettings], tuple[dict[str, str]]]:
        return FrozenSettings, (dict(self),)


def null_is_default(model: type[BaseModel], data: Any) -> Any:
    """A document without the fields that are null and need not be there. Raises PolicyError for a key that is no text."""
    if not isinstance(data, Mapping):
        return data
    strange = next((key for key in data if not isinstance(key, str)), None)
    if strange is not None:
        raise PolicyError(f"has the key {quoted(strange)}, which is not a text")
    fields = model.model_fields
    return {
        key: value
        for key, value in data.items()
        if value is not None or key not in fields or fields[key].is_required()
    }


class Model(BaseModel):
    """What all parts of a profile share: frozen, no unknown fields, null means the default, errors are
    PolicyError."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: what an unknown field's message calls the place
    _place: ClassVar[str] = "here"

    # Each subclass repeats the signature for type checkers, which would else derive one from the fields'
    # types: a list for a tuple and a mapping for a part are welcome here.
    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as ex:
            raise from_validation(ex, type(self)._describe_unknown) from None

    # pydantic asks this of an __init__ before it builds nested models without calling it (as it does for its
    # own).
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Build from a mapping, or give back an instance. Raises PolicyError."""
        try:
            return super().model_validate(obj, **options)
        except ValidationError as ex:
            raise from_validation(ex, cls._describe_unknown) from None

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """Build from JSON text. Raises PolicyError."""
        try:
            return super().model_validate_json(json_data, **options)
        except ValidationError as ex:
            raise from_validation(ex, cls._describe_unknown) from None

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy; with `update` it is checked anew (pydantic's own copy would keep bad values and stale
        patterns)."""
        if not update:
            return super().model_copy(deep=deep)
        values = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self).model_validate({**values, **update})

    @model_validator(mode="before")
    @classmethod
    def _null_is_default(cls, data: Any) -> Any:
        return null_is_default(cls, data)

    @classmethod
    def _describe_unknown(cls, location: tuple[str | int, ...]) -> str:
        """The sentence about an unknown field at `location` below this model."""
        model: type[Model] = cls
        for step in location[:-1]:
            model = model._part(str(step)) or model
        known = list(model.model_fields)
        near = difflib.get_close_matches(str(location[-1])[:100], known, n=1)
        meant = f'did you mean "{near[0]}"? Allowed' if near else "allowed"
        return f"is not a field {model._place}; {meant} there: {', '.join(known)}"

    @classmethod
    def _part(cls, name: str) -> type[Model] | None:
        """The model that a field holds, alone or in a list; None for a plain value."""
        field = cls.model_fields.get(name)
        stack: list[Any] = [] if field is None else [field.annotation]
        while stack:
            each = stack.pop()
            if isinstance(each, type) and issubclass(each, Model):
                return each
            stack.extend(get_args(each))
        return None
