"""Everyday statements about orders, as agents, dashboards and applications write them; `row_filters.py` runs them."""

from __future__ import annotations

#: What was found to lose its index behind a fence, by kind.
FOUND: dict[str, str] = {
    "id by a sub-select": "SELECT * FROM orders WHERE customer_id = (SELECT id FROM customers WHERE email = 'e5@x.org')",
    "the last seven days": "SELECT * FROM orders WHERE day >= current_date - 7",
    "since the month began": "SELECT id, amount FROM orders WHERE placed_at >= date_trunc('month', now())",
    "before a moment computed": (
        "SELECT id FROM orders WHERE placed_at < timestamptz '2021-01-02' + interval '1 day'"
    ),
    "join with VALUES": "SELECT o.* FROM orders AS o JOIN (VALUES (1), (2)) AS v (id) ON v.id = o.id",
    "latest per group, joined back": (
        "WITH latest AS (SELECT customer_id, max(id) AS id FROM orders WHERE customer_id < 40 GROUP BY customer_id) "
        "SELECT o.id, o.amount FROM orders AS o JOIN latest USING (id)"
    ),
    "latest per group, correlated": (
        "SELECT o.id, o.amount FROM orders AS o WHERE o.customer_id < 40 "
        "AND o.id = (SELECT max(i.id) FROM orders AS i WHERE i.customer_id = o.customer_id)"
    ),
    "self-join over 30 days": (
        "SELECT a.id, b.id FROM orders AS a JOIN orders AS b ON b.customer_id = a.customer_id "
        "AND b.placed_at BETWEEN a.placed_at AND a.placed_at + interval '30 days' WHERE a.customer_id = 21"
    ),
    "UPDATE FROM VALUES": (
        "UPDATE orders AS o SET note = v.note FROM (VALUES {values}) AS v (id, note) WHERE o.id = v.id"
    ).format(values=", ".join(f"({n * 37}, 'n{n}')" for n in range(1, 101))),
    "DELETE of the latest": "DELETE FROM orders WHERE id IN (SELECT max(id) FROM orders WHERE customer_id = 21)",
    "UPDATE by a sub-select": (
        "UPDATE orders SET note = 'seen' WHERE id = (SELECT max(id) FROM orders WHERE customer_id = 21)"
    ),
}

