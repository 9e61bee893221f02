-- policy: filtered_rw
-- customers, orders, payments and events: tenant_id = 1.

-- name: no condition
SELECT id FROM orders ORDER BY id
-- becomes
SELECT id FROM orders WHERE ("orders"."tenant_id" = 1) ORDER BY id

-- name: a condition
SELECT id FROM orders WHERE total > 100 ORDER BY id
-- becomes
SELECT id FROM orders WHERE ("orders"."tenant_id" = 1) AND (total > 100) ORDER BY id

-- name: an OR is kept together
SELECT id FROM orders WHERE status = 'new' OR total > 100 ORDER BY id
-- becomes
SELECT id FROM orders WHERE ("orders"."tenant_id" = 1) AND (status = 'new' OR total > 100) ORDER BY id

-- name: an alias
SELECT o.id FROM orders AS o WHERE o.total > 100 ORDER BY o.id
-- becomes
SELECT o.id FROM orders AS o WHERE ("o"."tenant_id" = 1) AND (o.total > 100) ORDER BY o.id

-- name: a condition that may raise
SELECT id FROM customers WHERE name::text <> 'x' AND 10 / id > 0 ORDER BY id
-- becomes
SELECT id FROM customers WHERE ("customers"."tenant_id" = 1) AND (name::text <> 'x' AND CASE WHEN ("customers"."tenant_id" = 1) THEN (10 / id > 0) END) ORDER BY id

-- name: group and having
SELECT status, count(*) FROM orders GROUP BY status HAVING count(*) > 1 ORDER BY 1
-- becomes
SELECT status, count(*) FROM orders WHERE ("orders"."tenant_id" = 1) GROUP BY status HAVING count(*) > 1 ORDER BY 1

-- name: the limit stays last
SELECT id FROM orders ORDER BY id DESC LIMIT 3 OFFSET 1
-- becomes
SELECT id FROM orders WHERE ("orders"."tenant_id" = 1) ORDER BY id DESC LIMIT 3 OFFSET 1

-- name: inner join
SELECT o.id, c.name FROM orders AS o JOIN customers AS c ON c.id = o.customer_id ORDER BY o.id
-- becomes
SELECT o.id, c.name FROM orders AS o JOIN customers AS c ON c.id = o.customer_id WHERE (("o"."tenant_id" = 1) AND ("c"."tenant_id" = 1)) ORDER BY o.id

-- name: nullable side of a left join
SELECT i.id, o.total FROM hr.orders AS i LEFT JOIN orders AS o ON o.id = i.id ORDER BY i.id
-- becomes
SELECT i.id, o.total FROM hr.orders AS i LEFT JOIN orders AS o ON ("o"."tenant_id" = 1) AND (o.id = i.id) ORDER BY i.id

-- name: other side of a left join
SELECT o.id, i.item FROM orders AS o LEFT JOIN hr.orders AS i ON o.id = i.id ORDER BY o.id
-- becomes
SELECT o.id, i.item FROM orders AS o LEFT JOIN hr.orders AS i ON o.id = i.id WHERE ("o"."tenant_id" = 1) ORDER BY o.id

-- name: full join
SELECT o.id, i.id FROM orders AS o FULL JOIN hr.orders AS i ON o.id = i.id ORDER BY 1, 2
-- becomes
SELECT o.id, i.id FROM (SELECT "orders"."id" FROM orders AS "orders" WHERE "orders"."tenant_id" = 1) AS o FULL JOIN hr.orders AS i ON o.id = i.id ORDER BY 1, 2

-- name: right join
SELECT o.total, i.id FROM orders AS o RIGHT JOIN hr.orders AS i ON o.id = i.id ORDER BY 2
-- becomes
SELECT o.total, i.id FROM orders AS o RIGHT JOIN hr.orders AS i ON ("o"."tenant_id" = 1) AND (o.id = i.id) ORDER BY 2

-- name: using
SELECT id, item FROM orders JOIN hr.orders AS h USING (id) ORDER BY id
-- becomes
SELECT id, item FROM orders JOIN hr.orders AS h USING (id) WHERE ("orders"."tenant_id" = 1) ORDER BY id

