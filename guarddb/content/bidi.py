"""Bidirectional controls that a paragraph leaves open, or closes with the wrong closer (Unicode Standard Annex 9)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeAlias

from guarddb.content.finding import Finding, Severity, code_point

#: Severity, control, position, what is wrong with it.
_Fault: TypeAlias = tuple[Severity, str, int, str]

_PARAGRAPH = re.compile("[\n\r\u2029\x85\x1c-\x1e]")
_CONTROL = re.compile("[\u202a-\u202e\u2066-\u2069]")
_LRE, _RLE, _PDF, _PDI = "\u202a", "\u202b", "\u202c", "\u2069"
_OVERRIDES = frozenset("\u202d\u202e")
_ISOLATES = frozenset("\u2066\u2067\u2068")
#: Windows puts an LRE before a path that is copied out of a file's properties.
_PATH = re.compile(r"[\"']?(?:[A-Za-z]:[\\/]|\\\\|[A-Fa-f0-9]{2}(?:[ :-]?[A-Fa-f0-9]{2}){7,})")
_OVERRIDE = re.compile("[\u202d\u202e]")
_SHOWN = re.compile(r"[^\W_]")
_RIGHT_TO_LEFT = re.compile(
    "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]"
)


def bidi(text: str) -> Iterator[Finding]:
    """Overrides left open block, since they show another text than is read; other faults are told."""
    start = 0
    faults: list[_Fault] = []
    for paragraph in _PARAGRAPH.split(text):
        if _CONTROL.search(paragraph) is not None:
            faults += _paragraph(paragraph, start)
        start += len(paragraph) + 1
    for severity in ("block", "annotate"):
        same = [fault for fault in faults if fault[0] == severity]
        if same:
            _, control, at, what = same[0]
            more = f", and {len(same) - 1} more" if len(same) > 1 else ""
            yield Finding("bidi", same[0][0], f"{code_point(control)} {what}{more}", at)


def _paragraph(text: str, offset: int) -> list[_Fault]:
    opened: list[tuple[str, int]] = []
    isolates = 0
    faulty: list[tuple[str, int, str]] = []
    for found in _CONTROL.finditer(text):
        control, position = found[0], found.start()
        if control == _PDF:
            if opened and opened[-1][0] not in _ISOLATES:
                opened.pop()
            elif opened:
                faulty.append((*opened[-1], "closed by U+202C"))
        elif control == _PDI:
            if not isolates:
                if opened:
                    faulty.append((*opened[-1], "closed by U+2069"))
                continue
            isolates -= 1
            while (inner := opened.pop())[0] not in _ISOLATES:
                faulty.append((*inner, "left open in an isolate"))
        else:
            isolates += control in _ISOLATES
            opened.append((control, position))
    last_rtl = max((found.start() for found in _RIGHT_TO_LEFT.finditer(text)), default=-1)
    last_shown = max((found.start() for found in _SHOWN.finditer(text)), default=-1)
    faulty += [
        (control, at, "left open") for control, at in opened if not _is_ordinary(control, text, at, last_rtl)
    ]
    faults: list[_Fault] = []
    for control, at, what in faulty:
        # An override that only punctuation follows shows nothing differently: some translations end in one.
        blocks = control in _OVERRIDES and last_shown > at
        faults.append(("block" if blocks else "annotate", control, offset + at, what))
    if not faulty and (override := _OVERRIDE.search(text)) is not None:
        faults.append(("annotate", override[0], offset + override.start(), "closed again"))
    return faults


def _is_ordinary(control: str, text: str, at: int, last_rtl: int) -> bool:
    """What people leave open: an LRE before a pasted path, an RLE before a text that runs from right to left."""
    if control == _LRE:
        return _PATH.match(text, at + 1) is not None
    return control == _RLE and last_rtl > at
