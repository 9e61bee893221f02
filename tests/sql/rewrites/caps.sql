-- policy: capped
-- max_rows: 3.

-- name: no limit of its own
SELECT id FROM orders ORDER BY id
-- becomes
SELECT id FROM orders ORDER BY id LIMIT 4

-- name: an aggregate of everything
SELECT count(*), max(id) + 1 FROM orders WHERE id > 3
-- becomes
SELECT count(*), max(id) + 1 FROM orders WHERE id > 3

-- name: nothing is read
SELECT EXISTS (SELECT 1 FROM orders WHERE id = 4), 1 + 2
-- becomes
SELECT EXISTS (SELECT 1 FROM orders WHERE id = 4), 1 + 2

-- name: an aggregate by group
SELECT status, count(*) FROM orders GROUP BY status ORDER BY status
-- becomes
SELECT status, count(*) FROM orders GROUP BY status ORDER BY status LIMIT 4

-- name: an aggregate over a window
SELECT count(*) OVER () FROM orders
-- becomes
SELECT count(*) OVER () FROM orders LIMIT 4

-- name: a row for each of a set
SELECT count(*), generate_series(1, 9) FROM orders
-- becomes
SELECT count(*), generate_series(1, 9) FROM orders LIMIT 4

-- name: a smaller limit
SELECT id FROM orders ORDER BY id LIMIT 2
-- becomes
SELECT id FROM orders ORDER BY id LIMIT 2

-- name: a larger limit
SELECT id FROM orders ORDER BY id LIMIT 50
-- becomes
SELECT id FROM orders ORDER BY id LIMIT 4

-- name: an offset alone
SELECT id FROM orders ORDER BY id OFFSET 10
-- becomes
SELECT id FROM orders ORDER BY id OFFSET 10 LIMIT 4

-- name: limit all
SELECT id FROM orders ORDER BY id LIMIT ALL OFFSET 2
-- becomes
SELECT id FROM orders ORDER BY id LIMIT 4 OFFSET 2

-- name: fetch first
SELECT id FROM orders ORDER BY id FETCH FIRST 10 ROWS ONLY
-- becomes
SELECT id FROM orders ORDER BY id FETCH FIRST 4 ROWS ONLY

-- name: fetch next after an offset
SELECT id FROM orders ORDER BY id OFFSET 2 ROWS FETCH NEXT 10 ROWS ONLY
-- becomes
SELECT id FROM orders ORDER BY id OFFSET 2 ROWS FETCH NEXT 4 ROWS ONLY

-- name: fetch one row
SELECT id FROM orders ORDER BY id FETCH FIRST ROW ONLY
-- becomes
SELECT id FROM orders ORDER BY id FETCH FIRST ROW ONLY

-- name: a computed limit
SELECT id FROM orders ORDER BY id LIMIT 5 * 2
-- becomes
SELECT id FROM orders ORDER BY id LIMIT (LEAST((5 * 2)::pg_catalog.int8, 4))

-- name: a limit from a subquery
SELECT id FROM orders ORDER BY id LIMIT (SELECT count(*) FROM orders)
-- becomes
SELECT id FROM orders ORDER BY id LIMIT (LEAST(((SELECT count(*) FROM orders))::pg_catalog.int8, 4))

-- name: with ties
SELECT quantity FROM order_items ORDER BY quantity FETCH FIRST 1 ROW WITH TIES
-- becomes
SELECT quantity FROM order_items ORDER BY quantity FETCH FIRST 1 ROW WITH TIES

-- name: a union
SELECT id FROM orders UNION ALL SELECT id FROM hr.orders ORDER BY id
-- becomes
SELECT id FROM orders UNION ALL SELECT id FROM hr.orders ORDER BY id LIMIT 4

-- name: values
VALUES (1), (2), (3), (4), (5)
-- becomes
VALUES (1), (2), (3), (4), (5) LIMIT 4

-- name: the TABLE command
TABLE categories
-- becomes
TABLE categories LIMIT 4

-- name: a CTE
WITH o AS (SELECT id FROM orders ORDER BY id) SELECT id FROM o
-- becomes
WITH o AS (SELECT id FROM orders ORDER BY id) SELECT id FROM o LIMIT 4

-- name: the subquery stays
SELECT count(*) FROM (SELECT id FROM orders) AS q
-- becomes
SELECT count(*) FROM (SELECT id FROM orders) AS q

-- name: for update
SELECT id FROM orders ORDER BY id FOR UPDATE
-- becomes
SELECT id FROM orders ORDER BY id LIMIT 4 FOR UPDATE

-- name: a trailing comment
SELECT id FROM orders ORDER BY id -- newest last
-- becomes
SELECT id FROM orders ORDER BY id LIMIT 4 -- newest last

-- name: parentheses
(SELECT id FROM orders ORDER BY id)
-- becomes
(SELECT id FROM orders ORDER BY id) LIMIT 4

-- name: copy
COPY (SELECT id FROM orders ORDER BY id) TO STDOUT
-- becomes
COPY (SELECT id FROM orders ORDER BY id LIMIT 3) TO STDOUT

-- name: explain
EXPLAIN (COSTS OFF) SELECT id FROM hr.orders
-- becomes
EXPLAIN (COSTS OFF) SELECT id FROM hr.orders

-- name: an insert stays
INSERT INTO settings SELECT 'k' || g, 'v' FROM generate_series(1, 9) AS g
-- becomes
INSERT INTO settings SELECT 'k' || g, 'v' FROM generate_series(1, 9) AS g
