"""How PostgreSQL is asked whether it can read a filter: a statement for each filter and table, to be parsed and never run.

Whether a type, a function or an operator of a predicate exists for its operands is PostgreSQL's to say. Found out once, when the
filter meets the catalog, it is the operator's to mend; else it would be thrown at the agent at every statement.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from guarddb.lint.unknown import UnknownRule
from guarddb.sql.names import quote, quote_qualified

if TYPE_CHECKING:
    from guarddb.decision.on_catalog import Governance

#: SQLSTATE classes that speak of the text itself: syntax and names, values, features. Rights, locks and time are of the moment.
_OF_THE_TEXT = frozenset(("42", "22", "0A", "2F"))
_RIGHTS = "42501"


@dataclass(frozen=True, slots=True)
class Trial:
    """One filter on one relation. `sql`: parse it."""

    path: str
    relation: str
    sql: str

    def fault(self, sqlstate: str | None, message: str) -> UnknownRule | None:
        """What an error says of the filter; None for one that is not about it."""
        if sqlstate is None or sqlstate[:2] not in _OF_THE_TEXT or sqlstate == _RIGHTS:
            return None
        return UnknownRule(
            self.path,
            f'PostgreSQL cannot read the filter on "{self.relation}": {message}',
            protects=True,
            shown=f'PostgreSQL cannot read the filter on "{self.relation}"',
        )


def trials(governance: Governance) -> Iterator[Trial]:
    """A trial for each filter of the profile and each relation that it names."""
    for index, (pattern, predicate) in enumerate(governance.filters):
        for relation in governance.tables(pattern):
            bound = next(
                (
                    each
                    for each in governance.rules_for(relation).filters
                    if each.source == predicate and each.pattern == pattern
                ),
                None,
            )
            if bound is None or relation.kind == "S":
                continue
            alias = "guarddb_row"
            while alias in bound.inner_names:
                alias += "_"
            yield Trial(
                f"row_filters[{index}].predicate",
                f"{relation.schema}.{relation.name}",
                f"SELECT FROM {quote_qualified(relation.schema, relation.name)} AS {quote(alias)} WHERE ({bound.text(alias)})",
            )
