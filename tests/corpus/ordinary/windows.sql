-- Window functions and recursion.

-- name: row_number
SELECT id, customer_id, row_number() OVER (PARTITION BY customer_id ORDER BY placed_at) AS n FROM orders ORDER BY id LIMIT 30

-- name: rank and dense_rank
SELECT id, price, rank() OVER w, dense_rank() OVER w, percent_rank() OVER w FROM products WINDOW w AS (ORDER BY stock) ORDER BY id

-- name: running total
SELECT id, total, sum(total) OVER (ORDER BY placed_at, id ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS running FROM orders ORDER BY id

-- name: moving average
SELECT id, round(avg(total) OVER (ORDER BY id ROWS 6 PRECEDING), 2) AS week FROM orders ORDER BY id

-- name: lag and lead
SELECT id, total - lag(total, 1, 0::numeric) OVER (ORDER BY id) AS change, lead(id) OVER (ORDER BY id) AS next FROM orders ORDER BY id LIMIT 20

-- name: first and last value
SELECT DISTINCT category_id, first_value(name) OVER w AS cheapest, last_value(name) OVER w AS dearest FROM products
WINDOW w AS (PARTITION BY category_id ORDER BY price, id RANGE BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) ORDER BY category_id

-- name: ntile
SELECT id, ntile(4) OVER (ORDER BY total, id) AS quartile FROM orders ORDER BY id

-- name: groups frame with exclusion
SELECT id, count(*) OVER (ORDER BY status GROUPS BETWEEN 1 PRECEDING AND 1 FOLLOWING EXCLUDE TIES) FROM orders ORDER BY id LIMIT 10

-- name: nth_value
SELECT id, nth_value(name, 2) OVER (ORDER BY id) FROM categories ORDER BY id

-- name: window filter
SELECT id, count(*) FILTER (WHERE active) OVER (ORDER BY id) AS active_so_far FROM customers ORDER BY id LIMIT 15

-- name: latest row per group
SELECT * FROM (SELECT o.id, o.customer_id, row_number() OVER (PARTITION BY customer_id ORDER BY placed_at DESC) AS n FROM orders o) t WHERE n = 1 ORDER BY customer_id

-- name: islands
SELECT min(id) AS first, max(id) AS last, count(*) FROM (SELECT id, id - row_number() OVER (ORDER BY id) AS island FROM orders WHERE status <> 'new') t GROUP BY island ORDER BY 1 LIMIT 10

-- name: category tree
WITH RECURSIVE tree AS (
  SELECT id, name, 1 AS depth, ARRAY[id] AS path FROM categories WHERE parent_id IS NULL
  UNION ALL
  SELECT c.id, c.name, t.depth + 1, t.path || c.id FROM categories c JOIN tree t ON c.parent_id = t.id
)
SELECT id, repeat('  ', depth - 1) || name AS name, depth FROM tree ORDER BY path

-- name: chain of managers
WITH RECURSIVE chain AS (
  SELECT id, manager_id, name, 0 AS up FROM employees WHERE id = 30
  UNION ALL SELECT e.id, e.manager_id, e.name, up + 1 FROM employees e JOIN chain ON e.id = chain.manager_id
)
SELECT up, name FROM chain ORDER BY up

-- name: recursive search and cycle
WITH RECURSIVE tree (id, parent_id) AS (
  SELECT id, parent_id FROM categories WHERE id = 1
  UNION ALL SELECT c.id, c.parent_id FROM categories c, tree t WHERE c.parent_id = t.id
) SEARCH BREADTH FIRST BY id SET ordering CYCLE id SET is_cycle USING path
SELECT id, is_cycle FROM tree ORDER BY ordering

-- name: recursive series
WITH RECURSIVE t (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM t WHERE n < 10) SELECT sum(n) FROM t

-- name: materialized and inlined CTEs
WITH a AS MATERIALIZED (SELECT id, total FROM orders WHERE total > 100), b AS NOT MATERIALIZED (SELECT * FROM a WHERE id < 50)
SELECT count(*), sum(total) FROM b

-- name: CTE with the name of a table
WITH orders AS (SELECT 1 AS id, 'not the table' AS note) SELECT id, note FROM orders

-- name: nested CTE
WITH outermost AS (WITH innermost AS (SELECT id FROM customers WHERE country = 'NO') SELECT id FROM innermost) SELECT count(*) FROM outermost
