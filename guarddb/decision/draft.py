"""The text of one statement while the writers of the policy have their turns."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from guarddb.decision.masks.writing import Targets
from guarddb.sql.rewriting.rewriter import Rewriter
from guarddb.sql.rewriting.wording import Wording


class Draft(Struct, eq=False):
    """The text of one statement in the making, and what its writers have to tell of it.

    Attributes:
        wording: the whole text, and its edits.
        targets: what is to stand in place of targets; it goes into the text once masks and filters have had their say.
        governed: the statement refers to a relation with masks or filters.
        limited: the text asks the server for no more rows than may be handed out (and one).
        exact: nobody counts the rows that are handed out, so the text must not ask for one more than the cap.
        keyed: indexes of the outputs that leave the server as text, to be hashed with the key.
        hidden_returning: a RETURNING of our own was added.
        checks_rows: a row that is written may raise our own error.
        shown: the predicates that were put in, for the decision.
        lists: it may show rows of other sessions, or settings, that are not for everybody.
    """

    wording: Wording
    governed: bool
    limited: bool
    exact: bool = False
    lists: bool = True
    keyed: tuple[int, ...] = ()
    hidden_returning: bool = False
    checks_rows: bool = False
    shown: Sequence[str] = ()
    _targets: Targets | None = None

    @property
    def rewriter(self) -> Rewriter:
        """The edits of the whole text."""
        return self.wording.rewriter

    @property
    def targets(self) -> Targets:
        """(Behind a wall nobody asks for them.)"""
        if self._targets is None:
            self._targets = Targets(self.rewriter)
        return self._targets
