"""A grammar of statements over the oracles' schema, aware of types, scopes and of where it put a masked column.

Nearly every statement is valid, and the answer of each is determined: LIMIT stands over a total order, an aggregate that
depends on the order has one, UPDATE … FROM finds one source row. So two servers that hold the same must answer the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.oracles.draws import Draws
from tests.oracles.grammar import Col, Generated, Grammar
from tests.oracles.writes import Writes

_PARAMETER = re.compile(r"\$(\d+)")


def generate(draws: Draws, grammar: Grammar) -> Generated:
    """The statement that the draws make."""
    return _Generator(draws, grammar).statement()


class _Generator(Writes):
    def renumber(self, sql: str) -> Callable[[str], str]:
        """Forget the parameters of what was thrown away; gives what renames the others in a text."""
        resolved = self.resolve(sql, 0)
        used = sorted({int(n) for n in _PARAMETER.findall(resolved)})
        self.params = [self.params[n - 1] for n in used]
        places = {str(n): i + 1 for i, n in enumerate(used)}
        return lambda text: _PARAMETER.sub(lambda m: f"${places[m[1]]}", text)

    def statement(self) -> Generated:
        write = self.d.chance(self.g.writes)
        clause = self.with_clause(modify=self.g.writes > 0)
        # Data-modifying CTEs stand at the top level only, and that is where this clause is.
        query = self.write() if write else self.query(None, None, "rows")
        sql = clause + query.sql
        if clause and " ORDER BY " in query.sql and query.sql.startswith("("):
            query.ordered = False
        cols: list[Col] | None = query.cols
        if write and not query.cols:
            cols = None
        params = self.renumber(sql)
        sent, expected = params(self.resolve(sql, 0)), params(self.resolve(sql, 1))
        # COPY takes no parameters, and its lines no NULL in the place of one of their columns.
        if (
            self.d.chance(3)
            and not self.writes
            and not self.params
            and all(c.mask != "null!" for c in query.cols)
        ):
            self.used("copy")
            sent, expected, cols = f"COPY ({sent}) TO STDOUT", f"COPY ({expected}) TO STDOUT", None
        return Generated(
            sent,
            expected,
            self.params,
            cols,
            query.ordered,
            self.writes,
            self.misuses,
            self.features,
            self.dirty,
            self.d.made,
        )