-- name: self join
SELECT a.id, b.id FROM orders AS a JOIN orders AS b ON b.customer_id = a.customer_id AND b.id > a.id ORDER BY 1, 2
-- becomes
SELECT a.id, b.id FROM orders AS a JOIN orders AS b ON b.customer_id = a.customer_id AND b.id > a.id WHERE (("a"."tenant_id" = 1) AND ("b"."tenant_id" = 1)) ORDER BY 1, 2

-- name: cross join by comma
SELECT count(*) FROM orders, customers
-- becomes
SELECT count(*) FROM orders, customers WHERE (("orders"."tenant_id" = 1) AND ("customers"."tenant_id" = 1))

-- name: subquery
SELECT id FROM categories WHERE id IN (SELECT customer_id FROM orders) ORDER BY id
-- becomes
SELECT id FROM categories WHERE id IN (SELECT customer_id FROM orders WHERE ("orders"."tenant_id" = 1)) ORDER BY id

-- name: exists
SELECT id FROM customers AS c WHERE EXISTS (SELECT FROM orders AS o WHERE o.customer_id = c.id) ORDER BY id
-- becomes
SELECT id FROM customers AS c WHERE ("c"."tenant_id" = 1) AND (EXISTS (SELECT FROM orders AS o WHERE ("o"."tenant_id" = 1) AND (o.customer_id = c.id))) ORDER BY id

-- name: not exists
SELECT id FROM customers AS c WHERE NOT EXISTS (SELECT FROM orders AS o WHERE o.customer_id = c.id) ORDER BY id
-- becomes
SELECT id FROM customers AS c WHERE ("c"."tenant_id" = 1) AND (NOT EXISTS (SELECT FROM orders AS o WHERE ("o"."tenant_id" = 1) AND (o.customer_id = c.id))) ORDER BY id

-- name: scalar subquery
SELECT k.id, (SELECT count(*) FROM orders AS o WHERE o.customer_id = k.id) FROM categories AS k ORDER BY k.id
-- becomes
SELECT k.id, (SELECT count(*) FROM orders AS o WHERE ("o"."tenant_id" = 1) AND (o.customer_id = k.id)) FROM categories AS k ORDER BY k.id

-- name: CTE
WITH o AS (SELECT id FROM orders) SELECT count(*) FROM o
-- becomes
WITH o AS (SELECT id FROM orders WHERE ("orders"."tenant_id" = 1)) SELECT count(*) FROM o

-- name: a CTE of the table's name
WITH orders AS (SELECT 1 AS id) SELECT id FROM orders
-- becomes
WITH orders AS (SELECT 1 AS id) SELECT id FROM orders

-- name: union
SELECT id FROM orders UNION SELECT id FROM hr.orders ORDER BY id
-- becomes
SELECT id FROM orders WHERE ("orders"."tenant_id" = 1) UNION SELECT id FROM hr.orders ORDER BY id

-- name: lateral
SELECT c.id, l.n FROM customers AS c CROSS JOIN LATERAL (SELECT count(*) AS n FROM orders AS o WHERE o.customer_id = c.id) AS l ORDER BY c.id
-- becomes
SELECT c.id, l.n FROM customers AS c CROSS JOIN LATERAL (SELECT count(*) AS n FROM orders AS o WHERE ("o"."tenant_id" = 1) AND (o.customer_id = c.id)) AS l WHERE ("c"."tenant_id" = 1) ORDER BY c.id

-- name: the TABLE command
TABLE payments
-- becomes
SELECT * FROM payments WHERE ("payments"."tenant_id" = 1)

-- name: a whole row
SELECT o FROM orders AS o WHERE id < 10 ORDER BY id
-- becomes
SELECT o FROM orders AS o WHERE ("o"."tenant_id" = 1) AND (id < 10) ORDER BY id

-- name: ctid and a system column
SELECT id, tableoid::regclass::text FROM orders WHERE ctid IS NOT NULL ORDER BY id
-- becomes
SELECT id, tableoid::regclass::text FROM orders WHERE ("orders"."tenant_id" = 1) AND (ctid IS NOT NULL) ORDER BY id

