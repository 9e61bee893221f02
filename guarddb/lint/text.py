"""The text of a statement, cut where its parts begin and end: what a hint repeats is what the author wrote."""

from __future__ import annotations

import re
from functools import cached_property
from itertools import pairwise

from pglast import keywords, parser

from guarddb.sql.names import quote
from guarddb.tree import Node

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*\Z")
_RESERVED = keywords.RESERVED_KEYWORDS | keywords.TYPE_FUNC_NAME_KEYWORDS | keywords.COL_NAME_KEYWORDS
_OPENING, _CLOSING, _COMMA = ("ASCII_40", "ASCII_91"), ("ASCII_41", "ASCII_93"), "ASCII_44"


def shown(identifier: str) -> str:
    """An identifier as SQL writes it, in quotes where it has to be.

    >>> shown("orders"), shown("Order"), shown("user")
    ('orders', '"Order"', '"user"')
    """
    return identifier if _PLAIN.match(identifier) and identifier not in _RESERVED else quote(identifier)


def shown_name(schema: str | None, name: str) -> str:
    """A relation's name as SQL writes it; `public` is left out."""
    return shown(name) if schema in (None, "public") else f"{shown(schema or '')}.{shown(name)}"


class StatementText:
    """One statement of a script.

    Attributes:
        kind, fields: the node, `IndexStmt` for instance, and its fields.
        text: the statement as it was written, without the semicolon and the comments before it.
    """

    def __init__(self, raw: Node, script: bytes) -> None:
        ((self.kind, self.fields),) = raw["stmt"].items()
        begin = raw.get("stmt_location", 0)
        length = raw.get("stmt_len", 0)
        part = script[begin : begin + length if length else len(script)].decode()
        #: without the comments before it: PostgreSQL counts these as the statement's
        first = next((t.start for t in parser.scan(part) if not _is_comment(t)), 0)
        self.text = part[first:].rstrip().rstrip(";").rstrip()
        self._begin = begin + len(part[:first].encode())
        #: number of its first line in the script, from 1
        self.line = script.count(b"\n", 0, self._begin) + 1
        self._bytes = self.text.encode()

    def index(self, location: int) -> int:
        """The index in `text` of a location in the tree (a byte offset into the script)."""
        return len(self._bytes[: max(location - self._begin, 0)].decode(errors="ignore"))

    @cached_property
    def tokens(self) -> list[parser.Token]:
        return [token for token in parser.scan(self.text) if not _is_comment(token)]

    @cached_property
    def commands(self) -> list[str]:
        """The commands of an ALTER TABLE, each as it was written: `ADD COLUMN a int DEFAULT 5`."""
        return [self.text[begin:end].strip() for begin, end in self._command_places]

    @cached_property
    def _command_places(self) -> list[tuple[int, int]]:
        words = self.tokens
        # ALTER [FOREIGN] TABLE [IF EXISTS] [ONLY] name [*] command [, …]
        at = next((i for i, t in enumerate(words) if t.name in ("TABLE", "VIEW", "INDEX", "SEQUENCE")), 1) + 1
        while at < len(words) and words[at].name in ("IF_P", "EXISTS", "ONLY"):
            at += 1
        at += 1
        while at + 1 < len(words) and words[at].name == "ASCII_46":
            at += 2
        if at < len(words) and words[at].name == "ASCII_42":
            at += 1
        if at >= len(words):
            return []
        places, depth, begin = [], 0, words[at].start
        for word in words[at:]:
            if word.name in _OPENING:
                depth += 1
            elif word.name in _CLOSING:
                depth -= 1
            elif word.name == _COMMA and depth == 0:
                places.append((begin, word.start))
                begin = word.end + 1
        places.append((begin, len(self.text)))
        return places

    def column_parts(self, definition: Node, command: str) -> tuple[str, list[str]]:
        """A column definition in pieces: name and type, and each constraint (DEFAULT, CHECK …) as it was written."""
        constraints = [
            c["Constraint"] for c in definition.get("constraints", ()) if "location" in c["Constraint"]
        ]
        # Attributes (DEFERRABLE, NOT DEFERRABLE, ENFORCED …) are constraints of their own for the parser; they go with what
        # they follow.
        starts = [
            self.index(c["location"])
            for c in constraints
            if not c.get("contype", "").startswith("CONSTR_ATTR_")
        ]
        begin = self.index(definition["location"])
        end = next((e for b, e in self._command_places if b <= begin < e), len(self.text))
        bounds = [*starts, end]
        head = self.text[begin : bounds[0]].strip()
        return head, [self.text[a:b].strip() for a, b in pairwise(bounds)]

    def insert_after(self, *path: str, text: str) -> str | None:
        """The statement with `text` behind the first run of tokens named `path`; None when it has no such run."""
        names = [token.name for token in self.tokens]
        for at in range(len(names) - len(path) + 1):
            if tuple(names[at : at + len(path)]) == path:
                place = self.tokens[at + len(path) - 1].end + 1
                return f"{self.text[:place]} {text}{self.text[place:]}"
        return None


def _is_comment(token: parser.Token) -> bool:
    return token.name in ("SQL_COMMENT", "C_COMMENT")


def label(*parts: str) -> str:
    """A name made of others, as PostgreSQL makes those of constraints and indexes, no longer than 63 bytes.

    >>> label("orders", "total", "check")
    'orders_total_check'
    """
    name = "_".join(part for part in parts if part)
    while len(name.encode()) > 63:
        longest = max(range(len(parts)), key=lambda i: len(parts[i]))
        parts = (*parts[:longest], parts[longest][:-1], *parts[longest + 1 :])
        name = "_".join(part for part in parts if part)
    return name