READS: dict[str, str] = {
    "point by primary key": "SELECT * FROM orders WHERE id = 4711",
    "some by primary key": "SELECT * FROM orders WHERE id IN (1, 20, 301, 4711)",
    "any of an array": "SELECT id FROM orders WHERE id = ANY ('{1,20,301,4711}')",
    "rows by two columns": "SELECT id FROM orders WHERE (customer_id, status) = (21, 'paid')",
    "a day's orders": "SELECT id, amount FROM orders WHERE day = date '2022-03-01'",
    "last month": (
        "SELECT count(*), sum(amount) FROM orders WHERE placed_at >= date_trunc('month', now()) - interval '1 month' "
        "AND placed_at < date_trunc('month', now())"
    ),
    "this year": "SELECT count(*) FROM orders WHERE placed_at >= date_trunc('year', now())",
    "a quarter, in UTC": (
        "SELECT count(*) FROM orders WHERE placed_at >= timestamp '2022-01-01' AT TIME ZONE 'UTC' "
        "AND placed_at < timestamp '2022-04-01' AT TIME ZONE 'UTC'"
    ),
    "make_interval": "SELECT id FROM orders WHERE placed_at > now() - make_interval(days => 3)",
    "timestamp against date": "SELECT id FROM orders WHERE placed_at >= current_date - 2",
    "a range of amounts": "SELECT id FROM orders WHERE amount BETWEEN 499.5 AND 500.5",
    "more than the average": (
        "SELECT count(*) FROM orders WHERE customer_id < 500 AND amount > (SELECT avg(amount) * 1.5 FROM orders)"
    ),
    "far above the average": (
        "SELECT count(*) FROM orders WHERE customer_id < 500 AND amount > (SELECT avg(amount) + stddev(amount) FROM orders)"
    ),
    "a share of customers": "SELECT id FROM orders WHERE customer_id % 100 = 7 AND amount / 2 > 400 AND day > current_date - 20",
    "LIKE 'abc%'": "SELECT id FROM orders WHERE code LIKE 'abc%'",
    "ILIKE '%abc%'": "SELECT id FROM orders WHERE note ILIKE '%abc%' AND customer_id = 21",
    "lower(name)": "SELECT id FROM customers WHERE lower(name) = 'name 77'",
    "lower() beside an index": "SELECT id FROM orders WHERE lower(status) = 'paid' AND customer_id BETWEEN 10 AND 60",
    "a cast to date": "SELECT count(*) FROM orders WHERE placed_at::date = date '2022-03-01'",
    "extract(year)": "SELECT count(*) FROM orders WHERE extract(year FROM day) = 2022",
    "OR of two columns": "SELECT id FROM orders WHERE customer_id = 21 OR code = 'abc'",
    "IS NULL": "SELECT count(*) FROM orders WHERE note IS NULL AND day > date '2022-03-01'",
    "aggregate by group": "SELECT status, count(*), sum(amount) FROM orders GROUP BY status",
    "by month": (
        "SELECT date_trunc('month', placed_at) AS month, sum(amount) FROM orders "
        "WHERE placed_at >= '2022-01-01' AND placed_at < '2022-07-01' GROUP BY 1 ORDER BY 1"
    ),
    "HAVING": (
        "SELECT customer_id, count(*) FROM orders WHERE customer_id < 2000 GROUP BY customer_id HAVING count(*) > 5"
    ),
    "the largest ten": "SELECT id, amount FROM orders ORDER BY amount DESC LIMIT 10",
    "the latest twenty": "SELECT id, placed_at FROM orders ORDER BY placed_at DESC LIMIT 20",
    "the last of all": "SELECT max(placed_at) FROM orders",
    "count of all": "SELECT count(*) FROM orders",
    "join by customer's name": (
        "SELECT o.id, o.amount FROM customers AS c JOIN orders AS o ON o.customer_id = c.id WHERE c.name = 'Name 77'"
    ),
    "join of two filtered tables": (
        "SELECT o.id, l.product FROM orders AS o JOIN lines AS l ON l.order_id = o.id WHERE o.customer_id = 21"
    ),
    "join with a computed condition": (
        "SELECT o.id FROM orders AS o JOIN lines AS l ON l.order_id = o.id "
        "WHERE o.customer_id < 60 AND o.amount / (l.pieces + 1) > 100"
    ),
    "LEFT JOIN and count": (
        "SELECT c.id, count(o.id) FROM customers AS c LEFT JOIN orders AS o ON o.customer_id = c.id "
        "WHERE c.id < 50 GROUP BY c.id"
    ),
    "EXISTS": (
        "SELECT c.id FROM customers AS c WHERE c.id < 500 AND EXISTS "
        "(SELECT 1 FROM orders AS o WHERE o.customer_id = c.id AND o.amount > 900)"
    ),
    "NOT EXISTS": (
        "SELECT c.id FROM customers AS c WHERE c.id < 500 AND NOT EXISTS "
        "(SELECT 1 FROM orders AS o WHERE o.customer_id = c.id AND o.day >= current_date - 30)"
    ),
    "IN a sub-select": (
        "SELECT id FROM orders WHERE customer_id IN (SELECT id FROM customers WHERE city = 'City 7') AND amount > 990"
    ),
    "top three per customer": (
        "SELECT * FROM (SELECT id, customer_id, amount, row_number() OVER (PARTITION BY customer_id ORDER BY amount DESC) "
        "AS place FROM orders WHERE customer_id < 60) AS ranked WHERE place <= 3"
    ),
    "top three, LATERAL": (
        "SELECT c.id, t.id FROM customers AS c CROSS JOIN LATERAL (SELECT o.id FROM orders AS o "
        "WHERE o.customer_id = c.id ORDER BY o.placed_at DESC LIMIT 3) AS t WHERE c.id < 60"
    ),
    "DISTINCT ON": (
        "SELECT DISTINCT ON (customer_id) customer_id, id, placed_at FROM orders WHERE customer_id < 60 "
        "ORDER BY customer_id, placed_at DESC"
    ),
    "gap filling by date": (
        "SELECT g.day::date, count(o.id) FROM generate_series(date '2022-03-01', date '2022-03-14', interval '1 day') "
        "AS g (day) LEFT JOIN orders AS o ON o.day = g.day::date GROUP BY 1 ORDER BY 1"
    ),
    "gap filling by range": (
        "SELECT g.start, count(o.id) FROM generate_series(timestamptz '2022-03-01', '2022-03-03', interval '1 day') "
        "AS g (start) LEFT JOIN orders AS o ON o.placed_at >= g.start AND o.placed_at < g.start + interval '1 day' "
        "GROUP BY 1 ORDER BY 1"
    ),
    "a computed column further in": (
        "SELECT * FROM (SELECT id, customer_id, date_trunc('month', placed_at) AS month FROM orders) AS o "
        "WHERE o.customer_id = 21 AND o.month < '2023-01-01'"
    ),
    "CTE with a condition outside": (
        "WITH paid AS (SELECT * FROM orders WHERE status = 'paid') SELECT id FROM paid WHERE customer_id = 21"
    ),
    "share of a total": (
        "SELECT id, amount / (SELECT sum(amount) FROM orders WHERE customer_id = 21) FROM orders WHERE customer_id = 21"
    ),
}

