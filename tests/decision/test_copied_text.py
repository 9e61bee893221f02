"""Text of the agent's that guarddb writes a second time must not bring a table along without its filter."""

from __future__ import annotations

from pglast import parse_sql
from pglast.visitors import Visitor

from guarddb import Catalog, evaluate

PROFILE = {
    "name": "both",
    "masking_rules": [{"table": "customers", "column": "email", "kind": "redact"}],
    "row_filters": [{"table": "orders", "predicate": "tenant_id = 1"}],
}


class _Orders(Visitor):  # type: ignore[misc]
    def __init__(self) -> None:
        self.seen = 0

    def visit_RangeVar(self, ancestors: object, node: object) -> None:
        self.seen += node.relname == "orders"  # type: ignore[attr-defined]


def test_an_ordered_branch_with_a_sub_select_keeps_each_table_behind_its_filter(shop_admin: str) -> None:
    import psycopg

    with psycopg.connect(shop_admin) as conn:
        catalog = Catalog.from_connection(conn)
    decision = evaluate(
        "SELECT email AS a FROM customers UNION ALL "
        "(SELECT CASE WHEN EXISTS (SELECT FROM orders o WHERE o.id = 1) THEN name END AS a FROM products ORDER BY 1)",
        PROFILE,
        catalog,
    )
    assert decision.verdict == "row-filter"
    assert decision.rewritten_sql is not None
    orders = _Orders()
    orders(parse_sql(decision.rewritten_sql))
    assert orders.seen == decision.rewritten_sql.count('"o"."tenant_id" = 1') == 1
