"""Edits to WHERE and ON: conditions that are ANDed to them, and parts of them that run only where a guard is true."""

from __future__ import annotations

from collections.abc import Mapping

from guarddb.sql.names import quote
from guarddb.sql.rewriting.edits import AFTER_WHERE, COMMA, OPEN, SEMICOLON, WHERE, RewriteError
from guarddb.sql.rewriting.relations import RelationEdits
from guarddb.sql.rewriting.trees import (
    HOLE,
    around_holes,
    columns_below,
    conjunction_of,
    expression_tree,
    first_location,
    guarded,
    put,
    substituted,
)
from guarddb.sql.statement import Query
from guarddb.tree import Node

#: The form of a part that is asked elsewhere. (The parser makes one list of `a OR b OR true`, and two of this.)
ALWAYS = f"(true OR ({HOLE}))"

_JOIN_WORDS = frozenset(["LEFT", "RIGHT", "FULL", "INNER_P", "CROSS", "NATURAL"])
_PAIRS = (("ASCII_40", "ASCII_41"), ("ASCII_91", "ASCII_93"), ("CASE", "END_P"))


def _parts(place: Query | Node) -> list[Node]:
    """The parts of a query's WHERE, or of a join's ON."""
    node: Node = place.fields["whereClause"] if isinstance(place, Query) else place["quals"]
    conjunction = node.get("BoolExpr", {})
    return list(conjunction["args"]) if conjunction.get("boolop") == "AND_EXPR" else [node]


