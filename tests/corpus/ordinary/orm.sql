-- What object-relational mappers send, with literals in place of parameters.

-- name: sqlalchemy select
SELECT customers.id, customers.tenant_id, customers.name, customers.city
FROM customers
WHERE customers.active = true AND customers.country IN ('DE', 'FR') ORDER BY customers.id
 LIMIT 20 OFFSET 0

-- name: sqlalchemy joined load
SELECT orders.id AS orders_id, orders.total AS orders_total, customers_1.id AS customers_1_id, customers_1.name AS customers_1_name
FROM orders LEFT OUTER JOIN customers AS customers_1 ON customers_1.id = orders.customer_id
WHERE orders.status = 'paid' ORDER BY orders.id

-- name: sqlalchemy selectin load
SELECT order_items.order_id AS order_items_order_id, order_items.line AS order_items_line, order_items.quantity AS order_items_quantity
FROM order_items
WHERE order_items.order_id IN (1, 2, 3, 4, 5) ORDER BY order_items.order_id, order_items.line

-- name: sqlalchemy subquery count
SELECT count(*) AS count_1
FROM (SELECT orders.id AS orders_id, orders.tenant_id AS orders_tenant_id
FROM orders
WHERE orders.total > 100) AS anon_1

-- name: sqlalchemy exists
SELECT EXISTS (SELECT 1
FROM customers
WHERE customers.id = 7) AS anon_1

-- name: sqlalchemy server version
select pg_catalog.version()

-- name: sqlalchemy current schema
select current_schema()

-- name: sqlalchemy standard_conforming_strings
show standard_conforming_strings

-- name: sqlalchemy has table
SELECT pg_catalog.pg_class.relname
FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_catalog.pg_namespace.oid = pg_catalog.pg_class.relnamespace
WHERE pg_catalog.pg_class.relname = 'customers' AND pg_catalog.pg_class.relkind = ANY (ARRAY['r', 'p', 'f', 'v', 'm']) AND pg_catalog.pg_table_is_visible(pg_catalog.pg_class.oid) AND pg_catalog.pg_namespace.nspname != 'pg_catalog'

-- name: sqlalchemy reflection
SELECT a.attname AS name, pg_catalog.format_type(a.atttypid, a.atttypmod) AS format_type, a.attnotnull AS not_null, c.relname AS table_name, pg_catalog.col_description(a.attrelid, a.attnum) AS comment
FROM pg_catalog.pg_class AS c LEFT OUTER JOIN pg_catalog.pg_attribute AS a ON c.oid = a.attrelid AND a.attnum > 0 AND NOT a.attisdropped JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = ANY (ARRAY['r', 'p']) AND n.nspname = 'hr' ORDER BY c.relname, a.attnum

-- name: django select
SELECT "customers"."id", "customers"."tenant_id", "customers"."name", "customers"."city" FROM "customers" WHERE ("customers"."active" AND NOT ("customers"."country" = 'DE' AND "customers"."country" IS NOT NULL)) ORDER BY "customers"."name" ASC, "customers"."id" ASC LIMIT 21

-- name: django related filter
SELECT "orders"."id", "orders"."total" FROM "orders" INNER JOIN "customers" ON ("orders"."customer_id" = "customers"."id") WHERE ("customers"."city"::text LIKE '%er%' AND "orders"."placed_at" BETWEEN '2024-01-01T00:00:00+00:00'::timestamptz AND '2024-12-31T23:59:59+00:00'::timestamptz) ORDER BY "orders"."id" ASC

-- name: django annotate
SELECT "customers"."id", "customers"."name", COUNT("orders"."id") AS "order_count" FROM "customers" LEFT OUTER JOIN "orders" ON ("customers"."id" = "orders"."customer_id") GROUP BY "customers"."id" HAVING COUNT("orders"."id") > 1 ORDER BY "order_count" DESC, "customers"."id" ASC

-- name: django exists
SELECT 1 AS "a" FROM "orders" WHERE "orders"."customer_id" = 8 LIMIT 1

-- name: django case-insensitive
SELECT "products"."id", "products"."name" FROM "products" WHERE UPPER("products"."name"::text) LIKE UPPER('%basil%') ORDER BY "products"."id" ASC

-- name: django aggregate
SELECT AVG("orders"."total") AS "total__avg", COUNT(*) AS "__count" FROM "orders" WHERE "orders"."status" IN ('paid', 'shipped')

-- name: django date trunc
SELECT DATE_TRUNC('month', "orders"."placed_at" AT TIME ZONE 'UTC') AS "month", COUNT("orders"."id") AS "n" FROM "orders" GROUP BY 1 ORDER BY 1 ASC

-- name: django subquery annotation
SELECT "customers"."id", (SELECT U0."total" FROM "orders" U0 WHERE U0."customer_id" = ("customers"."id") ORDER BY U0."placed_at" DESC LIMIT 1) AS "last_total" FROM "customers" ORDER BY "customers"."id" ASC LIMIT 21

-- name: django prefetch
SELECT "order_items"."order_id", "order_items"."line", "order_items"."product_id" FROM "order_items" WHERE "order_items"."order_id" IN (10, 11, 12) ORDER BY "order_items"."order_id" ASC, "order_items"."line" ASC

-- name: django introspection
SELECT c.relname, CASE WHEN c.relispartition THEN 'p' WHEN c.relkind IN ('m', 'v') THEN 'v' ELSE 't' END, obj_description(c.oid, 'pg_class') FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('f', 'm', 'p', 'r', 'v') AND n.nspname NOT IN ('pg_catalog', 'pg_toast') AND pg_catalog.pg_table_is_visible(c.oid) ORDER BY c.relname

-- name: activerecord find
SELECT "products".* FROM "products" WHERE "products"."id" = 3 LIMIT 1

-- name: activerecord includes
SELECT "orders".* FROM "orders" WHERE "orders"."customer_id" IN (1, 8, 15) ORDER BY "orders"."id"

-- name: activerecord joins with group
SELECT COUNT(*) AS "count_all", "categories"."name" AS "categories_name" FROM "products" INNER JOIN "categories" ON "categories"."id" = "products"."category_id" GROUP BY "categories"."name" ORDER BY "categories"."name"

-- name: activerecord or
SELECT "customers"."id" FROM "customers" WHERE ("customers"."city" = 'Oslo' OR "customers"."score" IS NULL) AND "customers"."id" >= 10 ORDER BY "customers"."id" ASC LIMIT 1000

-- name: activerecord pluck
SELECT DISTINCT "orders"."status" FROM "orders" ORDER BY "orders"."status"

-- name: prisma pagination
SELECT "public"."products"."id", "public"."products"."sku" FROM "public"."products" WHERE ("public"."products"."stock" > 10 AND 1=1) ORDER BY "public"."products"."id" ASC LIMIT 10 OFFSET 0

-- name: information schema columns
SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns WHERE table_schema = 'public' AND table_name = 'orders' ORDER BY ordinal_position

-- name: information schema keys
SELECT kcu.column_name FROM information_schema.table_constraints tc JOIN information_schema.key_column_usage kcu USING (constraint_schema, constraint_name, table_name) WHERE tc.constraint_type = 'PRIMARY KEY' AND tc.table_name = 'order_items' ORDER BY kcu.ordinal_position

-- name: foreign keys by catalog
SELECT conname, conrelid::regclass::text AS child, confrelid::regclass::text AS parent, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'f' ORDER BY 2, 1

-- name: indexes by catalog
SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename = 'orders' ORDER BY indexname
