-- Joins of every kind, subqueries, set operations.

-- name: inner join three tables
SELECT o.id, c.name, p.name AS product, i.quantity
FROM orders o JOIN customers c ON c.id = o.customer_id JOIN order_items i ON i.order_id = o.id
JOIN products p ON p.id = i.product_id WHERE o.id <= 5 ORDER BY o.id, i.line

-- name: left join anti
SELECT c.id, c.name FROM customers c LEFT JOIN orders o ON o.customer_id = c.id AND o.status = 'delivered' WHERE o.id IS NULL ORDER BY c.id

-- name: right join
SELECT p.name, cat.name AS category FROM products p RIGHT JOIN categories cat ON cat.id = p.category_id ORDER BY cat.id, p.id

-- name: full join
SELECT coalesce(o.id, h.id) AS id, o.total, h.item FROM orders o FULL JOIN hr.orders h ON h.id = o.id + 290 ORDER BY 1, h.item

-- name: cross join
SELECT a.name, b.name FROM categories a CROSS JOIN categories b WHERE a.id < b.id ORDER BY a.id, b.id

-- name: join using
SELECT order_id, o.total, t.lines FROM order_totals t JOIN (SELECT id AS order_id, total FROM orders) o USING (order_id) ORDER BY order_id LIMIT 20

-- name: natural join
SELECT id, item, title FROM (SELECT employee_id AS id, item FROM hr.orders) a NATURAL JOIN (SELECT id, title FROM employees) b ORDER BY id, item

-- name: self join
SELECT e.name, m.name AS manager FROM employees e LEFT JOIN employees m ON m.id = e.manager_id ORDER BY e.id

-- name: exists
SELECT id, name FROM customers c WHERE EXISTS (SELECT 1 FROM orders o WHERE o.customer_id = c.id AND o.total > 400) ORDER BY id

-- name: not exists
SELECT id FROM products p WHERE NOT EXISTS (SELECT FROM order_items i WHERE i.product_id = p.id AND i.quantity = 4 AND i.order_id < 40) ORDER BY id

-- name: in subquery
SELECT id, total FROM orders WHERE customer_id IN (SELECT id FROM customers WHERE country = 'IT') ORDER BY id

-- name: not in list
SELECT id, name FROM categories WHERE id NOT IN (1, 2, 3) ORDER BY id

-- name: any and all
SELECT id, price FROM products WHERE price > ALL (SELECT price FROM order_items WHERE order_id < 3) OR id = ANY (ARRAY[1, 2]) ORDER BY id

-- name: scalar subquery
SELECT id, name, (SELECT count(*) FROM orders o WHERE o.customer_id = c.id) AS orders FROM customers c ORDER BY id LIMIT 20

-- name: derived table
SELECT avg(n) AS mean FROM (SELECT customer_id, count(*) AS n FROM orders GROUP BY customer_id) per_customer

-- name: union
SELECT city FROM customers UNION SELECT 'Atlantis' ORDER BY city

-- name: union all
SELECT id, 'shop' AS source FROM orders WHERE id < 4 UNION ALL SELECT id, 'hr' FROM hr.orders WHERE id < 4 ORDER BY 2, 1

-- name: intersect
SELECT id FROM customers WHERE active INTERSECT SELECT customer_id FROM orders ORDER BY 1

-- name: except
SELECT id FROM products EXCEPT ALL SELECT product_id FROM order_items WHERE order_id < 10 ORDER BY 1

-- name: nested set operations
(SELECT 1 AS n UNION SELECT 2) EXCEPT (SELECT 2 INTERSECT SELECT 2) ORDER BY n

-- name: values
VALUES (1, 'one'), (2, 'two'), (3, NULL)

-- name: join with values
SELECT c.id, c.name, v.label FROM customers c JOIN (VALUES ('DE', 'Germany'), ('FR', 'France')) AS v (code, label) ON v.code = c.country ORDER BY c.id LIMIT 10

-- name: table command
TABLE categories ORDER BY id

-- name: same name in two schemas
SELECT s.id, s.status, h.item FROM public.orders s JOIN hr.orders h ON h.id = s.id ORDER BY s.id

-- name: quoted and accented names
SELECT "Id", "Größe", "select", "Mixed Case" FROM "Orders Détail" WHERE "Mixed Case" ORDER BY "Id"

-- name: row comparison
SELECT id FROM orders WHERE ROW(status, customer_id) = ROW('paid'::order_status, 8) ORDER BY id

-- name: parenthesised join tree
SELECT o.id, p.amount FROM (orders o JOIN customers c ON c.id = o.customer_id) LEFT JOIN (payments p JOIN settings s ON s.key = 'currency') ON p.order_id = o.id WHERE c.city = 'Rome' ORDER BY o.id

-- name: lateral unnest with ordinality
SELECT p.id, t.tag, t.n FROM products p, unnest(p.tags) WITH ORDINALITY AS t (tag, n) ORDER BY p.id, t.n LIMIT 10

-- name: rows from
SELECT * FROM ROWS FROM (generate_series(1, 3), unnest(ARRAY['a', 'b'])) AS r (n, letter)

-- name: column aliases
SELECT x.a, x.b FROM (SELECT id, name FROM categories) AS x (a, b) ORDER BY x.a
