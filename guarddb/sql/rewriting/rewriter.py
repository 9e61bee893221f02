"""Edits to a statement: on its text, so that the agent's comments and spelling stay, and on its tree.

Each edit is made twice: on the text, at token boundaries; and on the tree, as a node put where it belongs. `finish()` parses
the edited text and compares it with the edited tree. A text edit that landed in the wrong place cannot pass, so finding the
place may be simple.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping

from guarddb.sql.names import quote
from guarddb.sql.rewriting.edits import (
    AFTER_WHERE,
    CLOSE,
    COMMA,
    DOT,
    LIMIT,
    OPEN,
    RETURNING,
    SEMICOLON,
    STAR,
    WHERE,
    RewriteError,
    TextEdits,
)
from guarddb.sql.rewriting.trees import (
    HOLE,
    around_holes,
    columns_below,
    conjunction_of,
    expression_tree,
    first_location,
    guarded,
    parsed,
    put,
    same_tree,
    substituted,
)
from guarddb.sql.statement import Query, Reference
from guarddb.tree import Node, nodes

__all__ = ["RewriteError", "Rewriter"]

#: What a target in parentheses may stand behind.
_BEFORE_TARGET = frozenset(["SELECT", "DISTINCT", "ALL", "RETURNING", "ASCII_44", "ASCII_40", "ASCII_41"])

_JOIN_WORDS = frozenset(["LEFT", "RIGHT", "FULL", "INNER_P", "CROSS", "NATURAL"])


_PAIRS = (("ASCII_40", "ASCII_41"), ("ASCII_91", "ASCII_93"), ("CASE", "END_P"))


def _parts(query: Query) -> list[Node]:
    """The parts of a query's WHERE."""
    node: Node = query.fields["whereClause"]
    conjunction = node.get("BoolExpr", {})
    return list(conjunction["args"]) if conjunction.get("boolop") == "AND_EXPR" else [node]


