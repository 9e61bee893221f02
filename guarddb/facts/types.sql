-- Every type of pg_catalog but the row types of its tables; element is the element type of a true array, else NULL.
SELECT t.typname, t.typcategory, t.typtype, e.typname, t.typispreferred
FROM pg_catalog.pg_type AS t
LEFT JOIN pg_catalog.pg_type AS e ON e.oid = t.typelem AND e.typarray = t.oid
WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.oid < 16384
  AND t.typtype <> 'c' AND coalesce(e.typtype, 'b') <> 'c'
ORDER BY t.typname COLLATE "C"
