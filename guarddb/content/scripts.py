"""Words that mix scripts so that one reads as the other: `p` U+0430 `ypal`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from guarddb.content.finding import Finding

_WORD = re.compile(r"[^\W_]{4,}")
_OTHER_SCRIPT = re.compile("[\u0370-\u03ff\u0400-\u052f\u0531-\u0588\u13a0-\u13f5]")
_LATIN = re.compile("[A-Za-z]")

#: Letters that look like a Latin one in most typefaces (Unicode confusables, the ones with no visible difference).
#: Greek alpha, mu and the like are left out: TNFα is spelt that way.
_LOOK_LATIN = frozenset(
    "аеорсухіјѕһԁԛԝӏүАВЕКМНОРСТУХІЈЅԌ"  # Cyrillic
    "ονΑΒΕΖΗΙΚΜΝΟΡΤΥΧϳ"  # Greek
    "օոսհցՕՍ"  # Armenian
    "ᎪᏴᏟᎬᎻᎫᏦᏞᎷᏢᏚᎢᏙᎳᏃ"  # Cherokee
)
#: Latin letters that look like a Cyrillic or Greek one.
_LOOK_OTHER = frozenset("aeopcyxijsABEKMHOPCTYXIJSvNZ")


def mixed_scripts(text: str) -> Iterator[Finding]:
    """Words of Latin and another script in which one script's letters all look like the other's."""
    count, first = 0, 0
    for found in _WORD.finditer(text):
        word = found[0]
        if word.isascii() or _OTHER_SCRIPT.search(word) is None or _LATIN.search(word) is None:
            continue
        if _is_code(word):
            continue
        others = [c for c in word if _OTHER_SCRIPT.match(c)]
        latins = [c for c in word if _LATIN.match(c)]
        if all(c in _LOOK_LATIN for c in others) or all(c in _LOOK_OTHER for c in latins):
            if count == 0:
                first = found.start()
            count += 1
    if count:
        yield Finding(
            "mixed_scripts", "annotate", f"{count} words of look-alike letters of two scripts", first
        )


def _is_code(word: str) -> bool:
    """A plate, an article number: digits among the letters, or a few capitals."""
    return any(c.isdigit() for c in word) or (word.isupper() and len(word) < 6)
