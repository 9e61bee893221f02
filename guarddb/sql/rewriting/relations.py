"""Edits in the place of a relation: another name, a subquery, its schema."""

from __future__ import annotations

from functools import lru_cache

from guarddb.sql.names import quote
from guarddb.sql.rewriting.edits import DOT, OPEN, STAR, RewriteError, TextEdits
from guarddb.sql.rewriting.trees import parsed
from guarddb.sql.statement import Reference
from guarddb.tree import Node, below


@lru_cache(maxsize=1)
def _in_small(sql: str) -> str:
    return sql.lower()


def qualified_columns(reference: Reference, sql: str, statements: list[Node]) -> list[Node]:
    """The columns that are written with the schema of the relation before them: `public.orders.id`."""
    if "schemaname" not in reference.node and '"' not in sql and reference.schema not in _in_small(sql):
        return []  # (without a walk over everything for each relation)
    written = [reference.node.get("schemaname", reference.schema), reference.node["relname"]]
    return [
        column
        for column in below(statements, ("ColumnRef",))
        if len(column.get("fields", ())) == 3
        and [part.get("String", {}).get("sval") for part in column["fields"][:2]] == written
    ]


class RelationEdits(TextEdits):
    """Edits to the relations of a text, and to the trees of its statements."""

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
            for column in qualified_columns(
                reference, self.sql, self.statements
            ):  # (a subquery has no schema)
                self._requalify(column, [reference.alias])
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
        """Put another relation in a relation's place, under the name it had.

        >>> from guarddb.sql.analysis.classify import read_statement
        >>> from guarddb.sql.rewriting.rewriter import Rewriter
        >>> from guarddb.tree import parse
        >>> sql = "SELECT t.id FROM t"
        >>> raws = parse(sql)
        >>> rewriter = Rewriter(sql, raws)
        >>> rewriter.rename_relation(read_statement(raws[0], None, {}).references[0], "wall", "shown")
        >>> rewriter.finish()
        'SELECT t.id FROM "wall"."shown" AS "t"'
        """
        node = reference.node
        alias = None
        if "alias" not in node:
            alias = reference.alias if name != reference.name else None
            for column in qualified_columns(reference, self.sql, self.statements):
                self._requalify(column, [schema, name] if alias is None else [alias])
        first = self.at(reference.location)
        last = self._name_end(first)
        if alias is not None:
            self._write_out(first)
            end = self._with_only(reference, first, last)[1]
            if reference.inherits and end + 1 < len(self.names) and self.names[end + 1] == STAR:
                end += 1
            self._after(end, f" AS {quote(alias)}")
            node["alias"] = {"aliasname": alias}
        self._edit(self.starts[first], self._end(last), f"{quote(schema)}.{quote(name)}")
        node.pop("catalogname", None)
        node["schemaname"], node["relname"] = schema, name

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

    def replace_sample(self, reference: Reference, columns: str, alias: str, rest: str) -> None:
        """Put `(SELECT columns FROM relation AS alias TABLESAMPLE … rest)` in a sampled relation's place."""
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
        query = f"SELECT {columns} FROM {relation} AS {quote(alias)} {sampled} {rest}"
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
