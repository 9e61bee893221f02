"""Edits to a statement: on its text, so that the agent's comments and spelling stay, and on its tree.

Each edit is made twice: on the text, at token boundaries; and on the tree, as a node put where it belongs. `finish()` parses
the edited text and compares it with the edited tree. A text edit that landed in the wrong place cannot pass, so finding the
place may be simple.
"""

from __future__ import annotations

from guarddb.sql.rewriting.commands import CommandEdits
from guarddb.sql.rewriting.edits import RewriteError
from guarddb.sql.rewriting.trees import same_tree

__all__ = ["RewriteError", "Rewriter"]


class Rewriter(CommandEdits):
    """The edits of one text and of the trees of its statements."""

    @property
    def edited(self) -> bool:
        """Whether there is anything to write."""
        return bool(self._edits or self._table_commands)

    def finish(self) -> str:
        """The edited text.

        Raises:
            RewriteError: it does not parse to the edited tree.
        """
        for word, targets in self._table_commands.items():
            self._edit(self.starts[word], self._end(word), f"SELECT {targets} FROM")
        edited = self._apply()
        if not same_tree(edited, self.statements):
            raise RewriteError("the rewritten text does not mean what was meant")
        return edited
