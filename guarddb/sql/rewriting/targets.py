"""Edits to what is selected, returned and inserted."""

from __future__ import annotations

from collections.abc import Iterable

from guarddb.sql.names import quote
from guarddb.sql.rewriting.conditions import ConditionEdits
from guarddb.sql.rewriting.edits import (
    AFTER_WHERE,
    CLOSE,
    COMMA,
    OPEN,
    RETURNING,
    SEMICOLON,
    RewriteError,
)
from guarddb.sql.rewriting.trees import around_holes, expression_tree, parsed, put, substituted
from guarddb.sql.statement import Query
from guarddb.tree import Node

#: What a target in parentheses may stand behind.
_BEFORE_TARGET = frozenset(["SELECT", "DISTINCT", "ALL", "RETURNING", "ASCII_44", "ASCII_40", "ASCII_41"])


class TargetEdits(ConditionEdits):
    """Edits to the targets and the values of a text."""

    def replace_column(self, target: Node, name: str, expression: str) -> None:
        """Put an expression in the place of a target that is a bare column, under the name it had."""
        first = self.at(target["val"]["ColumnRef"].get("location", 0))
        last = self._name_end(first)
        self._edit(self.starts[first], self._end(last), expression)
        if "name" not in target:
            # Behind the target, which may be the column in parentheses.
            while last + 1 < len(self.names) and self.names[last + 1] == CLOSE and self._opens_before(first):
                first, last = first - 1, last + 1
            self._after(last, f" AS {quote(name)}")
        target["val"] = expression_tree(expression)
        put(target, "name", target.get("name", name))

    def expand_star(self, query: Query, target: Node, columns: Iterable[str]) -> None:
        """Put a list of target entries in the place of `*` or `t.*`."""
        text = ", ".join(columns)
        if "ColumnRef" not in target["val"]:
            raise RewriteError("(row).* cannot be written out")
        location = target["val"]["ColumnRef"].get("location", 0)
        if location < 0:
            word = self._table_word(self._anchor(query))
            if word is None:
                raise RewriteError("the star was not found")
            self._table_commands[word] = text
        else:
            first = self.at(location)
            last = self._name_end(first)
            while last + 1 < len(self.names) and self.names[last + 1] == CLOSE and self._opens_before(first):
                first, last = first - 1, last + 1
            if "name" in target:  # `t.* AS a`: PostgreSQL pays no heed to the name
                last += 2 if self.names[last + 1] == "AS" else 1
            self._edit(self.starts[first], self._end(last), text)
        fields = query.fields
        targets = fields["returningClause"]["exprs"] if "returningClause" in fields else fields["targetList"]
        place = next(i for i, wrapped in enumerate(targets) if wrapped.get("ResTarget") is target)
        targets[place : place + 1] = parsed(f"SELECT {text}")["SelectStmt"]["targetList"]

    def column_text(self, column: Node) -> str:
        """A ColumnRef as it stands in the text."""
        first = self.at(column.get("location", 0))
        return self.sql[self.starts[first] : self._end(self._name_end(first))]

    def replace_node(self, node: Node, text: str) -> None:
        """Put an expression in the place of a constant or a column reference."""
        ((_, fields),) = node.items()
        first = self.at(fields.get("location", 0))
        self._edit(self.starts[first], self._end(self._name_end(first)), text)
        node.clear()
        node.update(expression_tree(text))

    def _opens_before(self, first: int) -> bool:
        """Whether a parenthesis right before `first` is one around a target, and not a query's or a function's."""
        return first > 1 and self.names[first - 1] == OPEN and self.names[first - 2] in _BEFORE_TARGET

    def target_text(self, target: Node) -> tuple[int, int, str]:
        """(first token, last token, text) of a target's expression, without its label."""
        first = self.at(target.get("location", 0))
        stop = AFTER_WHERE | {"FROM", "WHERE", "INTO", COMMA}
        last = self._forward(first - 1, stop) - 1
        if "name" in target:
            last -= 1
            if self.names[last] == "AS":
                last -= 1
        return first, last, self.sql[self.starts[first] : self._end(last)]

    def wrap_target(self, target: Node, name: str, form: str) -> None:
        """Put `form` with `{}` replaced by the target's own expression in its place."""
        first, last, text = self.target_text(target)
        label = "" if "name" in target else f" AS {quote(name)}"
        before, *after = around_holes(form)
        if len(after) == 1:
            # Around it, so that edits inside the expression keep their place.
            self._before(first, before, outermost=True)
            self._after(last, after[0] + label)
        else:
            self._edit(self.starts[first], self._end(last), text.join((before, *after)) + label)
        target["val"] = substituted(form, target["val"])
        put(target, "name", target.get("name", name))

    def add_returning(self, query: Query, end: int, expression: str) -> None:
        """Give a statement that has no RETURNING one. `end` is the statement's end as a byte offset (0: the text's)."""
        last = self._last_token(query, end)
        self._after(last, f" RETURNING {expression}", RETURNING)
        put(query.fields, "returningClause", {"exprs": [{"ResTarget": {"val": expression_tree(expression)}}]})

    def _last_token(self, query: Query, end: int) -> int:
        assert query.target is not None
        first = self.at(query.target.location)
        return self._forward(first, frozenset((SEMICOLON,))) - 1

    def _value_tokens(self, query: Query, row: int, column: int) -> tuple[int, int]:
        """The tokens of one value of INSERT … VALUES."""
        assert query.target is not None
        position = self._forward(self.at(query.target.location), frozenset(("VALUES",))) + 1
        for _ in range(row):
            position = self._matching(position) + 2  # a comma stands between
        if position >= len(self.names) or self.names[position] != OPEN:
            raise RewriteError("VALUES was not found")
        first = position + 1
        for _ in range(column):
            first = self._forward(first - 1, frozenset((COMMA,))) + 1
        return first, self._forward(first - 1, frozenset((COMMA,))) - 1

    def value_text(self, query: Query, row: int, column: int) -> str:
        """One value of INSERT … VALUES as it stands in the text."""
        first, last = self._value_tokens(query, row, column)
        return self.sql[self.starts[first] : self._end(last)]

    def wrap_value(self, query: Query, row: int, column: int, form: str) -> None:
        """Put a form, with a HOLE where the value stood, in the place of one value of INSERT … VALUES."""
        first, last = self._value_tokens(query, row, column)
        before, after = around_holes(form)
        self._before(first, before)
        self._after(last, after)
        items = query.fields["selectStmt"]["SelectStmt"]["valuesLists"][row]["List"]["items"]
        items[column] = substituted(form, items[column])
