"""Control characters that make a terminal show something else than a model reads (ECMA-48)."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from itertools import pairwise

from guarddb.content.finding import Finding, code_point

#: Colours and weight: what continuous-integration logs are full of. Concealed (8) is none of them.
_SGR = re.compile(r"\x1b\[([0-9;:]*)m")
_CSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
#: Strings for the terminal (OSC: links and titles; DCS, SOS, PM, APC), and every other escape.
_STRING = re.compile(r"\x1b[\]PX^_]")
_ESCAPE = re.compile(r"\x1b")
#: The eight-bit forms. U+0080 to U+009F are also what is left of cp1252, and of UTF-8 that was read as Latin-1, so these need
#: their parameters to be taken for controls.
_C1_CSI = re.compile(r"\x9b(?:[0-9;?]+[ -/]*[@-~]|(?<![\x80-\xf4]\x9b)[@-~])")
_C1_STRING = re.compile(r"[\x9d\x90]\d+;")
_BELL = re.compile(r"[\x07\x08]")
_OTHER = re.compile(r"[\x00-\x06\x0e-\x1a\x1c-\x1f\x7f]")

#: GitLab's section marks; nothing is hidden behind their carriage return.
_SECTION = re.compile(r"section_(?:start|end):\d+:[\w.-]+(?:\[[^\]\r\n]*\])?\r\x1b\[0K")
_LONE_RETURN = re.compile(r"\r(?![\r\n]|\Z)")
_LETTERS = re.compile(r"[^A-Za-z]+")


def controls(text: str) -> Iterator[Finding]:
    """Terminal strings, bells, backspaces, overwritten lines block; colours and cursor movement are told."""
    if "section_" in text:
        text = _blanked(_SECTION, text)
    for pattern, what in (
        (_STRING, "a string for the terminal (a link, a title)"),
        (_BELL, "a bell or backspace"),
        (_C1_CSI, "a control sequence (U+009B)"),
        (_C1_STRING, "a string for the terminal (U+009D, U+0090)"),
    ):
        if (found := pattern.search(text)) is not None:
            yield Finding("controls", "block", what, found.start())
    if "\r" in text and (at := _overwritten(text)) is not None:
        yield Finding("controls", "block", "a carriage return that overwrites its line", at)
    if "\x1b" in text:
        yield from _sequences(text)
    if (found := _OTHER.search(text)) is not None:
        yield Finding("controls", "annotate", f"the control character {code_point(found[0])}", found.start())


def _sequences(text: str) -> Iterator[Finding]:
    for sequence in _SGR.finditer(text):
        if _conceals(sequence[1]):
            yield Finding("controls", "block", "concealed text (SGR 8)", sequence.start())
            break
    if (found := _SGR.search(text)) is not None:
        yield Finding("controls", "annotate", "terminal colours", found.start())
    if (found := _CSI.search(_blanked(_SGR, text))) is not None:
        yield Finding("controls", "annotate", "terminal control sequences", found.start())
    if (found := _ESCAPE.search(_blanked(_STRING, _blanked(_CSI, text)))) is not None:
        yield Finding("controls", "annotate", "an escape character", found.start())


def _conceals(parameters: str) -> bool:
    numbers = deque(number.lstrip("0") for number in parameters.split(";"))
    while numbers:
        number = numbers.popleft()
        if number in ("38", "48") and numbers:
            # An extended colour takes the next numbers: 5 and an index, 2 and three parts.
            for _ in range(min(4 if numbers[0] == "2" else 2, len(numbers))):
                numbers.popleft()
        elif number == "8":
            return True
    return False


def _blanked(pattern: re.Pattern[str], text: str) -> str:
    """`text` without what the pattern finds, every other character in its place."""
    return pattern.sub(lambda found: " " * len(found[0]), text)


def _overwritten(text: str) -> int | None:
    """Where a line is written over with another text. A progress bar writes the same one again, further on."""
    start = 0
    for line in text.split("\n"):
        if "\r" in line:
            parts = [part for part in line.split("\r") if part.strip()]
            for before, after in pairwise(parts):
                if not _is_progress(before, after):
                    return start + line.index("\r")
        start += len(line) + 1
    return None


def _is_progress(before: str, after: str) -> bool:
    first, second = _LETTERS.sub("", before), _LETTERS.sub("", after)
    if not first and not second:
        return True  # digits and bars only
    shorter, longer = sorted((first, second), key=len)
    return len(shorter) >= 4 and longer.startswith(shorter)
