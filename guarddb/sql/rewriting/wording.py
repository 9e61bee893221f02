"""A text on its way to the server: as it is, with other names for relations, or edited in full.

Behind a wall most texts need no more than the names of views, and those they replace stand there letter for letter. Then nothing
has to be known of the text around them: no token is looked for, no tree is compared.
"""

from __future__ import annotations

import re
from functools import lru_cache

from guarddb.sql.names import quote
from guarddb.sql.rewriting.relations import qualified_columns
from guarddb.sql.rewriting.rewriter import Rewriter
from guarddb.sql.statement import Reference
from guarddb.tree import Node

#: A name that the parser reads as it is written, and what may stand behind one that is complete.
_PLAIN_NAME = re.compile(r"[a-z_][a-z_0-9]*(\.[a-z_][a-z_0-9]*)*")
_AFTER_NAME = frozenset(["", " ", "\n", "\r", "\t", ",", ")", ";"])


@lru_cache(maxsize=4096)
def _is_plain(name: str) -> bool:
    return _PLAIN_NAME.fullmatch(name) is not None


@lru_cache(maxsize=4096)
def _qualified(schema: str, name: str) -> str:
    return f"{quote(schema)}.{quote(name)}"


class Wording:
    """A text and the trees of its statements, with what is to stand in their place.

    >>> from guarddb.sql.analysis.classify import read_statement
    >>> from guarddb.tree import parse
    >>> sql = "SELECT id FROM t"
    >>> raws = parse(sql)
    >>> wording = Wording(sql, raws)
    >>> wording.rename(read_statement(raws[0], None, {}).references[0], "wall", "t")
    >>> wording.finish()
    ('SELECT id FROM "wall"."t"', ((15, 16, 10),))
    """

    __slots__ = ("_named", "_rewriter", "_sql", "_statements")

    def __init__(self, sql: str, statements: list[Node]) -> None:
        self._sql = sql
        self._statements = statements
        self._rewriter: Rewriter | None = None
        # (start, end, the relation that stands there, the schema and name of the one to put there)
        self._named: list[tuple[int, int, Reference, str, str]] = []

    @property
    def rewriter(self) -> Rewriter:
        """For whatever more there is to edit."""
        if self._rewriter is None:
            self._rewriter = Rewriter(self._sql, self._statements)
            for _, _, reference, schema, name in self._named:
                self._rewriter.rename_relation(reference, schema, name)
        return self._rewriter

    def rename(self, reference: Reference, schema: str, name: str) -> None:
        """Put another relation in a relation's place, under the name it had.

        Raises:
            RewriteError: its name is not found.
        """
        node, sql = reference.node, self._sql
        if self._rewriter is None and (
            "alias" in node
            or (
                name == reference.name
                and ("." not in sql or not qualified_columns(reference, sql, self._statements))
            )
        ):
            start = reference.location
            written = node["relname"]
            if "schemaname" in node:
                written = ".".join(
                    [node[key] for key in ("catalogname", "schemaname", "relname") if key in node]
                )
            end = start + len(written)
            if (
                (sql.startswith(written, start) or sql[start:end].lower() == written)
                and sql[end : end + 1] in _AFTER_NAME
                and _is_plain(written)
                and sql.isascii()
            ):
                self._named.append((start, end, reference, schema, name))
                return
        self.rewriter.rename_relation(reference, schema, name)

    def finish(self) -> tuple[str, tuple[tuple[int, int, int], ...]]:
        """What is to be sent, and where it differs: start and end in the text as it was, and the length of what stands there now.

        Raises:
            RewriteError: an edit landed elsewhere than where it was meant to.
        """
        if self._rewriter is not None:
            rewriter = self._rewriter
            return (rewriter.finish(), rewriter.changes) if rewriter.edited else (self._sql, ())
        if len(self._named) == 1:
            ((start, end, _, schema, name),) = self._named
            put = _qualified(schema, name)
            return self._sql[:start] + put + self._sql[end:], ((start, end, len(put)),)
        sql, position = "", 0
        changes = []
        for start, end, _, schema, name in sorted(self._named, key=_place):
            put = _qualified(schema, name)
            sql += self._sql[position:start] + put
            changes.append((start, end, len(put)))
            position = end
        return sql + self._sql[position:], tuple(changes)


def _place(named: tuple[int, int, Reference, str, str]) -> int:
    return named[0]
