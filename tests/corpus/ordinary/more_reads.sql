-- Views, partitions, inheritance, vectors, EXPLAIN, SHOW, and the columns that profiles like to mask, selected bare.

-- name: plain view
SELECT id, name, city FROM customer_contacts ORDER BY id LIMIT 10

-- name: aggregating view
SELECT order_id, name, total, lines FROM order_totals WHERE status = 'paid' ORDER BY order_id

-- name: nested view
SELECT count(*), max(total) FROM big_orders

-- name: security barrier view
SELECT name FROM tenant_one_customers ORDER BY id

-- name: view across schemas
SELECT id, item FROM order_names WHERE item IS NOT NULL ORDER BY id

-- name: materialised view
SELECT month, orders, revenue FROM monthly_sales ORDER BY month

-- name: partitioned table
SELECT sensor, count(value), round(max(value)::numeric, 3) FROM measurements WHERE taken_at >= '2024-12-15' GROUP BY sensor ORDER BY sensor

-- name: one partition
SELECT count(*) FROM measurements_2024

-- name: inheritance with children
SELECT id, title FROM documents ORDER BY id

-- name: inheritance without children
SELECT id, title FROM ONLY documents ORDER BY id

-- name: which table a row is in
SELECT tableoid::regclass::text AS source, count(*) FROM documents GROUP BY 1 ORDER BY 1

-- name: vector neighbours
SELECT id, name FROM products ORDER BY embedding <-> '[1,2,3]', id LIMIT 5

-- name: vector cosine and inner product
SELECT id, round((embedding <=> '[1,1,1]')::numeric, 4) AS cosine, (embedding <#> '[1,1,1]') * -1 AS inner FROM products WHERE id <> 35 ORDER BY id LIMIT 10

-- name: vector functions
SELECT id, vector_dims(embedding), round(l2_distance(embedding, '[0,0,0]')::numeric, 4) FROM products ORDER BY id LIMIT 5

-- name: vector average
SELECT category_id, avg(embedding) FROM products GROUP BY category_id ORDER BY category_id

-- name: explain
EXPLAIN (COSTS OFF) SELECT id FROM orders WHERE customer_id = 8 ORDER BY placed_at

-- name: explain json
EXPLAIN (FORMAT JSON, COSTS OFF) SELECT count(*) FROM products

-- name: explain analyze
EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF) SELECT count(*) FROM categories

-- name: show setting
SHOW timezone

-- name: show isolation
SHOW transaction_isolation

-- name: current_setting
SELECT current_setting('server_version_num')::int >= 160000 AS recent, current_database() IS NOT NULL AS here, current_user AS me

-- name: comments and hints
/*+ SeqScan(o) */ SELECT /* inline */ o.id -- trailing
FROM orders o /* nested /* comment */ */ WHERE o.id < 4 ORDER BY o.id

-- name: trailing semicolon
SELECT 1 AS one;

-- name: no from
SELECT 1 + 1 AS two, 'text' AS t, NULL AS nothing

-- name: star
SELECT * FROM categories ORDER BY id

-- name: qualified star
SELECT c.*, p.sku FROM categories c JOIN products p ON p.category_id = c.id ORDER BY p.id LIMIT 5

-- name: generated column
SELECT sku, price, discount, net_price FROM products WHERE discount > 0 ORDER BY id

-- name: contact list
SELECT id, name, email FROM customers ORDER BY id LIMIT 10

-- name: one customer, every identifying column
SELECT id, name, ssn, email FROM customers WHERE id = 12

-- name: salaries
SELECT id, name, salary FROM employees ORDER BY id

-- name: card payments
SELECT id, amount, card_number FROM payments WHERE method = 'card' ORDER BY id LIMIT 10

-- name: contacts by view
SELECT name, email FROM customer_contacts WHERE country = 'FR' ORDER BY id

-- name: identifying columns through a CTE
WITH people AS (SELECT id, name, ssn AS social FROM customers) SELECT p.name, p.social FROM people p WHERE p.id < 5 ORDER BY p.id

-- name: orders by view and employee
SELECT s.name, s.manager, count(h.id) AS chairs FROM staff s LEFT JOIN hr.orders h ON h.employee_id = s.id GROUP BY s.id, s.name, s.manager ORDER BY s.id

-- name: tenants
SELECT tenant_id, count(*) FROM customers GROUP BY tenant_id ORDER BY tenant_id

-- name: one tenant
SELECT o.id, p.amount FROM orders o LEFT JOIN payments p ON p.order_id = o.id AND p.tenant_id = o.tenant_id WHERE o.tenant_id = 2 ORDER BY o.id, p.id
