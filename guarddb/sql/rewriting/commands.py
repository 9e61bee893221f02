"""Edits to the command around a query, to calls of functions, and the rows that a query asks for."""

from __future__ import annotations

from bisect import bisect_left

from guarddb.sql.names import quote
from guarddb.sql.rewriting.edits import AFTER_WHERE, CLOSE, COMMA, LIMIT, OPEN, SEMICOLON, RewriteError
from guarddb.sql.rewriting.targets import TargetEdits
from guarddb.sql.rewriting.trees import expression_tree, parsed, put, substituted
from guarddb.tree import Node


class CommandEdits(TargetEdits):
    """Edits to EXPLAIN, COPY, SHOW and LIMIT."""

    def explain_quietly(self, fields: Node, location: int) -> None:
        """Let EXPLAIN show the plan without the planner's row estimates, and without what was read, written and taken for it.

        (Planning takes more memory, and reads more pages, where the statistics hold longer values.)
        """
        given = {o["DefElem"]["defname"]: o["DefElem"] for o in fields.get("options", ())}
        quiet = ["costs", "buffers", "wal"] if "analyze" in given else ["costs"]
        quiet += [name for name in ("buffers", "memory") if name in given and name not in quiet]
        quiet = [
            name
            for name in quiet
            if given.get(name, {}).get("arg", {}).get("String", {}).get("sval", "").lower() != "off"
        ]
        if not quiet:
            return
        explain = bisect_left(self.starts, self._characters(location))
        if self.names[explain] != "EXPLAIN":
            raise RewriteError("EXPLAIN was not found")
        text = ", ".join(f"{name.upper()} OFF" for name in quiet)
        if self.names[explain + 1] == OPEN and "options" in fields:
            self._before(self._forward(explain + 1, frozenset()), f", {text}")
        else:
            words, last = "", explain
            while "options" in fields and (word := self.names[last + 1]) in ("ANALYZE", "ANALYSE", "VERBOSE"):
                words, last = f"{words}{word}, ", last + 1
            self._edit(self.starts[explain], self._end(last), f"EXPLAIN ({words}{text})")
        off = {"arg": {"String": {"sval": "off"}}, "defaction": "DEFELEM_UNSPEC"}
        fields["options"] = [
            *fields.get("options", ()),
            *({"DefElem": {"defname": name, **off}} for name in quiet),
        ]

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

    def replace_show(self, wrapper: Node, location: int, query_sql: str) -> None:
        """Put a query in the place of SHOW ALL."""
        first = bisect_left(self.starts, self._characters(location))
        if self.names[first] != "SHOW" or self.names[first + 1] != "ALL":
            raise RewriteError("SHOW ALL was not found")
        self._edit(self.starts[first], self._end(first + 1), query_sql)
        wrapper.clear()
        wrapper.update(parsed(query_sql))

    def replace_from_call(self, wrapper: Node, query_sql: str) -> None:
        """Put a query in the place of a function without arguments that stands alone as an item of FROM."""
        node = wrapper["RangeFunction"]
        call = node["functions"][0]["List"]["items"][0]["FuncCall"]
        first = self.at(call.get("location", 0))
        last = self._name_end(first)
        if self.names[last + 1] != OPEN or self.names[last + 2] != CLOSE:
            raise RewriteError("the parentheses of a call were not found")
        text, alias = f"({query_sql})", node.get("alias")
        if alias is None:
            alias = {"aliasname": call["funcname"][-1]["String"]["sval"]}
            text += f" AS {quote(alias['aliasname'])}"
        self._edit(self.starts[first], self._end(last + 2), text)
        wrapper.clear()
        lateral = {"lateral": True} if node.get("lateral") else {}
        wrapper["RangeSubselect"] = {**lateral, "subquery": parsed(query_sql), "alias": alias}

    def wrap_first_argument(self, call: Node, form: str) -> None:
        """Put the first argument of a call into a form, with a HOLE where it stood."""
        opening = self._name_end(self.at(call.get("location", 0))) + 1
        if self.names[opening] != OPEN:
            raise RewriteError("the arguments of a call were not found")
        last, depth = opening, 0
        while depth or self.names[last + 1] not in (COMMA, CLOSE):
            last += 1
            depth += (self.names[last] in (OPEN, "ASCII_91")) - (self.names[last] in (CLOSE, "ASCII_93"))
        call["args"][0] = self._put_into(opening + 1, last, call["args"][0], form)

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

    def limit(self, fields: Node, location: int, command: str, rows: int, *, whole: bool) -> bool:
        """Let the SELECT of a statement ask for no more than `rows` rows; False when its LIMIT cannot be edited.

        Args:
            location: where the statement starts, as a byte offset; `command` is its node's name.
            whole: the SELECT ends where the text ends.
        """
        count = fields.get("limitCount")
        constant = count.get("A_Const") if count is not None else None
        ties = fields.get("limitOption") == "LIMIT_OPTION_WITH_TIES"
        if not ties and constant is not None and "ival" in constant:
            if constant["ival"].get("ival", 0) <= rows:
                return True
        first = self.first_token(location, command)
        while "larg" not in fields and self.names[first] == OPEN and fields.get("limitCount") is not None:
            behind = self._forward(self._matching(first), frozenset(("LIMIT", "FETCH", SEMICOLON)))
            if behind < len(self.names) and self.names[behind] in ("LIMIT", "FETCH"):
                break  # (SELECT …) LIMIT 5
            first += 1  # (SELECT … LIMIT 5): the clause is inside
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
