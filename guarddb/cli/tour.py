"""The statements of the tour, in the order in which an agent might come to them, each with the answer it
should get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from guarddb.vocabulary import Rule, Verdict


@dataclass(frozen=True, slots=True)
class Step:
    """One statement: what it is for, its text, and the verdict and rule that the engine is expected to
    give."""

    title: str
    sql: str
    verdict: Verdict = "block"
    rule: Rule = "ok"


@dataclass(frozen=True, slots=True)
class Scene:
    """A session: the profile's file, who is at work, the steps, and what else connect() is told."""

    policy: str
    agent: str
    title: str
    steps: tuple[Step, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)


ANALYST = (
    Step(
        "How are the products rated? Nothing is restricted; the LIMIT that is added is how max_rows is kept.",
        """SELECT stars, count(*) AS reviews, round(100.0 * count(*) / sum(count(*)) OVER (), 1) AS percent
FROM reviews GROUP BY stars ORDER BY stars""",
        "allow",
    ),
    Step(
        "Which categories sell best? The verdict warns that products has a masked column; this does not need it.",
        """SELECT c.name, sum(i.quantity * i.unit_price) AS revenue
FROM order_items i JOIN products p ON p.id = i.product_id JOIN categories c ON c.id = p.category_id
GROUP BY c.name ORDER BY revenue DESC LIMIT 5""",
        "mask",
    ),
    Step(
        "A window function, and a function of the shop's own that the profile allows by name.",
        """SELECT name, price, with_vat(price) AS with_vat, rank() OVER (ORDER BY price DESC)
FROM products ORDER BY price DESC LIMIT 4""",
        "mask",
    ),
    Step(
        "A recursive CTE.",
        """WITH RECURSIVE tree AS (
  SELECT id, name, 0 AS depth FROM categories WHERE parent_id IS NULL
  UNION ALL SELECT c.id, c.name, t.depth + 1 FROM categories c JOIN tree t ON c.parent_id = t.id)
SELECT repeat('  ', depth) || name AS category FROM tree ORDER BY id LIMIT 6""",
        "allow",
    ),
    Step(
        "Revenue by month: orders of this store only, because a row filter goes into the statement.",
        """SELECT to_char(placed_at, 'YYYY-MM') AS month, count(*) AS orders, sum(total) AS revenue
FROM orders GROUP BY 1 ORDER BY 1 LIMIT 4""",
        "row-filter",
    ),
    Step(
        "An outer join stays one: the filter of its nullable side goes into ON, not into WHERE.",
        """SELECT count(*) AS customers, count(o.id) AS with_orders
FROM customers c LEFT JOIN orders o ON o.customer_id = c.id AND o.status = 'returned'""",
        "row-filter",
    ),
    Step(
        "Personal data: masked before it reaches the agent. A keyed hash can still be told from another.",
        "SELECT id, name, email, phone, birth_date FROM customers ORDER BY id LIMIT 3",
        "row-filter",
    ),
    Step(
        "The purchase price is a secret as well, and a view, an alias or SELECT * would not change that.",
        "SELECT p.*, p.unit_cost AS what_we_pay FROM products p ORDER BY id LIMIT 2",
        "mask",
    ),
    Step(
        "Behind a view, under another name: still masked, still filtered.",
        "SELECT id, name, contact FROM address_book ORDER BY id LIMIT 3",
        "row-filter",
    ),
    Step(
        "A masked column smuggled out through the second branch of a UNION ALL.",
        "SELECT name FROM categories WHERE id < 3 UNION ALL (SELECT phone FROM customers LIMIT 2)",
        "row-filter",
    ),
    Step(
        "150,000 rows were asked for; max_rows hands out 200, and the cursor says that there were more.",
        "SELECT * FROM order_items ORDER BY order_id, line",
        "allow",
    ),
    Step(
        "The catalogs tell an agent what it can work with.",
        """SELECT column_name, data_type FROM information_schema.columns
WHERE table_schema = 'shop' AND table_name = 'orders' ORDER BY ordinal_position""",
        "allow",
    ),
    Step(
        "What it has no business with is refused, with the tables that are left.",
        "SELECT * FROM api_keys",
        "block",
        "table_denied",
    ),
    Step("Another schema.", "SELECT avg(salary) FROM hr.employees", "block", "table_not_allowed"),
    Step(
        "The catalog of password hashes.",
        "SELECT rolname, rolpassword FROM pg_authid",
        "block",
        "table_not_allowed",
    ),
    Step(
        "Guessing a masked value by asking whether it is there.",
        "SELECT count(*) FROM customers WHERE email LIKE 'ada%'",
        "block",
        "masked_column_predicate",
    ),
    Step(
        "Making something else of a masked value.",
        "SELECT substr(email, 1, 3) FROM customers",
        "block",
        "masked_column_expression",
    ),
    Step(
        "A call in the clothes of a column: c.contact_line is contact_line(c), which reads the e-mail.",
        "SELECT c.contact_line FROM customers c LIMIT 3",
        "block",
        "function_not_allowed",
    ),
    Step(
        "An error as an oracle: a failing cast prints the value it failed on. It sees visible rows only, and "
        "the value is cut out of the error.",
        "SELECT count(*) FROM customers WHERE city::regclass IS NULL",
        "row-filter",
    ),
    Step(
        "A CTE that takes the name of a harmless table: the mask follows the column, not the name.",
        """WITH categories AS (SELECT id, phone AS name FROM customers)
SELECT name FROM categories ORDER BY id LIMIT 2""",
        "row-filter",
    ),
    Step(
        "EXPLAIN ANALYZE runs what it explains: SELECT INTO makes a table, even when READ ONLY is set.",
        "EXPLAIN ANALYZE SELECT * INTO public.copy FROM products",
        "block",
        "read_only",
    ),
    Step(
        "Reading a file of the server.", "SELECT pg_read_file('/etc/passwd')", "block", "forbidden_function"
    ),
    Step(
        "SQL inside a string.",
        "SELECT query_to_xml('SELECT * FROM hr.employees', true, true, '')",
        "block",
        "forbidden_function",
    ),
    Step(
        "Hiding a second statement behind the first.",
        "SELECT 1; DROP TABLE orders",
        "block",
        "destructive_ddl",
    ),
    Step(
        "A write under a read-only profile.",
        "UPDATE products SET price = 0 WHERE id = 1",
        "block",
        "read_only",
    ),
    Step(
        "Lifting the walls.",
        "SELECT set_config('statement_timeout', '0', false)",
        "block",
        "protected_setting",
    ),
    Step("Becoming somebody else.", "SET ROLE postgres", "block", "role_change"),
)

