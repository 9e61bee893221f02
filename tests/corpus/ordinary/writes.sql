-- Statements that write. Each is undone by whoever runs it.

-- name: insert one
INSERT INTO customers (tenant_id, name, country, created_at) VALUES (1, 'New Customer', 'DE', '2025-01-01 00:00+00')

-- name: insert returning
INSERT INTO categories (id, parent_id, name) VALUES (90, 1, 'Books') RETURNING id, name

-- name: insert several
INSERT INTO hr.leave_days (employee_id, day, reason) VALUES (1, '2025-01-02', 'holiday'), (2, '2025-01-03', NULL), (3, DATE '2025-01-04', DEFAULT)

-- name: insert default values
INSERT INTO settings (key, value) VALUES ('a', 'b') RETURNING updated_at

-- name: insert select
INSERT INTO hr.orders (id, employee_id, item) SELECT 1000 + id, id, 'Desk for ' || name FROM employees WHERE title = 'Manager'

-- name: insert with overriding
INSERT INTO products (id, category_id, sku, name, price) OVERRIDING SYSTEM VALUE VALUES (900, 4, 'SKU-9000', 'Vise', 49.90)

-- name: insert json and arrays
INSERT INTO events (tenant_id, kind, payload, labels, numbers, happened_at) VALUES (1, 'view', '{"user": 1}', ARRAY['web'], '{1,2}', '2025-01-01') RETURNING kind, payload

-- name: insert with a CTE
WITH latest AS (SELECT max(id) AS id FROM hr.orders) INSERT INTO hr.orders SELECT id + 1, 1, 'Lamp' FROM latest RETURNING id, item

-- name: upsert do nothing
INSERT INTO settings (key, value) VALUES ('currency', 'USD') ON CONFLICT DO NOTHING

-- name: upsert do update
INSERT INTO settings AS s (key, value) VALUES ('theme', 'light'), ('font', 'serif') ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value, updated_at = now() WHERE s.value <> EXCLUDED.value RETURNING key, value

-- name: upsert on a constraint
INSERT INTO settings VALUES ('theme', 'blue') ON CONFLICT ON CONSTRAINT settings_pkey DO UPDATE SET value = EXCLUDED.value

-- name: insert into a partitioned table
INSERT INTO measurements VALUES (9, '2025-06-01 00:00+00', 1.5) RETURNING tableoid::regclass::text, sensor

-- name: update through a view
UPDATE customer_contacts SET city = 'Lyon' WHERE country = 'FR' RETURNING id, city

-- name: update one
UPDATE customers SET city = 'Bonn' WHERE id = 5

-- name: update returning
UPDATE products SET stock = stock - 1 WHERE id = 3 AND stock > 0 RETURNING id, stock

-- name: update returning old and new
UPDATE products SET stock = stock + 5 WHERE id IN (1, 2) RETURNING id, old.stock AS before, new.stock AS after

-- name: update several columns
UPDATE orders SET (status, shipped_on) = ('shipped', '2025-02-01') WHERE id = 11

-- name: update from
UPDATE orders o SET comment = 'from ' || c.city FROM customers c WHERE c.id = o.customer_id AND c.country = 'NO' RETURNING o.id

-- name: update with subquery
UPDATE products SET discount = 0.1 WHERE category_id IN (SELECT id FROM categories WHERE name = 'Herbs')

-- name: update set to subselect
UPDATE orders SET total = (SELECT sum(i.quantity * i.price) FROM order_items i WHERE i.order_id = orders.id) WHERE id BETWEEN 1 AND 10

-- name: update json
UPDATE events SET payload = jsonb_set(payload, '{seen}', 'true') WHERE id < 5

-- name: update json subscript
UPDATE products SET attributes['color'] = '"blue"' WHERE id = 4 RETURNING attributes->>'color'

-- name: update array element
UPDATE events SET numbers[1] = 0, labels = labels || 'old'::text WHERE kind = 'error'

-- name: update with case
UPDATE customers SET score = CASE WHEN score > 50 THEN 50 ELSE coalesce(score, 0) END WHERE country = 'ES'

-- name: update default
UPDATE customers SET country = DEFAULT WHERE id = 9 RETURNING country

-- name: update partition
UPDATE measurements SET value = 0 WHERE sensor = 1 AND taken_at < '2024-12-01'

