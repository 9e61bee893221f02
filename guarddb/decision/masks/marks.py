"""What the masks of one statement have worked out so far: the facts stay as the analysis left them."""

from __future__ import annotations

from guarddb.sql.statement import Link, Output
from guarddb.vocabulary import MaskKind, strictest


class Marks:
    """Notes on the outputs of one statement under one policy, by the output's identity.

    Attributes:
        kinds: the mask on what an output carries, once somebody has asked.
        raw: outputs whose value must flow on as it is, because a clause further out may use it.
        required: the kind that a set operation, or a scalar subquery, further out asks an output for.
        top: the masks on the outputs of the statement's own result, by their indexes, once somebody has asked.
        bare: of these outputs each is a bare column, as far as anybody has looked.
        clean: nothing in the statement goes back to a masked column (False: something does, or nobody has looked).
    """

    __slots__ = ("bare", "clean", "kinds", "raw", "required", "top")

    def __init__(self) -> None:
        self.bare = False
        self.clean = False
        self.kinds: dict[int, MaskKind | None] = {}
        self.top: dict[int, MaskKind] | None = None
        self.raw: set[int] = set()
        self.required: dict[int, MaskKind] = {}

    def demand_raw(self, link: Link) -> None:
        """A use further out needs the value itself: nothing on the way down masks it."""
        stack: list[Link] = [link]
        while stack:
            item = stack.pop()
            if isinstance(item, Output) and id(item) not in self.raw:
                self.raw.add(id(item))
                stack.extend(item.links)

    def is_raw(self, output: Output) -> bool:
        return id(output) in self.raw

    def require(self, output: Output, kind: MaskKind) -> None:
        """Ask an output for a kind; the strictest of all that ask counts."""
        found = strictest(kind, self.required.get(id(output)))
        assert found is not None
        self.required[id(output)] = found

    def required_of(self, output: Output) -> MaskKind | None:
        return self.required.get(id(output))
