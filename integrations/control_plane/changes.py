"""What a new version of a profile opens and what it closes, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

Direction: TypeAlias = Literal["opens", "closes", "changes"]


class Change(NamedTuple):
    """One difference: `opens` lets more through, `closes` less, `changes` is neither or both."""

    direction: Direction
    text: str


#: Choices from the most open to the most closed one.
_ORDERS: dict[str, tuple[str, ...]] = {
    "access_mode": ("read_write", "read_only"),
    "migration_safety": ("off", "warn", "block"),
    "content_scan_mode": ("off", "annotate", "block"),
}
#: Limits where less is stricter and 0 is none.
_LIMITS = (
    "budget_queries_per_hour",
    "budget_queries_per_day",
    "max_rows",
    "statement_timeout_ms",
    "egress_bytes_per_day",
    "max_affected_rows",
)
#: What each approval mode holds.
_HELD = {"off": frozenset(), "writes": {"writes"}, "ddl": {"ddl"}, "all": {"writes", "ddl"}}
#: Lists of `guarddb` whose entries open something.
_OPENING = ("function_allowlist", "floor_exceptions", "mask_uses", "function_groups")


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """The differences of two profile documents, in the order of the fields.

    >>> changes({"access_mode": "read_only"}, {"access_mode": "read_write"})
    [Change(direction='opens', text='access_mode: read_only → read_write')]
    """
    found: list[Change] = []
    for field in dict.fromkeys((*after, *before)):
        old, new = before.get(field), after.get(field)
        if old == new and field != "guarddb":
            continue
        if field in _ORDERS:
            found.append(_ordered(field, old, new))
        elif field in _LIMITS:
            found.append(_limit(field, old or 0, new or 0))
        elif field in ("table_allowlist",):
            found += _allowlist(field, old or (), new or ())
        elif field == "table_denylist":
            found += _entries(field, old or (), new or (), added="closes")
        elif field == "statement_rules":
            old, new = old or {}, new or {}
            found += _allowlist("statement_rules.allow", old.get("allow") or (), new.get("allow") or ())
            found += _entries(
                "statement_rules.deny", old.get("deny") or (), new.get("deny") or (), added="closes"
            )
        elif field == "masking_rules":
            found += _keyed(field, old or (), new or (), ("table", "column"), "kind")
        elif field == "row_filters":
            found += _entries(field, map(_filter, old or ()), map(_filter, new or ()), added="closes")
        elif field == "approval_mode":
            found.append(_approval(str(old), str(new)))
        elif field == "approval_auto_max_rows":
            direction: Direction = "opens" if (new or 0) > (old or 0) else "closes"
            found.append(Change(direction, f"{field}: {old} → {new}"))
        elif field == "guarddb":
            found += _extension(old or {}, new or {})
        else:
            found.append(Change("changes", f"{field}: {_told(old)} → {_told(new)}"))
    return found


def _told(value: Any) -> str:
    return "not set" if value is None else str(value)


def _ordered(field: str, old: Any, new: Any) -> Change:
    order = _ORDERS[field]
    if old in order and new in order:
        direction: Direction = "opens" if order.index(new) < order.index(old) else "closes"
    else:
        direction = "changes"
    return Change(direction, f"{field}: {_told(old)} → {_told(new)}")


def _limit(field: str, old: int, new: int) -> Change:
    stricter = new != 0 and (old == 0 or new < old)
    words = ("no limit" if each == 0 else str(each) for each in (old, new))
    return Change("closes" if stricter else "opens", f"{field}: {' → '.join(words)}")


def _entries(field: str, old: Iterable[str], new: Iterable[str], *, added: Direction) -> list[Change]:
    old, new = list(old), list(new)
    removed: Direction = "opens" if added == "closes" else "closes"
    return [Change(added, f"{field}: + {each}") for each in new if each not in old] + [
        Change(removed, f"{field}: − {each}") for each in old if each not in new
    ]


def _allowlist(field: str, old: Iterable[str], new: Iterable[str]) -> list[Change]:
    old, new = list(old), list(new)
    if old and not new:
        return [Change("opens", f"{field}: no longer restricts ({', '.join(old)})")]
    if new and not old:
        return [Change("closes", f"{field}: only {', '.join(new)}")]
    return _entries(field, old, new, added="opens")


def _filter(entry: Mapping[str, Any]) -> str:
    return f"{entry.get('table')}: {entry.get('predicate')}"


def _keyed(
    field: str,
    old: Iterable[Mapping[str, Any]],
    new: Iterable[Mapping[str, Any]],
    keys: tuple[str, ...],
    value: str,
) -> list[Change]:
    before = {tuple(each.get(key) for key in keys): each.get(value) for each in old}
    after = {tuple(each.get(key) for key in keys): each.get(value) for each in new}
    found: list[Change] = []
    for key in dict.fromkeys((*after, *before)):
        name = ".".join(map(str, key))
        if key not in before:
            found.append(Change("closes", f"{field}: + {name} ({after[key]})"))
        elif key not in after:
            found.append(Change("opens", f"{field}: − {name} ({before[key]})"))
        elif before[key] != after[key]:
            found.append(Change("changes", f"{field}: {name}: {before[key]} → {after[key]}"))
    return found


def _approval(old: str, new: str) -> Change:
    before, after = _HELD.get(old, frozenset()), _HELD.get(new, frozenset())
    direction: Direction = "closes" if before < after else "opens" if after < before else "changes"
    return Change(direction, f"approval_mode: {old} → {new}")


def _extension(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    found: list[Change] = []
    for field in dict.fromkeys((*new, *old)):
        before, after = old.get(field), new.get(field)
        if before == after:
            continue
        if field in _OPENING:
            texts = ([str(each) for each in side or ()] for side in (before, after))
            found += _entries(f"guarddb.{field}", *texts, added="opens")
        elif before or after:
            found.append(Change("changes", f"guarddb.{field}: {_told(before)} → {_told(after)}"))
    return found
