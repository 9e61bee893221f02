-- policy: together
-- Masks, filters and max_rows: 3 at once.

-- name: a list
SELECT id, name, ssn FROM customers ORDER BY id
-- becomes
SELECT id, name, CASE WHEN ssn IS NOT NULL THEN '[redacted]'::"pg_catalog"."bpchar" END AS "ssn" FROM customers WHERE ("customers"."tenant_id" = 1) ORDER BY id LIMIT 4

-- name: a star
SELECT * FROM payments ORDER BY id
-- becomes
SELECT "payments"."id", "payments"."tenant_id", "payments"."order_id", "payments"."amount", "payments"."method", CASE WHEN "payments"."card_number" IS NOT NULL THEN '[redacted]'::"pg_catalog"."text" END AS "card_number", "payments"."paid_at" FROM payments WHERE ("payments"."tenant_id" = 1) ORDER BY id LIMIT 4

-- name: a join
SELECT c.email, o.total FROM customers AS c JOIN orders AS o ON o.customer_id = c.id ORDER BY o.id
-- becomes
SELECT pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to((c.email)::pg_catalog.text, 'UTF8')), 'hex') AS "email", o.total FROM customers AS c JOIN orders AS o ON o.customer_id = c.id WHERE (("c"."tenant_id" = 1) AND ("o"."tenant_id" = 1)) ORDER BY o.id LIMIT 4

-- name: a left join
SELECT o.id, p.card_number FROM orders AS o LEFT JOIN payments AS p ON p.order_id = o.id ORDER BY o.id
-- becomes
SELECT o.id, CASE WHEN p.card_number IS NOT NULL THEN '[redacted]'::"pg_catalog"."text" END AS "card_number" FROM orders AS o LEFT JOIN payments AS p ON ("p"."tenant_id" = 1) AND (p.order_id = o.id) WHERE ("o"."tenant_id" = 1) ORDER BY o.id LIMIT 4

-- name: a CTE and a union
WITH c AS (SELECT id, ssn FROM customers) SELECT ssn FROM c UNION ALL SELECT card_number FROM payments
-- becomes
WITH c AS (SELECT id, CASE WHEN ssn IS NOT NULL THEN '[redacted]'::"pg_catalog"."bpchar" END AS "ssn" FROM customers WHERE ("customers"."tenant_id" = 1)) SELECT ssn FROM c UNION ALL SELECT CASE WHEN card_number IS NOT NULL THEN '[redacted]'::"pg_catalog"."text" END AS "card_number" FROM payments WHERE ("payments"."tenant_id" = 1) LIMIT 4

-- name: the TABLE command
TABLE payments
-- becomes
SELECT "payments"."id", "payments"."tenant_id", "payments"."order_id", "payments"."amount", "payments"."method", CASE WHEN "payments"."card_number" IS NOT NULL THEN '[redacted]'::"pg_catalog"."text" END AS "card_number", "payments"."paid_at" FROM payments WHERE ("payments"."tenant_id" = 1) LIMIT 4

-- name: a subquery with its own limit
SELECT ssn FROM (SELECT * FROM customers ORDER BY id LIMIT 2) AS q
-- becomes
SELECT ssn FROM (SELECT "customers"."id", "customers"."tenant_id", "customers"."name", pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(("customers"."email")::pg_catalog.text, 'UTF8')), 'hex') AS "email", CASE WHEN "customers"."ssn" IS NOT NULL THEN '[redacted]'::"pg_catalog"."bpchar" END AS "ssn", "customers"."city", "customers"."country", "customers"."created_at", "customers"."birthday", "customers"."score", "customers"."active", "customers"."home", "customers"."notes" FROM customers WHERE ("customers"."tenant_id" = 1) ORDER BY id LIMIT 2) AS q LIMIT 4

-- name: non-ASCII text
SELECT 'Größe', ssn FROM customers AS "Kunden ä" WHERE city = 'Málaga'
-- becomes
SELECT 'Größe', CASE WHEN ssn IS NOT NULL THEN '[redacted]'::"pg_catalog"."bpchar" END AS "ssn" FROM customers AS "Kunden ä" WHERE ("Kunden ä"."tenant_id" = 1) AND (city = 'Málaga') LIMIT 4

-- name: several statements
SELECT ssn FROM customers ORDER BY id; SELECT id FROM orders ORDER BY id LIMIT 1
-- becomes
SELECT CASE WHEN ssn IS NOT NULL THEN '[redacted]'::"pg_catalog"."bpchar" END AS "ssn" FROM customers WHERE ("customers"."tenant_id" = 1) ORDER BY id LIMIT 4; SELECT id FROM orders WHERE ("orders"."tenant_id" = 1) ORDER BY id LIMIT 1
