"""What a column holds, by its name and type; a security label or a comment on the column wins.

The list is for the names that schemas use, in English, word by word: `customer_email`, `emailAddress` and `EMAIL` hold an e-mail
address, `email_verified_at` and `email_count` do not. Whoever knows better says so in the database (`COMMENT ON COLUMN t.c IS
'classification: public'`), or with a mapping of their own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, TypeAlias

from guarddb.policy.errors import PolicyError, quoted
from guarddb.risk.classes import data_class
from guarddb.risk.folding import fold
from guarddb.sql.catalog import Attribute, Relation

#: Column names to labels: `{"nickname": "pii", "users.note": "health"}`.
ColumnClasses: TypeAlias = Mapping[str, str]

#: Words in a row that say what a column holds; the first class whose words are found is it.
CLASSES_BY_NAME: Final[Mapping[str, tuple[str, ...]]] = {
    "auth": (
        "password",
        "passwd",
        "passphrase",
        "passcode",
        "pwd",
        "pin code",
        "secret",
        "api key",
        "apikey",
        "access key",
        "private key",
        "encryption key",
        "signing key",
        "token",
        "otp",
        "totp",
        "credential",
        "credentials",
        "session key",
        "recovery code",
        "security answer",
    ),
    "pii_sensitive": (
        "ssn",
        "social security",
        "national id",
        "national insurance",
        "tax id",
        "taxpayer",
        "tax number",
        "passport",
        "driver license",
        "drivers license",
        "driving licence",
        "driving license",
        "identity card",
        "id card",
        "ethnicity",
        "race",
        "religion",
        "sexual orientation",
        "political",
        "biometric",
    ),
    "financial": (
        "credit card",
        "card number",
        "card no",
        "cc number",
        "cvv",
        "cvc",
        "iban",
        "bic",
        "swift",
        "account number",
        "account no",
        "routing number",
        "sort code",
        "bank account",
        "salary",
        "wage",
        "payroll",
        "income",
        "net worth",
        "credit score",
    ),
    "health": (
        "diagnosis",
        "diagnoses",
        "icd",
        "icd10",
        "medical",
        "medication",
        "prescription",
        "blood type",
        "blood group",
        "allergy",
        "allergies",
        "mrn",
        "disability",
        "health",
        "insurance number",
        "patient",
    ),
    "pii": (
        "email",
        "e mail",
        "mail address",
        "phone",
        "telephone",
        "mobile",
        "fax",
        "first name",
        "firstname",
        "last name",
        "lastname",
        "middle name",
        "maiden name",
        "full name",
        "fullname",
        "given name",
        "family name",
        "surname",
        "address",
        "street",
        "postcode",
        "postal code",
        "zip",
        "zip code",
        "zipcode",
        "birth",
        "birthday",
        "birthdate",
        "dob",
        "age",
        "gender",
        "nationality",
        "ip",
        "ip address",
        "latitude",
        "longitude",
        "geolocation",
    ),
}

#: A last word that makes of a name another one: when, how many, whether.
_ABOUT: Final = frozenset(
    (
        "at",
        "on",
        "count",
        "counts",
        "total",
        "type",
        "kind",
        "status",
        "state",
        "verified",
        "confirmed",
        "enabled",
        "valid",
        "sent",
        "expires",
        "expiry",
        "expiration",
        "length",
        "limit",
        "attempts",
        "changed",
        "updated",
        "created",
        "deleted",
        "required",
    )
)
#: A reference to the row that holds it.
_REFERENCE: Final = frozenset(("id", "ids", "uuid", "fk", "ref"))
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+")
#: Times and truth values say something about what the rest of the name names; a date may be one of birth.
_SAYS_WHEN: Final = frozenset(("B", "D", "T"))

_PHRASES: Final[Mapping[str, str]] = {
    phrase: name for name, phrases in reversed(list(CLASSES_BY_NAME.items())) for phrase in phrases
}
_LONGEST: Final = max(len(phrase.split()) for phrase in _PHRASES)
_RANK: Final = {name: rank for rank, name in enumerate(CLASSES_BY_NAME)}
_ADDRESS_TYPES: Final = frozenset(("pg_catalog.inet", "pg_catalog.cidr"))


def by_name(name: str) -> str | None:
    """The class that a name speaks of, or None.

    >>> by_name("customerEmail"), by_name("email_verified_at"), by_name("SSN"), by_name("address_id")
    ('pii', None, 'pii_sensitive', None)
    """
    words = [word.lower() for word in _WORDS.findall(name)]
    if not words:
        return None
    # `blood_type` and `national_id` are names as a whole; of `email_type` and `email_id` the last word makes another thing.
    whole = words[-1] in _ABOUT or words[-1] in _REFERENCE
    found: str | None = None
    for length in range(1, _LONGEST + 1):
        for start in range(len(words) - length + 1):
            if whole and start + length < len(words):
                continue
            name_of = _PHRASES.get(" ".join(words[start : start + length]))
            if name_of is not None and (found is None or _RANK[name_of] < _RANK[found]):
                found = name_of
    return found


class Classifier:
    """Says what columns hold.

    Args:
        own: the caller's classes by column name (`email`, `users.email`, `public.users.email`); they come before the list and
            after what the database says itself.
        by_list: whether the list of names and types counts at all.
    """

    def __init__(self, own: ColumnClasses | None = None, *, by_list: bool = True) -> None:
        self.own = {fold(name).strip(): data_class(label) for name, label in (own or {}).items()}
        self.by_list = by_list

    @classmethod
    def of(cls, classify_columns: bool | ColumnClasses) -> Classifier | None:
        """What connect()'s `classify_columns` stands for; None: columns have no class.

        Raises:
            PolicyError: it is neither a truth value nor a mapping of texts.
        """
        if isinstance(classify_columns, bool):
            return cls() if classify_columns else None
        if isinstance(classify_columns, Mapping) and all(
            isinstance(name, str) and isinstance(label, str) for name, label in classify_columns.items()
        ):
            return cls(classify_columns)
        raise PolicyError(
            "classify_columns is True, False or a mapping of column names to data classes, "
            f"not {quoted(classify_columns)}"
        )

    def of_column(self, relation: Relation, attribute: Attribute) -> str | None:
        """The class of a column of a table."""
        if attribute.labelled is not None:
            return data_class(attribute.labelled)
        column = fold(attribute.name)
        for name in (
            f"{fold(relation.schema)}.{fold(relation.name)}.{column}",
            f"{fold(relation.name)}.{column}",
            column,
        ):
            if (found := self.own.get(name)) is not None:
                return found
        if not self.by_list:
            return None
        if attribute.category in _SAYS_WHEN:
            birth = attribute.category == "D" and by_name(attribute.name) == "pii"
            return "pii" if birth else None
        if (found := by_name(attribute.name)) is not None:
            return found
        # A domain or type of one's own says it as well: `contact citext`, `who email_address`.
        if not attribute.type.startswith("pg_catalog."):
            found = by_name(attribute.type.rpartition(".")[2])
        if found is None and attribute.base_type in _ADDRESS_TYPES:
            found = "pii"
        return found