-- name: group by the primary key
SELECT c.name, count(o.id) FROM customers AS c LEFT JOIN orders AS o ON o.customer_id = c.id GROUP BY c.id ORDER BY c.id
-- becomes
SELECT c.name, count(o.id) FROM customers AS c LEFT JOIN orders AS o ON ("o"."tenant_id" = 1) AND (o.customer_id = c.id) WHERE ("c"."tenant_id" = 1) GROUP BY c.id ORDER BY c.id

-- name: a view
SELECT order_id, total FROM order_totals ORDER BY order_id
-- becomes
SELECT order_id, total FROM (SELECT o.id AS order_id,
    o.customer_id,
    c.name,
    o.status,
    sum(((i.quantity)::numeric * (i.price)::numeric)) AS total,
    count(*) AS lines
   FROM ((public.orders o
     JOIN public.customers c ON ((c.id = o.customer_id)))
     JOIN public.order_items i ON ((i.order_id = o.id))) WHERE (("o"."tenant_id" = 1) AND ("c"."tenant_id" = 1))
  GROUP BY o.id, c.id) AS "order_totals" ORDER BY order_id

-- name: tablesample
SELECT count(*) FROM events TABLESAMPLE BERNOULLI (100) REPEATABLE (1)
-- becomes
SELECT count(*) FROM events TABLESAMPLE BERNOULLI (100) REPEATABLE (1) WHERE ("events"."tenant_id" = 1)

-- name: a trailing comment
SELECT id FROM orders -- all of them
-- becomes
SELECT id FROM orders WHERE ("orders"."tenant_id" = 1) -- all of them

-- name: a trailing semicolon
SELECT count(*) FROM orders;
-- becomes
SELECT count(*) FROM orders WHERE ("orders"."tenant_id" = 1);

-- name: update
UPDATE orders SET comment = 'x' WHERE id < 20
-- becomes
UPDATE orders SET comment = 'x' WHERE ("orders"."tenant_id" = 1) AND (id < 20)

-- name: update from
UPDATE orders AS o SET comment = c.name FROM customers AS c WHERE c.id = o.customer_id AND o.id < 20
-- becomes
UPDATE orders AS o SET comment = c.name FROM customers AS c WHERE (("o"."tenant_id" = 1) AND ("c"."tenant_id" = 1)) AND (c.id = o.customer_id AND o.id < 20)

-- name: delete
DELETE FROM events WHERE id < 20
-- becomes
DELETE FROM events WHERE ("events"."tenant_id" = 1) AND (id < 20)

-- name: delete using
DELETE FROM order_items AS i USING orders AS o WHERE o.id = i.order_id AND o.id < 20
-- becomes
DELETE FROM order_items AS i USING orders AS o WHERE ("o"."tenant_id" = 1) AND (o.id = i.order_id AND o.id < 20)

-- name: insert
INSERT INTO orders (tenant_id, customer_id, placed_at) VALUES (1, 4, '2025-01-01')
-- becomes
INSERT INTO orders (tenant_id, customer_id, placed_at) VALUES (1, 4, '2025-01-01') RETURNING CASE WHEN ("orders"."tenant_id" = 1) THEN true ELSE pg_catalog.concat('guarddb:row_filter_violation:public.orders', CASE WHEN "orders"."tenant_id" IS NULL THEN '' END)::pg_catalog.bool END

-- name: insert select from a filtered table
INSERT INTO hr.orders SELECT 900 + id, 1, comment FROM orders WHERE comment IS NOT NULL
-- becomes
INSERT INTO hr.orders SELECT 900 + id, 1, comment FROM orders WHERE ("orders"."tenant_id" = 1) AND (comment IS NOT NULL)

-- name: copy
COPY (SELECT id FROM orders) TO STDOUT
-- becomes
COPY (SELECT id FROM orders WHERE ("orders"."tenant_id" = 1)) TO STDOUT

-- name: copy of a table
COPY payments TO STDOUT
-- becomes
COPY (SELECT "id", "tenant_id", "order_id", "amount", "method", "card_number", "paid_at" FROM payments WHERE ("payments"."tenant_id" = 1)) TO STDOUT

-- name: explain
EXPLAIN SELECT id FROM orders
-- becomes
EXPLAIN (COSTS OFF) SELECT id FROM orders WHERE ("orders"."tenant_id" = 1)

