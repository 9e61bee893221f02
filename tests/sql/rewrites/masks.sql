-- policy: masked_rw
-- Columns of customers: ssn redact, email hash; employees.salary null; payments.card_number redact.

-- name: a bare column
SELECT id, ssn FROM customers ORDER BY id
-- becomes
SELECT id, CASE WHEN ssn IS NOT NULL THEN '[redacted]'::"pg_catalog"."bpchar" END AS "ssn" FROM customers ORDER BY id

-- name: an alias stays
SELECT ssn AS number FROM customers ORDER BY id
-- becomes
SELECT CASE WHEN ssn IS NOT NULL THEN '[redacted]'::"pg_catalog"."bpchar" END AS number FROM customers ORDER BY id

-- name: a qualified column keeps its own name
SELECT c.ssn, c.email FROM customers AS c ORDER BY c.id
-- becomes
SELECT CASE WHEN c.ssn IS NOT NULL THEN '[redacted]'::"pg_catalog"."bpchar" END AS "ssn", pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to((c.email)::pg_catalog.text, 'UTF8')), 'hex') AS "email" FROM customers AS c ORDER BY c.id

-- name: a hash
SELECT email FROM customers ORDER BY id
-- becomes
SELECT pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to((email)::pg_catalog.text, 'UTF8')), 'hex') AS "email" FROM customers ORDER BY id

-- name: null of the column's own type
SELECT id, salary FROM employees ORDER BY id
-- becomes
SELECT id, NULL::"pg_catalog"."numeric" AS "salary" FROM employees ORDER BY id

-- name: a star
SELECT * FROM employees ORDER BY id
-- becomes
SELECT "employees"."id", "employees"."manager_id", "employees"."name", "employees"."title", "employees"."department", NULL::"pg_catalog"."numeric" AS "salary", "employees"."hired_on" FROM employees ORDER BY id

-- name: a star of one of two
SELECT e.*, h.item FROM employees AS e JOIN hr.orders AS h ON h.employee_id = e.id ORDER BY e.id, h.id
-- becomes
SELECT "e"."id", "e"."manager_id", "e"."name", "e"."title", "e"."department", NULL::"pg_catalog"."numeric" AS "salary", "e"."hired_on", h.item FROM employees AS e JOIN hr.orders AS h ON h.employee_id = e.id ORDER BY e.id, h.id

-- name: a star that carries no mask stays
SELECT h.*, e.salary FROM employees AS e JOIN hr.orders AS h ON h.employee_id = e.id ORDER BY e.id, h.id
-- becomes
SELECT h.*, NULL::"pg_catalog"."numeric" AS "salary" FROM employees AS e JOIN hr.orders AS h ON h.employee_id = e.id ORDER BY e.id, h.id

-- name: the TABLE command
TABLE employees
-- becomes
SELECT "employees"."id", "employees"."manager_id", "employees"."name", "employees"."title", "employees"."department", NULL::"pg_catalog"."numeric" AS "salary", "employees"."hired_on" FROM employees

-- name: below a subquery
SELECT s FROM (SELECT ssn AS s FROM customers ORDER BY id) AS q
-- becomes
SELECT s FROM (SELECT CASE WHEN ssn IS NOT NULL THEN '[redacted]'::"pg_catalog"."bpchar" END AS s FROM customers ORDER BY id) AS q

-- name: below a CTE
WITH c AS (SELECT id, ssn FROM customers) SELECT c.ssn FROM c ORDER BY c.id
-- becomes
WITH c AS (SELECT id, CASE WHEN ssn IS NOT NULL THEN '[redacted]'::"pg_catalog"."bpchar" END AS "ssn" FROM customers) SELECT c.ssn FROM c ORDER BY c.id

-- name: below a star
SELECT * FROM (SELECT id, ssn FROM customers) AS q ORDER BY id
-- becomes
SELECT * FROM (SELECT id, CASE WHEN ssn IS NOT NULL THEN '[redacted]'::"pg_catalog"."bpchar" END AS "ssn" FROM customers) AS q ORDER BY id

-- name: only the masked branch of a union
SELECT ssn FROM customers WHERE id = 1 UNION ALL SELECT name FROM customers WHERE id = 2
-- becomes
SELECT CASE WHEN ssn IS NOT NULL THEN '[redacted]'::"pg_catalog"."bpchar" END AS "ssn" FROM customers WHERE id = 1 UNION ALL SELECT name FROM customers WHERE id = 2

-- name: the strictest of a union
SELECT email FROM customers WHERE id = 1 UNION ALL SELECT card_number FROM payments WHERE id = 1
-- becomes
SELECT CASE WHEN email IS NOT NULL THEN '[redacted]'::"pg_catalog"."text" END AS "email" FROM customers WHERE id = 1 UNION ALL SELECT CASE WHEN card_number IS NOT NULL THEN '[redacted]'::"pg_catalog"."text" END AS "card_number" FROM payments WHERE id = 1