WRITES: dict[str, str] = {
    "UPDATE by primary key": "UPDATE orders SET note = 'seen' WHERE id = 4711",
    "UPDATE that could leave the filter": "UPDATE orders SET tenant_id = 1 WHERE id = 4711",
    "UPDATE of a day": "UPDATE orders SET note = 'seen' WHERE day = date '2022-03-01' AND amount > 990",
    "DELETE by range": "DELETE FROM orders WHERE id BETWEEN 5000 AND 5020",
    "INSERT": (
        "INSERT INTO orders (id, tenant_id, customer_id, code, status, amount, day, placed_at) "
        "VALUES (0, 1, 21, 'x', 'new', 1, current_date, now())"
    ),
    "upsert": (
        "INSERT INTO customers (id, tenant_id, name, email, city) VALUES (21, 1, 'n', 'e', 'c') "
        "ON CONFLICT (id) DO UPDATE SET name = excluded.name"
    ),
    "MERGE with VALUES": (
        "MERGE INTO orders AS o USING (VALUES (37, 'a'), (74, 'b')) AS v (id, note) ON o.id = v.id "
        "WHEN MATCHED THEN UPDATE SET note = v.note"
    ),
}

#: Rows that come out of functions, and what they are joined by: ids in a JSON document, days of a calendar.
FUNCTIONS: dict[str, str] = {
    "ids in their order": (
        "SELECT o.id FROM unnest('{1,20,301}'::int[]) WITH ORDINALITY AS u (id, n) JOIN orders AS o USING (id) ORDER BY n"
    ),
    "ids of a JSON document": (
        """SELECT o.id FROM json_to_recordset('[{"id": 1}, {"id": 20}]') AS j (id int) JOIN orders AS o ON o.id = j.id"""
    ),
    "JSON_TABLE": (
        "SELECT o.id FROM JSON_TABLE('[1, 20]'::jsonb, '$[*]' COLUMNS (id int PATH '$')) AS j JOIN orders AS o ON o.id = j.id"
    ),
    "a calendar in WITH": (
        "WITH days AS (SELECT generate_series(current_date - 13, current_date, interval '1 day')::date AS day) "
        "SELECT d.day, coalesce(sum(o.amount), 0) FROM days AS d LEFT JOIN orders AS o ON o.day = d.day GROUP BY 1 ORDER BY 1"
    ),
    "months, by what they begin with": (
        "SELECT m, count(o.id) FROM generate_series(date '2022-01-01', date '2022-03-01', interval '1 month') AS m "
        "LEFT JOIN orders AS o "
        "ON date_trunc('month', o.day) = m AND o.day >= date '2022-01-01' AND o.day < date '2022-02-01' GROUP BY m"
    ),
    "a join of texts": (
        "SELECT c.id, o.id FROM customers AS c JOIN orders AS o ON o.customer_id::text = c.id::text "
        "WHERE c.id < 5 AND o.day = date '2022-03-01'"
    ),
    "UPDATE FROM unnest": (
        "UPDATE orders AS o SET note = v.note FROM unnest('{1,20,301}'::int[], '{a,b,c}'::text[]) AS v (id, note) "
        "WHERE o.id = v.id"
    ),
}

