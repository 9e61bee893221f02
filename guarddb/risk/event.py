"""Events: what an agent does, as the action policy judges it. A statement is one (or several), a tool call is another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeAlias

from guarddb.policy.errors import join_path, quoted
from guarddb.risk.classes import data_class
from guarddb.risk.folding import Folded, fold
from guarddb.risk.patterns import Action, read_action
from guarddb.risk.values import Unknown, moment

#: Levels of nesting, and entries in all, of one event.
MAX_LEVELS = 64
MAX_ENTRIES = 100_000

#: What `score` takes for an event.
EventLike: TypeAlias = "Event | Mapping[str, Any]"

_OBJECTS = ("agent", "session", "target", "parameters", "metadata")


class EventError(ValueError):
    """An event that cannot be judged. It is never passed: whoever asked must not go on.

    Attributes:
        path: the place in the event (`data_fields_accessed[0].field`).
    """

    def __init__(self, message: str, path: str = "") -> None:
        self.path = path
        self.message = message
        super().__init__(f"{path}: {message}" if path else message)

    def __reduce__(self) -> tuple[Any, ...]:
        return EventError, (self.message, self.path)


@dataclass(frozen=True, slots=True)
class Field:
    """A field that was accessed: its name in folded letters and its data class, or None when nobody said."""

    name: str
    data_class: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One checked event.

    Attributes:
        action: what is done.
        timestamp: when, in UTC.
        fields: the fields accessed, each once per class.
        level: `target.sensitivity_level` as the caller gave it, 0 to 4, or None.
        tool_name: the tool, or None.
        document: the whole event with keys in folded letters, for the names of conditions. Read-only.
    """

    action: Action
    timestamp: datetime
    event_id: str | None = None
    fields: tuple[Field, ...] = ()
    level: int | None = None
    tool_name: str | None = None
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def value(self, name: tuple[str, ...]) -> Any:
        """The value under a dotted name; a name that is no part of an event is one of `parameters`.

        Raises:
            KeyError: there is none.
        """
        found: Any = self.document
        if name[0] not in _KNOWN and name[0] not in found:
            found = found.get("parameters")
        for part in name:
            if not isinstance(found, Mapping):
                raise KeyError(name)
            found = found[part]
        return found

    def at(self, timestamp: datetime) -> Event:
        """The same event at another time."""
        return replace(self, timestamp=timestamp, document={**self.document, "timestamp": timestamp})


_KNOWN = frozenset(
    (
        "event_id",
        "action",
        "timestamp",
        "tool_name",
        "data_fields_accessed",
        "preceding_actions",
        *_OBJECTS,
    )
)


def read_event(event: EventLike) -> Event:
    """Check an event.

    Raises:
        EventError: it has no action or no timestamp, or something in it is not what it should be.
    """
    if isinstance(event, Event):
        return event
    if not isinstance(event, Mapping):
        raise EventError(f"an event is a mapping; this is {quoted(event)}")
    document = _folded(event)
    action = _action(document.get("action"))
    timestamp = _timestamp(document.get("timestamp"))
    for key in _OBJECTS:
        if document.get(key) is None:
            document.pop(key, None)
        elif not isinstance(document[key], dict):
            raise EventError(f"must be a mapping; it is {quoted(document[key])}", key)
    tool_name = _text(document, "tool_name")
    event_id = _text(document, "event_id")
    fields = _fields(document.get("data_fields_accessed"))
    given = _level(document.get("target", {}).get("sensitivity_level"))
    document["action"] = Folded(action.text)
    document["timestamp"] = timestamp
    if tool_name is not None:
        document["tool_name"] = Folded(tool_name)
    preceding = document.get("preceding_actions")
    if preceding is not None and not isinstance(preceding, list):
        raise EventError(f"must be a list; it is {quoted(preceding)}", "preceding_actions")
    return Event(action, timestamp, event_id, fields, given, tool_name, document)


def _folded(event: Mapping[Any, Any]) -> dict[str, Any]:
    """The event with its keys in folded letters; of two keys that fold to one, nobody could say which counts.

    Iterative and bounded: an event comes from outside.
    """
    root: dict[str, Any] = {}
    entries = 0
    stack: list[tuple[Any, Any, tuple[str | int, ...]]] = [(event, root, ())]
    while stack:
        source, target, path = stack.pop()
        if len(path) > MAX_LEVELS:
            raise EventError(f"nests more than {MAX_LEVELS} levels deep", join_path(path[0]))
        keyed = isinstance(source, Mapping)
        for key, value in source.items() if keyed else enumerate(source):
            entries += 1
            if entries > MAX_ENTRIES:
                raise EventError(f"has more than {MAX_ENTRIES} entries")
            made: Any = value
            if isinstance(value, Mapping):
                made = {}
                stack.append((value, made, (*path, key)))
            elif isinstance(value, list | tuple | set | frozenset):
                made = []
                stack.append((tuple(value), made, (*path, key)))
            if not keyed:
                target.append(made)
                continue
            if not isinstance(key, str):
                raise EventError(f"has the key {quoted(key)}, which is not a text", join_path(*path))
            folded = fold(key)
            if folded in target:
                raise EventError("there are two keys that differ by letter case only", join_path(*path, key))
            target[folded] = made
    return root


def _action(value: object) -> Action:
    if value is None:
        raise EventError("is required and missing", "action")
    if not isinstance(value, str):
        raise EventError(f"must be a text; it is {quoted(value)}", "action")
    try:
        return read_action(value)
    except ValueError as ex:
        raise EventError(f"{ex}; it is {quoted(value)}", "action") from None


def _timestamp(value: object) -> datetime:
    if value is None:
        raise EventError("is required and missing", "timestamp")
    try:
        return moment(value)
    except Unknown:
        shown = value.isoformat() if isinstance(value, datetime) else value
        raise EventError(
            f"must be a date and time (ISO 8601, 2026-03-01T12:00:00Z); it is {quoted(shown)}", "timestamp"
        ) from None


def _text(document: dict[str, Any], key: str) -> str | None:
    value = document.get(key)
    if value is None:
        document.pop(key, None)
        return None
    if not isinstance(value, str):
        raise EventError(f"must be a text; it is {quoted(value)}", key)
    return value.strip() if key == "tool_name" else value


def _fields(value: object) -> tuple[Field, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise EventError(f"must be a list; it is {quoted(value)}", "data_fields_accessed")
    found: dict[Field, None] = {}
    for index, entry in enumerate(value):
        path = f"data_fields_accessed[{index}]"
        label: object = None
        name: object = entry
        if isinstance(entry, dict):
            name, label = entry.get("field"), entry.get("classification")
            if name is None:
                raise EventError("is required and missing", f"{path}.field")
        if not isinstance(name, str) or not name.strip():
            raise EventError(f"must be the name of a field; it is {quoted(name)}", path)
        if label is not None and not isinstance(label, str):
            raise EventError(f"must be a text; it is {quoted(label)}", f"{path}.classification")
        found[Field(fold(name).strip(), data_class(label) if label and label.strip() else None)] = None
    return tuple(found)


def _level(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 4:
        raise EventError(
            f"must be a whole number from 0 to 4; it is {quoted(value)}", "target.sensitivity_level"
        )
    return value


def now() -> datetime:
    """The time of an event that happens now."""
    return datetime.now(UTC)
