-- Every function of pg_catalog: one row per overload, in an order that does not change between runs.
-- Columns: name, argument types, required, variadic, kind, volatility, strict, returns a set, result,
-- names and types of what comes out (OUT, INOUT and TABLE arguments), leakproof.
SELECT
  p.proname,
  ARRAY(SELECT t.typname FROM unnest(p.proargtypes) WITH ORDINALITY AS a (type, n)
        JOIN pg_catalog.pg_type AS t ON t.oid = a.type ORDER BY a.n),
  p.pronargs - p.pronargdefaults,
  p.provariadic <> 0,
  p.prokind,
  p.provolatile,
  p.proisstrict,
  p.proretset,
  r.typname,
  ARRAY(SELECT coalesce(p.proargnames[a.n], '')
        FROM unnest(p.proargmodes) WITH ORDINALITY AS a (mode, n)
        WHERE a.mode IN ('o', 'b', 't') ORDER BY a.n),
  ARRAY(SELECT t.typname
        FROM unnest(p.proargmodes) WITH ORDINALITY AS a (mode, n)
        JOIN pg_catalog.pg_type AS t ON t.oid = p.proallargtypes[a.n]
        WHERE a.mode IN ('o', 'b', 't') ORDER BY a.n),
  p.proleakproof
FROM pg_catalog.pg_proc AS p
JOIN pg_catalog.pg_type AS r ON r.oid = p.prorettype
WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.oid < 16384
ORDER BY p.proname COLLATE "C", p.oid