class ConditionEdits(RelationEdits):
    """Edits to the conditions of a text."""

    def _anchor(self, query: Query) -> int:
        if query.kind in ("update", "delete"):
            assert query.target is not None
            return self.at(query.target.location)
        for reference in query.references:
            if (
                reference.location >= 0 and reference.node.get("location") is not None
            ) or reference.location > 0:
                return self.at(reference.location)
        raise RewriteError("the query has no relation to find it by")

    def add_condition(
        self, query: Query, condition: str | None, guards: Mapping[int, str], gates: tuple[str, ...] = ()
    ) -> None:
        """AND a condition in front of a query's WHERE, and let parts of it run only where a guard is true.

        Args:
            condition: None to leave the WHERE as it is but for the guards.
            guards: index of a conjunct -> the form that it is put into, with a HOLE where it stood; -1 for the whole WHERE.
            gates: more conditions, ANDed behind it, where every parameter has got its type.
        """
        fields = query.fields
        words = {"select": ("SELECT", "TABLE"), "update": ("UPDATE",), "delete": ("DELETE_P",)}.get(
            query.kind
        )
        if words is None:
            raise RewriteError(f"no WHERE in {query.kind}")
        where = self._where_before(fields["whereClause"]) if "whereClause" in fields else None
        if where is None:
            anchor = self._anchor(query)
            self._write_out(anchor)
            where = self._forward(self._level(anchor, frozenset(words)), AFTER_WHERE | {"WHERE"})
        if where < len(self.names) and self.names[where] == "WHERE":
            end = self._forward(where, AFTER_WHERE) - 1
            put(
                fields,
                "whereClause",
                self._conjoined(where + 1, end, fields["whereClause"], condition, guards, gates),
            )
        else:
            if "whereClause" in fields or condition is None:
                raise RewriteError("WHERE was not found")
            self._after(where - 1, f" WHERE ({condition})", WHERE)
            put(fields, "whereClause", expression_tree(condition))

    def _conjoined(
        self,
        first: int,
        last: int,
        node: Node,
        condition: str | None,
        guards: Mapping[int, str],
        gates: tuple[str, ...] = (),
    ) -> Node:
        """Guard and extend the condition between two tokens; its tree."""
        if condition is not None:
            self._before(first, f"({condition}) AND (")
        elif gates:
            self._before(first, "(")
        if guards:
            node = self._guard(first, last, node, guards)
        if condition is not None:
            node = conjunction_of(expression_tree(condition), node)
        if condition is not None or gates:
            self._after(last, ")" + "".join(f" AND {gate}" for gate in gates))
        for gate in gates:
            node = conjunction_of(node, expression_tree(gate))
        return node

    def _guard(self, first: int, last: int, node: Node, guards: Mapping[int, str]) -> Node:
        conjunction = node.get("BoolExpr", {})
        parts = conjunction.get("args", ())
        pieces = self._conjuncts(first, last)
        if conjunction.get("boolop") != "AND_EXPR" or len(parts) != len(pieces) or -1 in guards:
            form = HOLE
            for each in dict.fromkeys(guards.values()):
                # (What is said of one part by itself is not said of all of them.)
                if each != ALWAYS or not parts:
                    form = each.replace(HOLE, form)
            return self._put_into(first, last, node, form)
        arguments = list(parts)
        for index, form in guards.items():
            arguments[index] = self._put_into(*pieces[index], arguments[index], form)
        return {"BoolExpr": {**conjunction, "args": arguments}}

    def _put_into(self, first: int, last: int, node: Node, form: str) -> Node:
        before, after = around_holes(form)
        self._before(first, before)
        self._after(last, after)
        return substituted(form, node)

    def _where_before(self, condition: Node) -> int | None:
        """The WHERE in front of a condition; None when the condition's first token cannot be told."""
        location = first_location(condition)
        if location is None:
            return None
        where = self.at(location) - 1
        while where >= 0 and self.names[where] in (OPEN, "NOT", "NOT_LA"):
            where -= 1
        return where if where >= 0 and self.names[where] == "WHERE" else None

    def tells_apart(self, query: Query) -> bool:
        """Whether the parts of a query's WHERE can be told apart in its text: not where it is in parentheses as a whole."""
        return self._part_of_where(query, 0) is not None

    def _part_of_where(self, query: Query, index: int) -> tuple[int, int] | None:
        """The tokens of one part of a query's WHERE; None when the parts cannot be told apart."""
        where = self._where_before(query.fields["whereClause"])
        if where is None:
            return None
        pieces = self._conjuncts(where + 1, self._forward(where, AFTER_WHERE) - 1)
        return pieces[index] if len(pieces) == len(_parts(query)) else None

    def copied_conjunct(
        self, place: Query | Node, index: int, alias: str, attributes: Mapping[int, str]
    ) -> str | None:
        """One part of a query's WHERE, or of a join's ON, over another alias; None when the parts cannot be told apart.

        Args:
            attributes: id of each ColumnRef -> the attribute that stands in its place.
        """
        piece = (
            self._part_of_where(place, index) if isinstance(place, Query) else self._part_of_on(place, index)
        )
        if piece is None:
            return None
        first, last = piece
        text, position = [], self.starts[first]
        for column in sorted(columns_below(_parts(place)[index]), key=lambda c: c.get("location", 0)):
            start = self.at(column.get("location", 0))
            text += [
                self.sql[position : self.starts[start]],
                f"{quote(alias)}.{quote(attributes[id(column)])}",
            ]
            position = self._end(self._name_end(start))
        return "".join([*text, self.sql[position : self._end(last)]])

    def operand_text(self, query: Query, index: int, place: int) -> str | None:
        """One operand of a part of a query's WHERE that is a comparison; None when it cannot be cut out.

        Args:
            place: 0 for what stands left of the operator, 1 right of it, 2 behind the AND of BETWEEN.
        """
        piece = self._part_of_where(query, index)
        if piece is None:
            return None
        first, last = piece
        operator = self.at(_parts(query)[index]["A_Expr"].get("location", 0))
        if not first < operator < last or self.names[operator] in ("OPERATOR", "NOT", "NOT_LA"):
            return None
        if self._depth(first, operator) != 0:
            return None  # the whole part stands in parentheses
        if place == 0:
            one, other = first, operator - 1
        elif self.names[operator] == "BETWEEN":
            between = next(
                (
                    i
                    for i in range(operator + 1, last)
                    if self.names[i] == "AND" and self._depth(operator, i) == 0
                ),
                None,
            )
            if between is None or self.names[operator + 1] in ("SYMMETRIC", "ASYMMETRIC"):
                return None
            one, other = (operator + 1, between - 1) if place == 1 else (between + 1, last)
        elif self.names[operator + 1] in ("ANY", "SOME", "ALL"):
            one, other = operator + 2, last  # with its parentheses
        else:
            one, other = operator + 1, last
        return self.sql[self.starts[one] : self._end(other)]

    def _depth(self, first: int, last: int) -> int:
        """How many parentheses opened between two tokens are open still."""
        names = self.names[first:last]
        return sum(names.count(opens) - names.count(closes) for opens, closes in _PAIRS)

    def add_on(self, join: Node, condition: str | None, guards: Mapping[int, str]) -> None:
        """AND a condition in front of a join's ON, and put parts of it into forms, see `add_condition`."""
        on = self._on(join)
        end = self._end_of_on(on)
        key = "quals" if "quals" in join else "joinCondition"
        join[key] = self._conjoined(on + 1, end, join[key], condition, guards)

    def _part_of_on(self, join: Node, index: int) -> tuple[int, int] | None:
        """The tokens of one part of a join's ON; None when the parts cannot be told apart."""
        on = self._on(join)
        pieces = self._conjuncts(on + 1, self._end_of_on(on))
        return pieces[index] if len(pieces) == len(_parts(join)) else None

    def _end_of_on(self, on: int) -> int:
        """The last token of the condition behind an ON."""
        end = on
        depth = 0
        position = on + 1
        stop = AFTER_WHERE | {"WHERE", "ON", "USING", "JOIN", "WHEN", COMMA, "SET"}
        while position < len(self.names):
            name = self.names[position]
            if name in ("ASCII_40", "ASCII_91", "CASE"):
                depth += 1
            elif name in ("ASCII_41", "ASCII_93", "END_P"):
                depth -= 1
                if depth < 0:
                    break
            elif depth == 0 and self._is_word(position):
                following = self.names[position + 1] if position + 1 < len(self.names) else ""
                if name in stop and not (name == "GROUP_P" and self.names[position - 1] == "WITHIN"):
                    break
                if name in _JOIN_WORDS and following in ("JOIN", "OUTER_P", *_JOIN_WORDS):
                    break
            end = position
            position += 1
        return end

    def _on(self, join: Node) -> int:
        quals = join.get("quals") or join.get("joinCondition")
        first = first_location(quals)
        if first is None:
            raise RewriteError("the ON clause was not found")
        position = self.at(first) - 1
        while position >= 0 and self.names[position] in (OPEN, "NOT", "NOT_LA"):
            position -= 1
        if position < 0 or self.names[position] != "ON":
            raise RewriteError("the ON clause was not found")
        return position

    def guard_conflict(self, query: Query, check: str) -> None:
        """Let DO UPDATE ask `check` of the row in the way before anything else."""
        assert query.target is not None
        position = self._forward(self.at(query.target.location), frozenset(("CONFLICT",)))
        position = self._forward(position, frozenset(("SET",)))
        end = self._forward(position, frozenset(("WHERE", "RETURNING", SEMICOLON)))
        clause = query.fields["onConflictClause"]
        if end < len(self.names) and self.names[end] == "WHERE":
            last = self._forward(end, frozenset(("RETURNING", SEMICOLON))) - 1
            self._after(end, f" CASE WHEN ({check}) THEN (")
            self._after(last, ") END")
            clause["whereClause"] = guarded(expression_tree(check), clause["whereClause"])
        else:
            self._after(end - 1, f" WHERE ({check})", WHERE)
            clause["whereClause"] = expression_tree(check)
