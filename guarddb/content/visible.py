"""Text that somebody else wrote, made safe to read on a terminal and in a log."""

from __future__ import annotations

import unicodedata

#: Control, format (bidi controls, zero-width characters, tags), surrogate, private use and unassigned characters; separators
#: of lines and paragraphs, which some terminals obey.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_KEPT = frozenset("\n\t")


def visible(text: str, *, lines: bool = True) -> str:
    r"""The text with every character that is not seen, or that moves others about, written as an escape.

    What an approver reads must be what would run: a cursor movement can hide a line, a bidi control can turn a condition round.

    Args:
        lines: keep line feeds and tabs; without, these are escaped as well.

    >>> visible("DROP\u202e TABLE t\x1b[2K")
    'DROP\\u202e TABLE t\\x1b[2K'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(each, lines) for each in text)


def _shown(character: str, lines: bool) -> str:
    if lines and character in _KEPT:
        return character
    if unicodedata.category(character) not in _UNSEEN:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
