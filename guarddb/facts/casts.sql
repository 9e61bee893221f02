-- Every cast between types of pg_catalog; one that calls no function is leakproof, one by the types' text is not.
SELECT s.typname, t.typname, c.castmethod, c.castcontext, coalesce(p.provolatile, 'i'),
  coalesce(p.proleakproof, c.castmethod = 'b')
FROM pg_catalog.pg_cast AS c
JOIN pg_catalog.pg_type AS s ON s.oid = c.castsource
JOIN pg_catalog.pg_type AS t ON t.oid = c.casttarget
LEFT JOIN pg_catalog.pg_proc AS p ON p.oid = c.castfunc
WHERE c.oid < 16384
  AND s.typnamespace = 'pg_catalog'::regnamespace AND t.typnamespace = 'pg_catalog'::regnamespace
ORDER BY s.typname COLLATE "C", t.typname COLLATE "C"