SUPPORT = (
    Step(
        "An ordinary write, to a row of its own store.",
        "UPDATE orders SET status = 'shipped' WHERE id = 5 AND status <> 'returned'",
        "row-filter",
    ),
    Step(
        "The same to an order of another store: for this agent there is no such row.",
        "UPDATE orders SET status = 'shipped' WHERE id = 6",
        "row-filter",
    ),
    Step(
        "A new row that belongs to another store is not written.",
        "INSERT INTO tickets (store_id, customer_id, subject) VALUES (4, 17, 'not ours')",
        "block",
        "row_filter_violation",
    ),
    Step(
        "Forgetting the WHERE; a WHERE that is always true is none.",
        "DELETE FROM tickets WHERE true",
        "block",
        "whereless_write",
    ),
    Step(
        "Moving a masked value to a column that is not masked.",
        "UPDATE customers SET note = email WHERE id = 5",
        "block",
        "masked_column_write",
    ),
    Step("Emptying a table.", "TRUNCATE tickets", "block", "destructive_ddl"),
)

TRAINEE = (
    Step("The first statement of the hour.", "SELECT count(*) FROM products", "allow"),
    Step("The second.", "SELECT name FROM categories ORDER BY id LIMIT 2", "allow"),
    Step(
        "The third: the budget is spent, and the error says until when.",
        "SELECT count(*) FROM products",
        "block",
        "query_budget_hour",
    ),
)

REHEARSAL = (
    Step(
        "Three tickets are closed, and rolled back: the count is the true one.",
        "UPDATE tickets SET subject = 'closed' WHERE id <= 3",
        "allow",
    ),
    Step("Nothing of it is there.", "SELECT count(*) FROM tickets WHERE subject = 'closed'", "allow"),
    Step(
        "One statement touches too many rows: undone, and the session goes on.",
        "UPDATE tickets SET subject = 'closed' WHERE id <= 500",
        "block",
        "max_affected_rows",
    ),
    Step(
        "An index that would make every writer wait; the hint is the form that does not.",
        "CREATE INDEX orders_status ON orders (status)",
        "block",
        "migration_block",
    ),
)

CLERK = (
    Step(
        "A write that is held until somebody approves it.",
        "UPDATE tickets SET subject = 'done' WHERE id = 7",
        "allow",
    ),
    Step(
        "One that is rejected.",
        "UPDATE tickets SET subject = 'done' WHERE id = 8",
        "block",
        "approval_rejected",
    ),
)

WATCHED = (
    Step("A name is nothing much.", "SELECT name FROM customers WHERE id = 1", "mask"),
    Step(
        "An e-mail is personal data, masked or not; it runs.",
        "SELECT email FROM customers WHERE id = 1",
        "mask",
    ),
    Step(
        "Again and again it adds up.",
        "SELECT email, phone FROM customers ORDER BY id LIMIT 100",
        "block",
        "risk_denied",
    ),
)


def closes_ticket_seven(request: Any) -> bool:
    """The person of the tour."""
    return "id = 7" in request.sql


RISING = {
    "sensitive_fields": ["email", "phone"],
    "custom_rules": {
        "again": {
            "condition": "count(preceding_actions) > 1 AND target.sensitivity_level >= 2",
            "score_impact": 50,
            "description": "personal data, asked for again and again",
        }
    },
}

SCENES = (
    Scene("analyst.yaml", "analyst-agent", "An analyst of the South store: reads, and nothing else", ANALYST),
    Scene(
        "support.yaml", "support-agent", "Support of the South store: may write orders and tickets", SUPPORT
    ),
    Scene("trainee.yaml", "trainee-agent", "Two statements an hour", TRAINEE),
    Scene("rehearsal.yaml", "rehearsal-agent", "A rehearsal: writes that are rolled back", REHEARSAL),
    Scene(
        "clerk.yaml", "clerk-agent", "Writes that a person approves", CLERK, {"approver": closes_ticket_seven}
    ),
    Scene("watched.yaml", "watched-agent", "An agent whose risk rises", WATCHED, {"action_policy": RISING}),
)
