"""One command of an ALTER TABLE."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from guarddb.lint.acts import Act, Target
from guarddb.lint.script import Script
from guarddb.lint.text import StatementText
from guarddb.tree import Node


@dataclass(frozen=True, slots=True)
class Command:
    """A command, its text, and the table it is for.

    Attributes:
        recurses: it also changes the table's children (no ONLY).
        siblings: all commands of the statement, this one included.
    """

    statement: StatementText
    node: Node
    text: str
    target: Target
    recurses: bool
    siblings: tuple[Node, ...] = ()

    @property
    def verb(self) -> str:
        """`AT_AddColumn`; the parser leaves the first one of its list out, which is that."""
        verb: str = self.node.get("subtype", "AT_AddColumn")
        return verb

    def spread(self, act: Act, script: Script) -> Iterator[Act]:
        """The act, and the same on every child."""
        yield act
        if self.recurses:
            for child in script.children(self.target):
                yield replace(act, target=child, implied=True)