-- name: update with a CTE
WITH stale AS (SELECT id FROM orders WHERE status = 'new' AND placed_at < '2024-02-01') UPDATE orders SET status = 'cancelled' FROM stale WHERE stale.id = orders.id

-- name: delete one
DELETE FROM settings WHERE key = 'theme'

-- name: delete returning
DELETE FROM hr.leave_days WHERE employee_id = 3 RETURNING day

-- name: delete using
DELETE FROM order_items i USING orders o WHERE o.id = i.order_id AND o.status = 'cancelled' AND o.id < 50

-- name: delete with subquery
DELETE FROM events WHERE id IN (SELECT id FROM events WHERE kind = 'error' ORDER BY id LIMIT 5)

-- name: delete not exists
DELETE FROM hr.leave_days d WHERE NOT EXISTS (SELECT FROM hr.orders o WHERE o.employee_id = d.employee_id)

-- name: merge
MERGE INTO settings s USING (VALUES ('currency', 'CHF'), ('unit', 'kg')) AS v (key, value) ON s.key = v.key
WHEN MATCHED THEN UPDATE SET value = v.value WHEN NOT MATCHED THEN INSERT (key, value) VALUES (v.key, v.value)

-- name: merge with conditions and returning
MERGE INTO products p USING (SELECT product_id, sum(quantity) AS sold FROM order_items GROUP BY product_id) s ON s.product_id = p.id
WHEN MATCHED AND s.sold > p.stock THEN UPDATE SET stock = 0 WHEN MATCHED THEN UPDATE SET stock = p.stock - s.sold
RETURNING merge_action(), p.id, p.stock

-- name: merge delete
MERGE INTO settings s USING (VALUES ('theme')) AS v (key) ON s.key = v.key WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN DO NOTHING

-- name: move rows with a writable CTE
WITH gone AS (DELETE FROM hr.leave_days WHERE day < '2024-07-10' RETURNING employee_id, day) SELECT count(*) FROM gone

-- name: chained writable CTEs
WITH o AS (INSERT INTO orders (tenant_id, customer_id, placed_at) VALUES (2, 1, '2025-03-01 12:00+00') RETURNING id, tenant_id), i AS (INSERT INTO order_items SELECT o.id, 1, 2, 3, 9.99 FROM o RETURNING quantity)
SELECT o.tenant_id, i.quantity FROM o, i

-- name: update and read in one statement
WITH changed AS (UPDATE products SET price = price * 1.1 WHERE category_id = 4 RETURNING id) SELECT count(*) FROM changed JOIN products USING (id)

-- name: sqlalchemy insert
INSERT INTO orders (tenant_id, customer_id, status, total, placed_at) VALUES (2, 1, 'new', 0, '2025-01-01 00:00:00+00:00'::timestamptz) RETURNING orders.tenant_id, orders.status

-- name: sqlalchemy insertmanyvalues
INSERT INTO settings (key, value) SELECT p0::VARCHAR, p1::VARCHAR FROM (VALUES ('k1', 'v1', 0), ('k2', 'v2', 1)) AS imp_sen(p0, p1, sen_counter) ORDER BY sen_counter RETURNING settings.key, settings.key AS key__1

-- name: django update
UPDATE "customers" SET "active" = false WHERE "customers"."id" IN (3, 4, 5)

-- name: django delete
DELETE FROM "payments" WHERE "payments"."id" IN (1, 2)

-- name: django bulk create
INSERT INTO "hr"."leave_days" ("employee_id", "day", "reason") VALUES (1, '2025-05-01'::date, 'a'), (2, '2025-05-02'::date, 'b') ON CONFLICT DO NOTHING

-- name: django bulk update
UPDATE "products" SET "stock" = (CASE WHEN ("products"."id" = 1) THEN 11 WHEN ("products"."id" = 2) THEN 22 ELSE NULL END)::integer WHERE "products"."id" IN (1, 2)

-- name: activerecord touch
UPDATE "settings" SET "updated_at" = '2025-01-01 10:00:00' WHERE "settings"."key" = 'language'

-- name: activerecord upsert
INSERT INTO "settings" ("key","value") VALUES ('language', 'fr') ON CONFLICT ("key") DO UPDATE SET "value"=excluded."value" RETURNING "key"

-- name: explain a write
EXPLAIN (COSTS OFF) UPDATE products SET stock = 0 WHERE id = 1
