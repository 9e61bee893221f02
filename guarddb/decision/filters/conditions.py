"""What a WHERE or an ON gets, and the forms in which parts of it wait for a filter."""

from __future__ import annotations

from guarddb.sql.leakproof.parts import conjuncts
from guarddb.sql.names import string_list
from guarddb.sql.rewriting.conditions import ALWAYS
from guarddb.sql.rewriting.trees import HOLE
from guarddb.tree import Node


class Conditions:
    """What one WHERE or ON gets: conditions that are ANDed to it, and guards for its parts (-1: for all of it).

    `gates` are ANDed behind it: conditions without a column, which are asked before any row is read. `shielded` parts stand
    outside a fence, and are hidden from the planner, which looks through it for statistics. `inside` are parts that a fence
    asks: outside they are true, and else the planner would believe that they leave fewer rows once more. `held` are parts that
    wait for a filter of the server's, or from which nothing may follow for another table.
    """

    def __init__(self, condition: Node | None) -> None:
        self.texts: list[str] = []
        self.parts = conjuncts(condition)
        self.guards: dict[int, list[str]] = {}
        self.gates: list[str] = []
        self.shielded: set[int] = set()
        self.inside: set[int] = set()
        self.held: set[int] = set()

    def guard(self, part: int, condition: str) -> None:
        """Let a part run only on rows for which a condition holds."""
        found = self.guards.setdefault(part, [])
        if condition not in found:
            found.append(condition)

    @property
    def condition(self) -> str | None:
        return joined(self.texts) if self.texts else None

    @property
    def changed(self) -> bool:
        """Whether anything is written but gates."""
        return bool(self.texts or self.guards or self.outside or self.held)

    @property
    def outside(self) -> set[int]:
        """Parts that have to do with a fence."""
        return self.shielded | self.inside

    def forms(self) -> dict[int, str]:
        """What each guarded part is put into, with a HOLE where it stood."""
        guards = {part: joined(texts) for part, texts in self.guards.items()}
        if -1 in guards or -1 in self.shielded:
            self.inside.clear()  # all of it goes into one form
        forms = dict.fromkeys(self.inside, ALWAYS) | {
            part: _guard_form(guards.get(part), self.parts[part] if part >= 0 else None)
            for part in (*guards, *(self.shielded - guards.keys()))
        }
        if -1 not in forms:
            held = {-1} if -1 in self.held else self.held - forms.keys()
            forms |= {part: _held_form(self.parts[part] if part >= 0 else None) for part in held}
        return forms


def _guard_form(condition: str | None, part: Node | None) -> str:
    """A part that runs only where a condition holds (None: everywhere), and is believed to be true as rarely as without.

    The planner takes a CASE to be true for every second row. Of an equality or a pattern it believes one in two hundred, and
    the same of IS NULL.
    """
    guarded = f"CASE WHEN ({condition}) THEN ({HOLE}) END" if condition is not None else f"({HOLE})"
    if part is not None and _is_selective(part):
        return f"CASE WHEN {guarded} THEN NULL ELSE false END IS NULL"
    return guarded if condition is not None else f"CASE WHEN ({HOLE}) THEN true END"


def _held_form(part: Node | None) -> str:
    """A part that PostgreSQL no longer takes for leakproof: it asks row security before it. Believed as in `_guard_form`."""
    if part is not None and _is_selective(part):
        return f"CASE WHEN COALESCE(({HOLE}), false) THEN NULL ELSE false END IS NULL"
    return f"COALESCE(({HOLE}), false)"


def _is_selective(part: Node) -> bool:
    fields = part.get("A_Expr", {})
    kind = fields.get("kind", "AEXPR_OP")
    names = string_list(fields.get("name", ()))[-1:]
    if kind in ("AEXPR_OP", "AEXPR_OP_ANY", "AEXPR_IN"):
        return names in (["="], ["~"], ["~*"], ["@>"], ["<@"], ["@@"], ["?"], ["&&"])
    return kind == "AEXPR_BETWEEN" or (kind in ("AEXPR_LIKE", "AEXPR_ILIKE") and names in (["~~"], ["~~*"]))


def joined(texts: list[str]) -> str:
    return texts[0] if len(texts) == 1 else " AND ".join(f"({t})" for t in texts)
