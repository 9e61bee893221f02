"""Data classes: what a field's label weighs, and which labels mean the same."""

from __future__ import annotations

from typing import Final

from guarddb.risk.folding import fold

#: Ten times the factor of each class, so that no score is ever off by a binary fraction.
FACTORS: Final = {
    "public": 10,
    "internal": 13,
    "pii": 25,
    "pii_sensitive": 25,
    "financial": 25,
    "health": 25,
    "legal": 25,
    "auth": 35,
}
#: Of a class that is not listed, and of a field without one.
UNKNOWN_FACTOR: Final = 13
#: Of an event that touches no field.
NO_FIELD_FACTOR: Final = 10

LEVELS: Final = {"auth": 4, "pii_sensitive": 3, "financial": 3, "health": 3, "pii": 2}
#: Of everything else.
OTHER_LEVEL: Final = 1

_ALIASES: Final = {"phi": "health", "secret": "auth"}


def data_class(label: str) -> str:
    """The class a label means, in folded letters; one that is not known is kept as it is.

    >>> data_class("PHI"), data_class("Restricted")
    ('health', 'restricted')
    """
    folded = fold(label).strip()
    return _ALIASES.get(folded, folded)


def covered(label: str) -> tuple[str, ...]:
    """The classes that an entry of `sensitive_classifications` covers: PII covers the sensitive kind as well."""
    found = data_class(label)
    return (found, "pii_sensitive") if found == "pii" else (found,)


def factor(name: str | None) -> int:
    """Ten times the factor of a class (None: a field without one)."""
    return FACTORS.get(name, UNKNOWN_FACTOR) if name is not None else UNKNOWN_FACTOR


def level(name: str | None) -> int:
    """The sensitivity level, 1 to 4, of a class (None: a field without one)."""
    return LEVELS.get(name, OTHER_LEVEL) if name is not None else OTHER_LEVEL
