"""A text, or any value of a result, to its findings. Plain text is told apart from the rest first, at the speed of memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from guarddb.content.bidi import bidi
from guarddb.content.controls import controls
from guarddb.content.finding import ContentClass, Finding
from guarddb.content.instructions import links, phrases, template_tokens
from guarddb.content.invisible import (
    annotation_marks,
    invisible_runs,
    scattered_invisibles,
    tags,
    variation_selectors,
)
from guarddb.content.scripts import mixed_scripts

Detector: TypeAlias = Callable[[str], Iterator[Finding]]

DETECTORS: Final[tuple[Detector, ...]] = (
    tags,
    variation_selectors,
    invisible_runs,
    scattered_invisibles,
    annotation_marks,
    bidi,
    mixed_scripts,
    controls,
)
#: Off unless a profile asks for them by name.
OPTIONAL: Final[dict[str, Detector]] = {
    "phrases": phrases,
    "template_tokens": template_tokens,
    "links": links,
}

#: Every control character but tab and the line ends that ASCII text has.
_ASCII_CONTROLS: Final = bytes([*range(9), 11, 12, *range(14, 32), 127])
#: The characters that some class looks for; a text without one of them, and of one script only, is clean.
_OF_INTEREST = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u034f\u115f\u1160\u180e\u200b-\u200d\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0"
    "\ufff9-\ufffb\U000e0000-\U000e0fff\ud800-\udfff]|\r(?!\n)"
    "|[A-Za-z][\u0370-\u03ff\u0400-\u052f\u0531-\u0588\u13a0-\u13f5]|[\u0370-\u03ff\u0400-\u052f\u0531-\u0588\u13a0-\u13f5][A-Za-z]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")

#: Levels of nesting in one value (JSON, arrays) that are looked at.
MAX_LEVELS: Final = 200
#: Lists, mappings and objects in one value that are looked at.
MAX_MEMBERS: Final = 1_000_000


def is_plain(text: str) -> bool:
    """Whether a text is ASCII without controls: nothing in it can be hidden. Also for many texts joined into one."""
    if not text.isascii():
        return False
    raw = text.encode()
    if len(raw.translate(None, _ASCII_CONTROLS)) != len(raw):
        return False
    return b"\r" not in raw or raw.count(b"\r") == raw.count(b"\r\n")


def scan(text: str, extra: Iterable[str] = ()) -> tuple[Finding, ...]:
    """The findings in one text.

    Args:
        extra: names of optional detectors to run as well.
    """
    found: list[Finding] = []
    for name in extra:
        found += OPTIONAL[name](text)
    if is_plain(text) or _OF_INTEREST.search(text) is None:
        return tuple(found)
    if (half := _SURROGATE.search(text)) is not None:
        # JSON can spell one; whoever decodes the text next makes of it what he likes.
        found.append(Finding("not_scanned", "block", "half of a surrogate pair", half.start()))
    for detector in DETECTORS:
        found += detector(text)
    return tuple(found)


def texts(value: Any) -> Iterator[str | None]:
    """Every text in a value: elements, keys, members, ends of a range. None for what nests too deeply to be looked at."""
    if isinstance(value, str):
        yield value
        return
    seen: set[int] = set()
    stack: list[tuple[Any, int]] = [(value, 0)]
    while stack:
        each, level = stack.pop()
        if isinstance(each, str):
            yield each
            continue
        if each is None or isinstance(each, bool | int | float | bytes | bytearray | memoryview):
            continue
        if level > MAX_LEVELS or len(seen) > MAX_MEMBERS:
            yield None
            continue
        if id(each) in seen:
            continue
        seen.add(id(each))
        members: Iterable[Any]
        if isinstance(each, Mapping):
            members = (item for pair in each.items() for item in pair)
        elif isinstance(each, list | tuple | set | frozenset):
            members = each
        else:
            members = _members(each)
        stack.extend((item, level + 1) for item in members)


#: Of no text, and of many members.
_WITHOUT_TEXT = frozenset(("datetime", "decimal", "uuid", "ipaddress", "zoneinfo"))


def _members(value: Any) -> list[Any]:
    """What an object of somebody's class keeps: psycopg's Range, an enum's member, what a composite's factory made."""
    if type(value).__module__ in _WITHOUT_TEXT or isinstance(value, type):
        return []
    if isinstance(value, Iterable):
        return list(value)
    members = list(getattr(value, "__dict__", {}).values())
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        members += [getattr(value, name, None) for name in ([slots] if isinstance(slots, str) else slots)]
    return members


def classes(findings: Iterable[Finding]) -> tuple[ContentClass, ...]:
    """The classes of some findings, each once."""
    return tuple(dict.fromkeys(finding.content_class for finding in findings))
