"""The policy profile: every field, its default and its bounds.

The wire shape is PgBeam's `PolicyProfileInput`; what PgBeam does not have sits under `guarddb`. A profile is
checked to its last table name and predicate when it is built: one that exists can be used.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AwareDatetime,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from guarddb.policy.errors import PolicyError
from guarddb.policy.model import (
    INT32_MAX,
    ColumnName,
    ContentClass,
    Count,
    FloorRule,
    FrozenSettings,
    FunctionGroup,
    FunctionName,
    MaskKindField,
    Model,
    RelationName,
    Text,
)
from guarddb.policy.patterns import FunctionPattern, NamePart, RelationPattern, parse_column
from guarddb.policy.predicate import Predicate, parse_predicate
from guarddb.policy.settings import checked_settings
from guarddb.vocabulary import FLOOR_RULES, KINDS, Kind, MaskUseKind


class StatementRules(Model):
    """Which kinds of statement may run. `deny` beats `allow`; an `allow` with entries admits only those
    kinds."""

    _place: ClassVar[str] = "of statement_rules"

    if TYPE_CHECKING:

        def __init__(self, **data: Any) -> None: ...

    allow: tuple[Kind, ...] = Field(
        (), description="Kinds that may run, inside the access mode. Empty: no restriction by kind."
    )
    deny: tuple[Kind, ...] = Field((), description="Kinds that never run; beats allow.")


class _TableRule(Model):
    """An entry about the tables that `table` names."""

    table: RelationName = Field(description="The table: name (in schema public), schema.name or schema.*.")

    @property
    def pattern(self) -> RelationPattern:
        """The parsed `table`."""
        return RelationPattern.parse(self.table)


class _ColumnRule(_TableRule):
    """An entry about one column of them."""

    column: ColumnName = Field(description="The column, by its name in the table.")

    @property
    def column_name(self) -> NamePart:
        """The parsed `column`."""
        return parse_column(self.column)


class MaskingRule(_ColumnRule):
    """What an agent sees instead of the values of one column."""

    _place: ClassVar[str] = "of a masking rule"

    if TYPE_CHECKING:

        def __init__(self, **data: Any) -> None: ...

    kind: MaskKindField = Field(
        description="redact: [redacted], or NULL where it is no text. null: NULL. hash: SHA-256 in hex."
    )


class MaskUse(_ColumnRule):
    """What else than being selected a masked column may be used for."""

    # A bare table name means schema public here too; since an entry admits, match it strictly.
    _place: ClassVar[str] = "of a mask use"

    if TYPE_CHECKING:

        def __init__(self, **data: Any) -> None: ...

    column: ColumnName = Field(description="The masked column, by its name in the table.")
    allow: tuple[MaskUseKind, ...] = Field(
        description="join: join conditions. group: GROUP BY and DISTINCT. equality: = with a value."
    )


class RowFilter(_TableRule):
    """Which rows of one table an agent may see and write: those for which the predicate is true."""

    _place: ClassVar[str] = "of a row filter"

    if TYPE_CHECKING:

        def __init__(self, **data: Any) -> None: ...

    predicate: Text = Field(description="A boolean SQL expression over the table's columns.")

    @model_validator(mode="after")
    def _check_predicate(self) -> Self:
        try:
            parse_predicate(self.predicate, self.pattern)
        except PolicyError as ex:
            raise PolicyError(ex.problems[0][1], "predicate") from None
        return self

    @property
    def parsed(self) -> Predicate:
        """The parsed `predicate`."""
        return parse_predicate(self.predicate, self.pattern)


class GuarddbExtension(Model):
    """What PgBeam's profile does not have; kept apart so that the rest stays portable."""

    _place: ClassVar[str] = "of guarddb"

    if TYPE_CHECKING:

        def __init__(self, **data: Any) -> None: ...

    function_allowlist: tuple[FunctionName, ...] = Field(
        (),
        description="Functions that may be called: name (in public), schema.name, schema.* or *.",
    )
    floor_exceptions: tuple[FloorRule, ...] = Field(
        (), description="Rules of the floor that this profile lifts, each by its tag."
    )
    function_groups: tuple[FunctionGroup, ...] = Field(
        (),
        description="Groups of built-in functions (docs/functions.md) that may be called although what they tell is hidden.",
    )
    mask_uses: tuple[MaskUse, ...] = Field(
        (), description="What else than being selected a masked column may be used for."
    )
    may_change: tuple[RelationName, ...] = Field(
        (),
        description="Tables that row filters read and that the agent may write all the same: name (in public), schema.name.",
    )
    on_unknown: Literal["refuse", "warn"] = Field(
        "refuse",
        description="What a mask or filter does that matches nothing in the live database: refuse statements on tables, or warn.",
    )
    hash_key_env: Text | None = Field(
        None,
        description="Environment variable with the HMAC-SHA-256 key of hash masks. Unset: plain SHA-256.",
    )
    redact_nulls: bool = Field(
        False,
        strict=True,
        description="A redact mask shows [redacted] for NULL too, so that it does not tell whether there is a value.",
    )
    cancel_running: bool = Field(
        False,
        strict=True,
        description="When the control plane disables the agent or withdraws its key, the statement that runs is cancelled too; "
        "otherwise only the next one is refused.",
    )
    content_scan_extra: tuple[ContentClass, ...] = Field(
        (),
        description="What else content_scan_mode looks for: texts that speak to a model, chat-template tokens, links with a "
        "place for data. They are told, never blocked.",
    )
    wall: Text | None = Field(
        None,
        description="Schema of the wall (guarddb wall), where PostgreSQL itself masks and filters. Unset: guarddb does.",
    )
    without_wall: Literal["refuse", "warn"] = Field(
        "refuse",
        description="When that wall is gone, out of date or has gaps: refuse, or warn and let guarddb mask and filter.",
    )
    without_budget_store: Literal["refuse", "pass"] = Field(
        "refuse",
        description="When the store of the budgets does not answer: refuse, or let statements pass uncounted and say so.",
    )
    settings: Annotated[
        dict[str, str],
        WithJsonSchema(
            {
                "type": "object",
                "additionalProperties": {"type": ["string", "number", "boolean"]},
            }
        ),
    ] = Field(
        default_factory=FrozenSettings,
        description="Values of the settings that row filters read with current_setting, by setting name.",
    )

    @field_validator("hash_key_env")
    @classmethod
    def _check_variable(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise PolicyError("must be the name of an environment variable: letters, digits and underscores")
        return name

    @field_validator("wall")
    @classmethod
    def _check_wall(cls, name: str | None) -> str | None:
        if name is None:
            return None
        size = len(name.encode("utf-8", "surrogatepass"))
        if not re.fullmatch(r"[A-Za-z_\u0080-\U0010ffff][\w$]*", name) or size > 50:
            raise PolicyError(
                "must be the name of a schema: letters, digits and underscores, 50 bytes at the most"
            )
        if name.startswith("pg_") or name in ("public", "information_schema"):
            raise PolicyError("must be a schema of the wall's own, not one that is there for others")
        return name

    @field_validator("settings", mode="before")
    @classmethod
    def _normalise_settings(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return checked_settings(value)

    @field_validator("settings")
    @classmethod
    def _freeze_settings(cls, value: dict[str, str]) -> dict[str, str]:
        return FrozenSettings(value)


class PolicyProfile(Model):
    """What an agent's connection may do. Only `name` is required; what is left out is the strictest or the
    plain case.

    Raises `PolicyError` when it is built from bad values. A count of 0 means no limit.
    """

    _place: ClassVar[str] = "of a policy profile"

    if TYPE_CHECKING:

        def __init__(self, **data: Any) -> None: ...

    name: str = Field(min_length=1, max_length=128, strict=True, description="A label for people and logs.")
    access_mode: Literal["read_only", "read_write"] = Field(
        "read_only", description="The ceiling: nothing else in the profile lifts it."
    )
    statement_rules: StatementRules = Field(
        StatementRules(),
        description="Which kinds of statement may run, inside the access mode.",
    )
    table_allowlist: tuple[RelationName, ...] = Field(
        (),
        description="With entries: only these tables. A bare name is in schema public.",
    )
    table_denylist: tuple[RelationName, ...] = Field(
        (),
        description="Never these tables; beats the allowlist. A bare name means that name in every schema.",
    )
    masking_rules: tuple[MaskingRule, ...] = Field(
        (), description="Columns whose values an agent does not see."
    )
    row_filters: tuple[RowFilter, ...] = Field(
        (), description="Rows an agent may see and write. Several filters on one table must all be true."
    )
    budget_queries_per_hour: Count = Field(0, description="Statements in any 60 minutes. 0: no limit.")
    budget_queries_per_day: Count = Field(0, description="Statements in a UTC calendar day. 0: no limit.")
    max_rows: Count = Field(
        0, description="Rows of one result; the rest is cut off, without an error. 0: no limit."
    )
    statement_timeout_ms: Annotated[int, Field(strict=True, ge=0, le=INT32_MAX)] = Field(
        0, description="Milliseconds a statement may run. 0: the session's own setting stays."
    )
    egress_bytes_per_day: Count = Field(
        0, description="Bytes of result data in a UTC calendar day. 0: no limit."
    )
    write_mode: Literal["normal", "rollback", "sandbox"] = Field(
        "normal",
        description="What becomes of writes. rollback: every transaction is rolled back where it would commit; "
        "sandbox: the session works on a throw-away branch of the database.",
    )
    approval_mode: Literal["off", "writes", "ddl", "all"] = Field(
        "off", description="Which statements wait for a person: writes (insert, update, delete), ddl, or all."
    )
    approval_auto_max_rows: Count = Field(
        0, description="Rows up to which a held write needs no person. 0: every one does."
    )
    approval_timeout_seconds: Count = Field(
        300, description="Seconds until a held statement is refused. 0: it waits for as long as it takes."
    )
    migration_safety: Literal["off", "warn", "block"] = Field(
        "off",
        description="What to do about DDL that locks others out or destroys data: nothing, warn, or refuse it.",
    )
    max_affected_rows: Count = Field(
        0, description="Rows that one write may touch; more are undone and refused. 0: no limit."
    )
    content_scan_mode: Literal["off", "annotate", "block"] = Field(
        "off",
        description="What to do about text in results that a person does not see and a model reads: nothing, tell, or refuse.",
    )
    content_scan_max_bytes: Count = Field(
        0, description="Bytes of one result's text that are scanned, plain ASCII aside. 0: 4 MiB."
    )
    guarddb: GuarddbExtension = Field(GuarddbExtension(), description="What goes beyond PgBeam's profile.")
    id: Annotated[str, Field(strict=True, pattern=r"^pol_[A-Za-z0-9_-]+$")] | None = Field(
        None, description="Of a stored profile: its identifier, pol_…"
    )
    project_id: Annotated[str, Field(strict=True, pattern=r"^prj_[A-Za-z0-9_-]+$")] | None = Field(
        None, description="Of a stored profile: its project's identifier, prj_…"
    )
    created_at: AwareDatetime | None = Field(
        None, description="Of a stored profile: when it was made (RFC 3339)."
    )
    updated_at: AwareDatetime | None = Field(
        None, description="Of a stored profile: when it last changed (RFC 3339)."
    )

    @field_validator("created_at", "updated_at", mode="before")
    @classmethod
    def _no_epoch(cls, value: Any) -> Any:
        # pydantic would take a number for seconds since 1970; RFC 3339 is a text.
        if isinstance(value, int | float):
            raise PolicyError("must be a date and time with a zone (RFC 3339)")
        return value

    @field_validator("name")
    @classmethod
    def _printable_name(cls, name: str) -> str:
        # The name stands in error messages and logs, where a line break would let it forge an entry.
        if any(ord(c) < 32 or ord(c) == 127 for c in name):
            raise PolicyError("must not contain control characters")
        return name

    @classmethod
    def draft(cls, document: Mapping[str, Any]) -> Self:
        """A profile from a document that may still lack its name, which is then `draft`. Raises
        PolicyError."""
        if isinstance(document, Mapping) and document.get("name") is None:
            document = {**document, "name": "draft"}
        return cls.model_validate(document)

    def __hash__(self) -> int:
        # (pydantic's own hashes every part each time it is asked.)
        return hash(self.version)

    @cached_property
    def allow_patterns(self) -> tuple[RelationPattern, ...]:
        """The parsed `table_allowlist`; match with bare="public", strict=True."""
        return tuple(RelationPattern.parse(entry) for entry in self.table_allowlist)

    @cached_property
    def deny_patterns(self) -> tuple[RelationPattern, ...]:
        """The parsed `table_denylist`; match with bare="any", strict=False."""
        return tuple(RelationPattern.parse(entry) for entry in self.table_denylist)

    @cached_property
    def masks(self) -> tuple[tuple[RelationPattern, MaskingRule], ...]:
        """Each masking rule with its parsed table; match with bare="public", strict=False."""
        return tuple((rule.pattern, rule) for rule in self.masking_rules)

    @cached_property
    def filters(self) -> tuple[tuple[RelationPattern, Predicate], ...]:
        """Each row filter as parsed table and predicate; match with bare="public", strict=False."""
        return tuple((each.pattern, each.parsed) for each in self.row_filters)

    @cached_property
    def function_patterns(self) -> tuple[FunctionPattern, ...]:
        """The parsed `guarddb.function_allowlist`."""
        return tuple(FunctionPattern.parse(entry) for entry in self.guarddb.function_allowlist)

    @cached_property
    def mask_use_patterns(self) -> tuple[tuple[RelationPattern, MaskUse], ...]:
        """Each mask use with its parsed table; it admits, so match with bare="public", strict=True."""
        return tuple((use.pattern, use) for use in self.guarddb.mask_uses)

    @cached_property
    def may_change_patterns(self) -> tuple[RelationPattern, ...]:
        """The parsed `guarddb.may_change`; it admits, so match with bare="public", strict=True."""
        return tuple(RelationPattern.parse(entry) for entry in self.guarddb.may_change)

    @cached_property
    def filter_settings(self) -> frozenset[str]:
        """The settings that the row filters read, in lower case."""
        return frozenset().union(*(predicate.settings for _, predicate in self.filters))

    @cached_property
    def forbids_nothing(self) -> bool:
        """Whether there is nothing left to protect: every kind of statement, the whole floor lifted, and no
        other field that asks for anything."""
        return (
            self.access_mode == "read_write"
            and not self.statement_rules.deny
            and set(self.statement_rules.allow) == set(KINDS)
            and set(self.guarddb.floor_exceptions) == set(FLOOR_RULES)
            and all(
                getattr(part, name) == field.get_default(call_default_factory=True)
                for part in (self, self.statement_rules, self.guarddb)
                for name, field in type(part).model_fields.items()
                if name not in _FORBIDS_BY_ITSELF_NOTHING
            )
        )

    @cached_property
    def version(self) -> str:
        """Twelve hex digits that change when anything in the profile does."""
        canonical = json.dumps(
            self.model_dump(mode="json"), ensure_ascii=False, sort_keys=True, separators=(",", ":")
        )
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


#: Labels, the fields that `forbids_nothing` looks at one by one, those that only say how another one works, and those that
#: open something. A field that is not here forbids something as soon as it is set.
_FORBIDS_BY_ITSELF_NOTHING = frozenset(
    {
        "name",
        "id",
        "project_id",
        "created_at",
        "updated_at",
        "access_mode",
        "statement_rules",
        "guarddb",
        "approval_auto_max_rows",
        "approval_timeout_seconds",
        "content_scan_max_bytes",
        # statement_rules
        "allow",
        "deny",
        # guarddb
        "cancel_running",
        "content_scan_extra",
        "floor_exceptions",
        "function_allowlist",
        "function_groups",
        "hash_key_env",
        "mask_uses",
        "may_change",
        "on_unknown",
        "redact_nulls",
        "settings",
        "without_budget_store",
        "without_wall",
    }
)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a profile document, with the fields' descriptions, for editors and CI."""
    schema = PolicyProfile.model_json_schema(mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