QUERIES: dict[str, str] = {**FOUND, **READS, **FUNCTIONS, **WRITES}

#: Statements with parameters, as applications send them: the text, the types of its parameters, and their values.
PARAMETERS: dict[str, tuple[str, str, str]] = {
    "$: by primary key": ("SELECT * FROM orders WHERE id = $1", "int", "4711"),
    "$: some by primary key": ("SELECT id FROM orders WHERE id = ANY ($1)", "int[]", "'{1,20,301}'"),
    "$: a day": ("SELECT id FROM orders WHERE day = $1", "date", "'2022-03-01'"),
    "$: since a day": (
        "SELECT id FROM orders WHERE placed_at >= $1::date AND placed_at < $1::date + 2",
        "date",
        "'2022-03-01'",
    ),
    "$: the last days": ("SELECT id FROM orders WHERE placed_at > now() - $1 * interval '1 day'", "int", "3"),
    "$: a day more": (
        "SELECT id FROM orders WHERE placed_at >= $1::timestamptz AND placed_at < $1::timestamptz + interval '1 day'",
        "timestamptz",
        "'2022-03-01'",
    ),
    "$: days back": ("SELECT id FROM orders WHERE day >= current_date - $1", "int", "7"),
    "$: make_interval": (
        "SELECT id FROM orders WHERE placed_at > now() - make_interval(days => $1)",
        "int",
        "3",
    ),
    "$: id by a sub-select": (
        "SELECT id FROM orders WHERE customer_id = (SELECT id FROM customers WHERE email = $1)",
        "text",
        "'e5@x.org'",
    ),
    "$: ids by a sub-select": (
        "SELECT id FROM orders WHERE customer_id IN (SELECT id FROM customers WHERE city = $1)",
        "text",
        "'City 7'",
    ),
    "$: unnest": (
        "SELECT o.id FROM unnest($1::int[]) AS u (id) JOIN orders AS o ON o.id = u.id",
        "int[]",
        "'{1,20,301}'",
    ),
    "$: next page": (
        "SELECT id, placed_at FROM orders WHERE (placed_at, id) < ($1, $2) ORDER BY placed_at DESC, id DESC LIMIT 20",
        "timestamptz, int",
        "'2022-03-01', 1000",
    ),
    "$: an optional condition": (
        "SELECT id FROM orders WHERE ($1::int IS NULL OR customer_id = $1) AND day > current_date - 10",
        "int",
        "21",
    ),
    "$: LATERAL": (
        (
            "SELECT c.id, t.id FROM customers AS c CROSS JOIN LATERAL (SELECT o.id FROM orders AS o WHERE o.customer_id = c.id "
            "ORDER BY o.placed_at DESC LIMIT $2) AS t WHERE c.id < $1"
        ),
        "int, int",
        "60, 3",
    ),
    "$: ILIKE and a join": (
        "SELECT o.id FROM customers AS c JOIN orders AS o ON o.customer_id = c.id WHERE c.name ILIKE $1",
        "text",
        "'Name 777'",
    ),
    "$: a part of a name": ("SELECT id FROM customers WHERE name LIKE '%' || $1 || '%'", "text", "'777'"),
    "$: UPDATE": ("UPDATE orders SET status = $1 WHERE id = $2", "text, int", "'paid', 4711"),
    "$: UPDATE FROM unnest": (
        "UPDATE orders AS o SET note = v.note FROM unnest($1::int[], $2::text[]) AS v (id, note) WHERE o.id = v.id",
        "int[], text[]",
        "'{1,20,301}', '{a,b,c}'",
    ),
    "$: DELETE": ("DELETE FROM orders WHERE id = ANY ($1)", "int[]", "'{1,20,301}'"),
}
