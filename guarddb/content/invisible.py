"""Characters that show nothing: tags, variation selectors, joiners and spaces of no width, marks and fillers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby

from guarddb.content.finding import Finding, code_point

#: The flags of England, Scotland and Wales: a black flag and tag letters (Unicode Emoji, RGI_Emoji_Tag_Sequence). No others are
#: in use, and what else starts with a flag is a text in tag letters.
_FLAGS = re.compile(
    "\U0001f3f4\U000e0067\U000e0062(?:\U000e0065\U000e006e\U000e0067|\U000e0073\U000e0063\U000e0074|\U000e0077\U000e006c\U000e0073)"
    "\U000e007f"
)
_TAG = re.compile("[\U000e0000-\U000e007f]")

_SELECTOR = "\ufe00-\ufe0f\U000e0100-\U000e01ef"
_SELECTORS_AS_BYTES = re.compile(f"[{_SELECTOR}]{{2}}|[A-Za-z \u00a0][{_SELECTOR}]")

#: Of no width, joining or separating what stands on either side.
INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u034f\u180e"
_RUN = re.compile(f"[{INVISIBLE}]{{2,}}")
_SOFT_HYPHEN = "\u00ad"

#: Letters of scripts in which ZWNJ and ZWJ are spelling: Arabic, Syriac, N'Ko, Mongolian, the scripts of South and South-East
#: Asia. And emoji, which ZWJ joins.
_JOINING = re.compile(
    "[\u0600-\u08ff\u0900-\u0dff\u0e00-\u0fff\u1000-\u109f\u1780-\u18af\u1900-\u1cff\ua800-\uabff\ufb50-\ufdff\ufe70-\ufefc"
    "\u2190-\u2bff\u3030\u303d\ufe0f\U0001f000-\U0001faff\U00011000-\U00011fff]"
)
_LATIN_LETTER = re.compile("[A-Za-z\u00c0-\u024f\u1e00-\u1eff]")
_BETWEEN_LATIN = re.compile(
    "(?<=[A-Za-z\u00c0-\u024f\u1e00-\u1eff])[\u200b\u200c\u200d\u2060\ufeff\u034f\u180e](?=[A-Za-z\u00c0-\u024f\u1e00-\u1eff])"
)

_MARK = re.compile("[\ufff9-\ufffb\u2061-\u2064\u206a-\u206f\u3164\uffa0\u115f\u1160\U000e0080-\U000e00ff]")
#: Beside these a Hangul filler stands for a missing letter of an old syllable.
_JAMO = re.compile("[\u1100-\u115e\u1161-\u11ff\ua960-\ua97f\ud7b0-\ud7ff]")


def tags(text: str) -> Iterator[Finding]:
    """Unicode tags: a second ASCII that nothing shows."""
    # The flags give way to as many characters as they had, so that positions stay.
    without_flags = _FLAGS.sub(lambda flag: " " * len(flag[0]), text)
    found = _TAG.search(without_flags)
    if found is not None:
        count = len(_TAG.findall(without_flags))
        yield Finding("tags", "block", f"{count} Unicode tag characters", found.start())


def variation_selectors(text: str) -> Iterator[Finding]:
    """Variation selectors where there is nothing to vary: each can carry one byte."""
    found = _SELECTORS_AS_BYTES.search(text)
    if found is not None:
        count = len(_SELECTORS_AS_BYTES.findall(text))
        detail = f"variation selectors in a row or after a letter or space, {count} times"
        yield Finding("variation_selectors", "block", detail, found.start())


def invisible_runs(text: str) -> Iterator[Finding]:
    """Several characters of no width in a row: joiners and separators come one at a time."""
    for found in _RUN.finditer(text):
        start, run = found.start(), found[0]
        if start == 0 and run[0] == "\ufeff":  # a byte order mark
            start, run = 1, run[1:]
        if len(run) < 2:
            continue
        kinds = sorted(set(run))
        detail = f"{len(run)} invisible characters in a row ({', '.join(map(code_point, kinds))})"
        block = len(run) >= 4 or (len(kinds) > 1 and not _in_context(text, start, start + len(run)))
        yield Finding("invisible_run", "block" if block else "annotate", detail, start)


def _in_context(text: str, start: int, end: int) -> bool:
    around = (text[start - 1 : start], text[end : end + 1])
    return any(_JOINING.match(character) for character in around if character)


def scattered_invisibles(text: str) -> Iterator[Finding]:
    """Single ones of two kinds between Latin letters, eight or more: a bit each."""
    found = list(_BETWEEN_LATIN.finditer(text))
    kinds = sorted({each[0] for each in found})
    if len(found) >= 8 and len(kinds) >= 2:
        detail = f"{len(found)} invisible characters between letters ({', '.join(map(code_point, kinds))})"
        yield Finding("scattered_invisibles", "annotate", detail, found[0].start())


def annotation_marks(text: str) -> Iterator[Finding]:
    """Interlinear annotation marks, invisible operators, deprecated format characters, fillers."""
    if text == "\u3164":  # how a name is left blank where one is asked for
        return
    found = [each for each in _MARK.finditer(text) if not _stands_for_a_letter(text, each)]
    if found:
        counts = [f"{code_point(c)} × {len(list(g))}" for c, g in groupby(sorted(each[0] for each in found))]
        yield Finding("annotation_marks", "annotate", ", ".join(counts), found[0].start())


def _stands_for_a_letter(text: str, found: re.Match[str]) -> bool:
    if found[0] not in "\u115f\u1160":
        return False
    before, after = text[found.start() - 1 : found.start()], text[found.end() : found.end() + 1]
    return any(character and _JAMO.match(character) for character in (before, after))
