"""What a scan finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Severity: TypeAlias = Literal["block", "annotate"]
ContentClass: TypeAlias = Literal[
    "tags",
    "variation_selectors",
    "invisible_run",
    "scattered_invisibles",
    "annotation_marks",
    "bidi",
    "mixed_scripts",
    "controls",
    "not_scanned",
    "phrases",
    "template_tokens",
    "links",
]


@dataclass(frozen=True, slots=True)
class Finding:
    """One class of characters found in one text.

    Attributes:
        content_class: which class.
        severity: whether `content_scan_mode: block` refuses it; `annotate` only tells.
        detail: what was found, by code points and counts; never the text itself.
        position: index of the first character of it.
    """

    content_class: ContentClass
    severity: Severity
    detail: str
    position: int = 0


def code_point(character: str) -> str:
    """`U+200B`."""
    return f"U+{ord(character):04X}"