-- name: a scalar subquery is null
SELECT name, (SELECT ssn FROM customers AS d WHERE d.id = c.id) FROM customers AS c ORDER BY id
-- becomes
SELECT name, (SELECT NULL::"pg_catalog"."bpchar" AS "ssn" FROM customers AS d WHERE d.id = c.id) FROM customers AS c ORDER BY id

-- name: a whole row is null
SELECT c FROM customers AS c WHERE id = 1
-- becomes
SELECT NULL::"public"."customers" AS "c" FROM customers AS c WHERE id = 1

-- name: through a view
SELECT id, email FROM customer_contacts ORDER BY id
-- becomes
SELECT id, pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to((email)::pg_catalog.text, 'UTF8')), 'hex') AS "email" FROM customer_contacts ORDER BY id

-- name: another table's column of the name
SELECT c.name AS ssn FROM customers AS c WHERE id = 1
-- becomes
SELECT c.name AS ssn FROM customers AS c WHERE id = 1

-- name: comments and spelling stay
select /* the number */ C.Ssn -- as it is
from Customers C order by C.Id
-- becomes
select /* the number */ CASE WHEN C.Ssn IS NOT NULL THEN '[redacted]'::"pg_catalog"."bpchar" END AS "ssn" -- as it is
from Customers C order by C.Id

-- name: returning
UPDATE employees SET title = 'x' WHERE id = 1 RETURNING id, salary
-- becomes
UPDATE employees SET title = 'x' WHERE id = 1 RETURNING id, NULL::"pg_catalog"."numeric" AS "salary"

-- name: returning a star
DELETE FROM payments WHERE id = 1 RETURNING *
-- becomes
DELETE FROM payments WHERE id = 1 RETURNING "payments"."id", "payments"."tenant_id", "payments"."order_id", "payments"."amount", "payments"."method", CASE WHEN "payments"."card_number" IS NOT NULL THEN '[redacted]'::"pg_catalog"."text" END AS "card_number", "payments"."paid_at"

-- name: copy
COPY (SELECT id, ssn FROM customers WHERE id = 4) TO STDOUT
-- becomes
COPY (SELECT id, CASE WHEN ssn IS NOT NULL THEN '[redacted]'::"pg_catalog"."bpchar" END AS "ssn" FROM customers WHERE id = 4) TO STDOUT

-- name: copy of a table
COPY employees TO STDOUT
-- becomes
COPY (SELECT "id", "manager_id", "name", "title", "department", NULL::"pg_catalog"."numeric" AS "salary", "hired_on" FROM employees) TO STDOUT

-- name: explain
EXPLAIN (COSTS OFF) SELECT ssn FROM customers
-- becomes
EXPLAIN (COSTS OFF) SELECT CASE WHEN ssn IS NOT NULL THEN '[redacted]'::"pg_catalog"."bpchar" END AS "ssn" FROM customers

-- name: a recursive CTE
WITH RECURSIVE r AS (SELECT id, salary FROM employees WHERE id = 1 UNION ALL SELECT e.id, e.salary FROM employees AS e JOIN r ON e.manager_id = r.id) SELECT * FROM r ORDER BY id
-- becomes
WITH RECURSIVE r AS (SELECT id, NULL::"pg_catalog"."numeric" AS "salary" FROM employees WHERE id = 1 UNION ALL SELECT e.id, NULL::"pg_catalog"."numeric" AS "salary" FROM employees AS e JOIN r ON e.manager_id = r.id) SELECT * FROM r ORDER BY id

-- name: lateral
SELECT o.id, l.ssn FROM orders AS o CROSS JOIN LATERAL (SELECT c.ssn FROM customers AS c WHERE c.id = o.customer_id) AS l WHERE o.id < 4 ORDER BY o.id
-- becomes
SELECT o.id, l.ssn FROM orders AS o CROSS JOIN LATERAL (SELECT CASE WHEN c.ssn IS NOT NULL THEN '[redacted]'::"pg_catalog"."bpchar" END AS "ssn" FROM customers AS c WHERE c.id = o.customer_id) AS l WHERE o.id < 4 ORDER BY o.id

-- name: non-ASCII text before it
SELECT 'Größe' AS "ä", ssn FROM customers WHERE city = 'Málaga' ORDER BY id
-- becomes
SELECT 'Größe' AS "ä", CASE WHEN ssn IS NOT NULL THEN '[redacted]'::"pg_catalog"."bpchar" END AS "ssn" FROM customers WHERE city = 'Málaga' ORDER BY id

-- name: several statements
SELECT 1; SELECT ssn FROM customers WHERE id = 1; SELECT 2
-- becomes
SELECT 1; SELECT CASE WHEN ssn IS NOT NULL THEN '[redacted]'::"pg_catalog"."bpchar" END AS "ssn" FROM customers WHERE id = 1; SELECT 2