class Rewriter(TextEdits):
    """The edits of one text and of the trees of its statements."""

    def __init__(self, sql: str, statements: list[Node]) -> None:
        super().__init__(sql)
        self.statements = statements
        # `TABLE t` that has to be written out as SELECT … FROM t: its word's token -> the target list.
        self._table_commands: dict[int, str] = {}

    def _table_word(self, index: int) -> int | None:
        """The TABLE of `TABLE t`, when the relation's name starts at `index`."""
        before = index - 1
        while before >= 0 and self.names[before] in ("ONLY", OPEN):
            before -= 1
        return before if before >= 0 and self.names[before] == "TABLE" and self._is_word(before) else None

    def _write_out(self, index: int) -> None:
        """Make `TABLE t` a SELECT, if the relation's name at `index` is of one: only that has a place for clauses."""
        word = self._table_word(index)
        if word is not None:
            self._table_commands.setdefault(word, "*")

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

    def replace_relation(self, reference: Reference, query_sql: str) -> None:
        """Put a parenthesised query in a relation's place, under the name it had."""
        wrapper = reference.wrapper
        if wrapper is None or reference.sample is not None:
            raise RewriteError("this reference cannot become a subquery")
        first = self.at(reference.location)
        self._write_out(first)
        last = self._name_end(first)
        first, last = self._with_only(reference, first, last)
        if reference.inherits and last + 1 < len(self.names) and self.names[last + 1] == STAR:
            last += 1
        node = reference.node
        alias = node.get("alias")
        text = f"({query_sql})"
        if alias is None:
            text += f" AS {quote(reference.alias)}"
            alias = {"aliasname": reference.alias}
        self._edit(self.starts[first], self._end(last), text)
        subquery = parsed(query_sql)
        wrapper.clear()
        wrapper["RangeSubselect"] = {"subquery": subquery, "alias": alias}

    def qualify(self, reference: Reference) -> None:
        """Write the schema in front of a bare relation name."""
        self._before(self.at(reference.location), f"{quote(reference.schema)}.")
        reference.node["schemaname"] = reference.schema

    def rename_relation(self, reference: Reference, schema: str, name: str) -> None:
        """Put another relation in a relation's place, under the name it had."""
        first = self.at(reference.location)
        last = self._name_end(first)
        node = reference.node
        text = f"{quote(schema)}.{quote(name)}"
        alias = reference.alias if name != reference.name and "alias" not in node else None
        for column in self._qualified_columns(reference) if "alias" not in node else ():
            self._requalify(column, [schema, name] if alias is None else [alias])
        self._edit(self.starts[first], self._end(last), text)
        node.pop("catalogname", None)
        node["schemaname"], node["relname"] = schema, name
        if alias is not None:
            self._write_out(first)
            end = self._with_only(reference, first, last)[1]
            if reference.inherits and end + 1 < len(self.names) and self.names[end + 1] == STAR:
                end += 1
            self._after(end, f" AS {quote(alias)}")
            node["alias"] = {"aliasname": alias}

    def _qualified_columns(self, reference: Reference) -> list[Node]:
        """The columns that are written with the schema of the relation before them: `public.orders.id`."""
        written = [reference.node.get("schemaname"), reference.node["relname"]]
        if written[0] is None:
            written[0] = reference.schema
        return [
            node
            for statement in self.statements
            for kind, node in nodes(statement)
            if kind == "ColumnRef"
            and len(node.get("fields", ())) == 3
            and [part.get("String", {}).get("sval") for part in node["fields"][:2]] == written
        ]

    def _requalify(self, column: Node, qualifier: list[str]) -> None:
        first = self.at(column.get("location", 0))
        second = first + 2
        if self.names[first + 1] != DOT or self.names[second + 1] != DOT:
            raise RewriteError("a qualified column was not found")
        text = ".".join(quote(part) for part in qualifier)
        self._edit(self.starts[first], self._end(second), text)
        column["fields"][:2] = [{"String": {"sval": part}} for part in qualifier]

    def _with_only(self, reference: Reference, first: int, last: int) -> tuple[int, int]:
        """The tokens of a relation's name with the ONLY before it, `ONLY t` or `ONLY (t)`."""
        if reference.inherits:
            return first, last
        if self.names[first - 1] == "ONLY":
            return first - 1, last
        if self.names[first - 1] == OPEN and self.names[first - 2] == "ONLY":
            return first - 2, last + 1
        raise RewriteError("ONLY was not found")

    def replace_sample(self, reference: Reference, alias: str, rest: str) -> None:
        """Put `(SELECT * FROM relation AS alias TABLESAMPLE … rest)` in a sampled relation's place."""
        wrapper = reference.sample
        assert wrapper is not None
        name = self.at(reference.location)
        last_name = self._name_end(name)
        sample = self._forward(name, frozenset(("TABLESAMPLE",)))
        last = self._matching(sample)
        if last + 1 < len(self.names) and self.names[last + 1] == "REPEATABLE":
            last = self._matching(last + 1)
        first, last_name = self._with_only(reference, name, last_name)
        relation = self.sql[self.starts[first] : self._end(last_name)]
        sampled = self.sql[self.starts[sample] : self._end(last)]
        seen = self.sql[self._end(last_name) : self.starts[sample]].strip() or f"AS {quote(reference.alias)}"
        query = f"SELECT * FROM {relation} AS {quote(alias)} {sampled} {rest}"
        self._edit(self.starts[first], self._end(last), f"({query}) {seen}")
        subquery = parsed(query)
        found = reference.node.get("alias") or {"aliasname": reference.alias}
        wrapper.clear()
        wrapper["RangeSubselect"] = {"subquery": subquery, "alias": found}

    def relation_text(self, reference: Reference) -> str:
        """The name of a relation as the agent wrote it, with ONLY."""
        first = self.at(reference.location)
        text = self.sql[self.starts[first] : self._end(self._name_end(first))]
        return text if reference.inherits else f"ONLY {text}"

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

    def _part_of_where(self, query: Query, index: int) -> tuple[int, int] | None:
        """The tokens of one part of a query's WHERE; None when the parts cannot be told apart."""
        where = self._where_before(query.fields["whereClause"])
        if where is None:
            return None
        pieces = self._conjuncts(where + 1, self._forward(where, AFTER_WHERE) - 1)
        return pieces[index] if len(pieces) == len(_parts(query)) else None

    def copied_conjunct(
        self, query: Query, index: int, alias: str, attributes: Mapping[int, str]
    ) -> str | None:
        """One part of a query's WHERE over another alias; None when the parts cannot be told apart.

        Args:
            attributes: id of each ColumnRef -> the attribute that stands in its place.
        """
        piece = self._part_of_where(query, index)
        if piece is None:
            return None
        first, last = piece
        text, position = [], self.starts[first]
        for column in sorted(columns_below(_parts(query)[index]), key=lambda c: c.get("location", 0)):
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
        key = "quals" if "quals" in join else "joinCondition"
        join[key] = self._conjoined(on + 1, end, join[key], condition, guards)

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

    def explain_without_costs(self, fields: Node, location: int) -> None:
        """Let EXPLAIN show the plan without the planner's row estimates."""
        given = [o["DefElem"] for o in fields.get("options", ()) if o["DefElem"]["defname"] == "costs"]
        if given and given[-1].get("arg", {}).get("String", {}).get("sval", "").lower() == "off":
            return
        explain = bisect_left(self.starts, self._characters(location))
        costs = {
            "DefElem": {"defname": "costs", "arg": {"String": {"sval": "off"}}, "defaction": "DEFELEM_UNSPEC"}
        }
        if self.names[explain] != "EXPLAIN":
            raise RewriteError("EXPLAIN was not found")
        if self.names[explain + 1] == OPEN and "options" in fields:
            self._before(self._forward(explain + 1, frozenset()), ", COSTS OFF")
        else:
            words, last = "", explain
            while "options" in fields and (word := self.names[last + 1]) in ("ANALYZE", "ANALYSE", "VERBOSE"):
                words, last = f"{words}{word}, ", last + 1
            self._edit(self.starts[explain], self._end(last), f"EXPLAIN ({words}COSTS OFF)")
        fields["options"] = [*fields.get("options", ()), costs]

    def copy_of_query(self, fields: Node, query_sql: str) -> None:
        """Turn `COPY table (columns) TO …` into `COPY (query) TO …`."""
        first = self.at(fields["relation"]["location"])
        last = self._name_end(first)
        if last + 1 < len(self.names) and self.names[last + 1] == OPEN:
            last = self._forward(last + 1, frozenset())
        self._edit(self.starts[first], self._end(last), f"({query_sql})")
        fields.pop("relation")
        fields.pop("attlist", None)
        fields["query"] = parsed(query_sql)

    def first_token(self, location: int, command: str) -> int:
        """The first token of the query inside a statement: behind DECLARE … FOR, PREPARE … AS, COPY (."""
        first = bisect_left(self.starts, self._characters(location))
        word = {"DeclareCursorStmt": "FOR", "PrepareStmt": "AS", "CopyStmt": OPEN}.get(command)
        if word is None:
            return first
        position, depth = first, 0
        while position < len(self.names):
            name = self.names[position]
            if depth == 0 and name == word:
                return position + 1
            if name == OPEN:
                depth += 1
            elif name == CLOSE:
                depth -= 1
            position += 1
        raise RewriteError(f"{word} was not found")

    def _set_limit(self, fields: Node, after: int, rows: int) -> None:
        self._after(after, f" LIMIT {rows}", LIMIT)
        put(fields, "limitCount", {"A_Const": {"ival": {"ival": rows}}})
        fields["limitOption"] = "LIMIT_OPTION_COUNT"

    def limit(self, fields: Node, first: int, rows: int, *, whole: bool) -> bool:
        """Let a SELECT that starts at token `first` ask for no more than `rows` rows; False when its LIMIT cannot be edited.

        `whole`: the SELECT ends where the text ends.
        """
        while "larg" not in fields and self.names[first] == OPEN and fields.get("limitCount") is not None:
            behind = self._forward(self._matching(first), frozenset(("LIMIT", "FETCH", SEMICOLON)))
            if behind < len(self.names) and self.names[behind] in ("LIMIT", "FETCH"):
                break  # (SELECT …) LIMIT 5
            first += 1  # (SELECT … LIMIT 5): the clause is inside
        count = fields.get("limitCount")
        if count is None and whole and "lockingClause" not in fields:
            # Nothing stands behind where LIMIT goes.
            last = len(self.names) - 1
            while self.names[last] == SEMICOLON:
                last -= 1
            self._set_limit(fields, last, rows)
            return True
        depth = 0
        position, end = first, first
        limit = fetch = locking = None
        while position < len(self.names):
            name = self.names[position]
            if name in (OPEN, "ASCII_91"):
                depth += 1
            elif name in (CLOSE, "ASCII_93"):
                depth -= 1
                if depth < 0:
                    break
            elif depth == 0:
                if name == SEMICOLON:
                    break
                if self._is_word(position):
                    if name == "LIMIT":
                        limit = position
                    elif name == "FETCH":
                        fetch = position
                    elif name == "FOR" and locking is None and self.names[position - 1] != "COLLATION":
                        locking = position
            end = position
            position += 1
        if count is None:
            self._set_limit(fields, locking - 1 if locking is not None else end, rows)
            return True
        constant = count.get("A_Const")
        ties = fields.get("limitOption") == "LIMIT_OPTION_WITH_TIES"
        if (
            not ties
            and constant is not None
            and "ival" in constant
            and constant["ival"].get("ival", 0) <= rows
        ):
            return True
        if limit is not None:
            first, last = limit + 1, min(self._forward(limit, AFTER_WHERE), end + 1) - 1
        elif fetch is not None and not ties:
            first, last = fetch + 2, self._forward(fetch, frozenset(("ROW", "ROWS"))) - 1
        else:
            return False  # WITH TIES: how many rows tie nobody knows before; the driver cuts the result
        text = self.sql[self.starts[first] : self._end(last)]
        if constant is not None and ("ival" in constant or "isnull" in constant):
            new, tree = str(rows), expression_tree(str(rows))
        else:
            # Parenthesised, for FETCH FIRST; a constant that is no integer is rounded by the cast as by LIMIT itself.
            form = f"(LEAST(({{}})::pg_catalog.int8, {rows}))"
            new, tree = form.format(text), substituted(form, count)
        self._edit(self.starts[first], self._end(last), new)
        fields["limitCount"] = tree
        return True

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