-- name: explain with options
EXPLAIN (COSTS OFF) SELECT id FROM orders
-- becomes
EXPLAIN (COSTS OFF) SELECT id FROM orders WHERE ("orders"."tenant_id" = 1)

-- name: a comparison with what a sub-select finds keeps its index
SELECT id FROM orders WHERE customer_id = (SELECT id FROM customers WHERE name = 'x') ORDER BY id
-- becomes
SELECT id FROM orders WHERE ("orders"."tenant_id" = 1) AND (customer_id = (SELECT id FROM customers WHERE ("customers"."tenant_id" = 1) AND (name = 'x'))) AND CASE WHEN ((SELECT id FROM customers WHERE ("customers"."tenant_id" = 1) AND (name = 'x'))) IS NULL THEN true ELSE true END ORDER BY id

-- name: a sub-select with one row at the most cannot raise
SELECT id FROM orders WHERE id = (SELECT max(id) FROM orders)
-- becomes
SELECT id FROM orders WHERE ("orders"."tenant_id" = 1) AND (id = (SELECT max(id) FROM orders WHERE ("orders"."tenant_id" = 1)))

-- name: a moment near now
SELECT id FROM orders WHERE placed_at >= now() - interval '7 days' ORDER BY id
-- becomes
SELECT id FROM orders WHERE ("orders"."tenant_id" = 1) AND (placed_at >= now() - interval '7 days') ORDER BY id

-- name: a division by a constant returns for every number
SELECT id FROM orders WHERE id % 2 = 0 AND id / 2 > 1 AND id / 0.5 > 1 ORDER BY id
-- becomes
SELECT id FROM orders WHERE ("orders"."tenant_id" = 1) AND (id % 2 = 0 AND id / 2 > 1 AND id / 0.5 > 1) ORDER BY id

-- name: by -1 it may be too large, and by zero it raises
SELECT id FROM orders WHERE id / -1 > 0 OR id / 1 = 0
-- becomes
SELECT id FROM orders WHERE ("orders"."tenant_id" = 1) AND (CASE WHEN ("orders"."tenant_id" = 1) THEN (id / -1 > 0 OR id / 1 = 0) END)

-- name: a column that is computed further in
SELECT id FROM (SELECT id, 10 / id AS share FROM orders) AS s WHERE share > 0 AND id < 9 ORDER BY id
-- becomes
SELECT id FROM (SELECT id, CASE WHEN ("orders"."tenant_id" = 1) THEN (10 / id) END AS share FROM orders WHERE ("orders"."tenant_id" = 1)) AS s WHERE share > 0 AND id < 9 ORDER BY id

-- name: a condition from outside that a computed value meets
SELECT id FROM (SELECT id, customer_id FROM orders) AS s WHERE 10 / id > 0 AND customer_id < 9 ORDER BY id
-- becomes
SELECT id FROM (SELECT id, customer_id FROM (SELECT "orders"."id", "orders"."customer_id" FROM orders AS "orders" WHERE ("orders"."tenant_id" = 1) AND ("orders"."customer_id" < 9) OFFSET 0) AS "orders") AS s WHERE CASE WHEN (10 / id > 0) THEN true END AND (true OR (customer_id < 9)) ORDER BY id

-- name: a join that lives by an equality that tells
SELECT o.id, g FROM orders AS o JOIN generate_series(1, 3) AS g ON o.id + 1 = g WHERE o.customer_id > 0 ORDER BY 1
-- becomes
SELECT o.id, g FROM (SELECT "orders"."id", "orders"."customer_id" FROM orders AS "orders" WHERE ("orders"."tenant_id" = 1) AND ("orders"."customer_id" > 0) OFFSET 0) AS o JOIN generate_series(1, 3) AS g ON o.id + 1 = g WHERE (true OR (o.customer_id > 0)) ORDER BY 1

-- name: what an outer join asks of one table goes into its fence
SELECT g, o.id FROM generate_series(1, 3) AS g LEFT JOIN orders AS o ON o.id + 1 = g AND o.customer_id > 0 AND g < 3 ORDER BY 1
-- becomes
SELECT g, o.id FROM generate_series(1, 3) AS g LEFT JOIN (SELECT "orders"."id", "orders"."customer_id" FROM orders AS "orders" WHERE ("orders"."tenant_id" = 1) AND ("orders"."customer_id" > 0) OFFSET 0) AS o ON o.id + 1 = g AND (true OR (o.customer_id > 0)) AND g < 3 ORDER BY 1

