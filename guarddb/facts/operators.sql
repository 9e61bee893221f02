-- Every operator of pg_catalog with the function behind it, its volatility and whether it is leakproof. left is NULL for a prefix operator.
SELECT o.oprname, l.typname, r.typname, t.typname, p.provolatile, p.proname, p.proleakproof
FROM pg_catalog.pg_operator AS o
LEFT JOIN pg_catalog.pg_type AS l ON l.oid = o.oprleft
JOIN pg_catalog.pg_type AS r ON r.oid = o.oprright
JOIN pg_catalog.pg_type AS t ON t.oid = o.oprresult
JOIN pg_catalog.pg_proc AS p ON p.oid = o.oprcode
WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oid < 16384
ORDER BY o.oprname COLLATE "C", o.oid
