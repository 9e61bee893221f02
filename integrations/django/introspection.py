"""What `inspectdb` and other readers of the schema find: the tables that the policy lets be read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db.backends.postgresql import introspection

import guarddb

if TYPE_CHECKING:
    from collections.abc import Iterator

#: A table that is closed as a whole, or whose rows were stored by somebody who saw more (a materialised view).
_CLOSED = frozenset(("table_not_allowed", "table_denied", "row_filter_unsafe"))


class DatabaseIntrospection(introspection.DatabaseIntrospection):  # type: ignore[misc]
    """Django's own, which looks at a row of each table it lists: so it lists those that the policy opens."""

    def get_table_list(self, cursor: Any) -> list[Any]:
        """The tables and views that may be read."""
        return list(self._readable(super().get_table_list(cursor)))

    def table_names(self, cursor: Any = None, include_views: bool = False) -> list[str]:
        """The tables that there are: whether migrations have made theirs, a policy does not change."""
        if cursor is None:
            with self.connection.cursor() as own:
                return self.table_names(own, include_views)
        listed = super().get_table_list(cursor)
        return sorted(each.name for each in listed if include_views or each.type == "t")

    def _readable(self, listed: list[Any]) -> Iterator[Any]:
        connection = self.connection.connection
        policy = connection.policy
        catalog = guarddb.Catalog.from_connection(connection) if policy is not None else None
        for each in listed:
            if policy is not None:
                name = self.connection.ops.quote_name(each.name)
                decision = guarddb.evaluate(f"SELECT * FROM {name} LIMIT 1", policy, catalog)
                if decision.rule in _CLOSED:
                    continue
            yield each