-- name: alternatives go into the fence as one condition
SELECT o.id, g FROM orders AS o JOIN generate_series(1, 3) AS g ON o.id + 1 = g AND (o.customer_id > 0 OR o.customer_id < 9 OR o.id = 1) WHERE o.id = 1 OR o.id = 2 ORDER BY 1
-- becomes
SELECT o.id, g FROM (SELECT "orders"."id", "orders"."customer_id" FROM orders AS "orders" WHERE ("orders"."tenant_id" = 1) AND (("orders"."customer_id" > 0 OR "orders"."customer_id" < 9 OR "orders"."id" = 1)) AND ("orders"."id" = 1 OR "orders"."id" = 2) OFFSET 0) AS o JOIN generate_series(1, 3) AS g ON o.id + 1 = g AND (true OR ((o.customer_id > 0 OR o.customer_id < 9 OR o.id = 1))) WHERE o.id = 1 OR o.id = 2 ORDER BY 1

-- name: a sub-select that becomes a join is guarded inside
SELECT o.id FROM orders AS o WHERE EXISTS (SELECT 1 FROM order_items AS i WHERE i.order_id = o.id AND 10 / o.id > 0) ORDER BY 1
-- becomes
SELECT o.id FROM orders AS o WHERE ("o"."tenant_id" = 1) AND (EXISTS (SELECT 1 FROM order_items AS i WHERE i.order_id = o.id AND CASE WHEN ("o"."tenant_id" = 1) THEN (10 / o.id > 0) END)) ORDER BY 1

-- name: one that stays a sub-select is guarded outside
SELECT o.id FROM orders AS o WHERE (SELECT max(10 / i.quantity) FROM order_items AS i WHERE i.order_id = o.id) > 0 ORDER BY 1
-- becomes
SELECT o.id FROM orders AS o WHERE ("o"."tenant_id" = 1) AND (CASE WHEN ("o"."tenant_id" = 1) THEN ((SELECT max(10 / i.quantity) FROM order_items AS i WHERE i.order_id = o.id) > 0) END) ORDER BY 1

-- name: rows of columns are compared column by column
SELECT id FROM orders WHERE (id, customer_id) = (1, 2) AND row(id, 1) = ANY (ARRAY[row('x'::text, 1)])
-- becomes
SELECT id FROM orders WHERE ("orders"."tenant_id" = 1) AND ((id, customer_id) = (1, 2) AND CASE WHEN CASE WHEN ("orders"."tenant_id" = 1) THEN (row(id, 1) = ANY (ARRAY[row('x'::text, 1)])) END THEN NULL ELSE false END IS NULL)

-- name: a pattern that ends with its escape character
SELECT id FROM customers WHERE name LIKE 'zz\'
-- becomes
SELECT id FROM customers WHERE ("customers"."tenant_id" = 1) AND (CASE WHEN CASE WHEN ("customers"."tenant_id" = 1) THEN (name LIKE 'zz\') END THEN NULL ELSE false END IS NULL)

-- name: the primary key of an update stays open
UPDATE orders SET customer_id = customer_id WHERE id = (SELECT id FROM customers WHERE name = 'x')
-- becomes
UPDATE orders SET customer_id = customer_id WHERE ("orders"."tenant_id" = 1) AND (id = (SELECT id FROM customers WHERE ("customers"."tenant_id" = 1) AND (name = 'x'))) AND CASE WHEN ((SELECT id FROM customers WHERE ("customers"."tenant_id" = 1) AND (name = 'x'))) IS NULL THEN true ELSE true END

-- name: a group by position
SELECT o.id, o.customer_id, count(*) FROM orders AS o WHERE 10 / o.id > 0 GROUP BY 1 ORDER BY 1
-- becomes
SELECT o.id, o.customer_id, count(*) FROM orders AS o WHERE ("o"."tenant_id" = 1) AND (CASE WHEN ("o"."tenant_id" = 1) THEN (10 / o.id > 0) END) GROUP BY 1 ORDER BY 1
