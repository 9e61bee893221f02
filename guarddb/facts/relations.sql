-- Every relation of pg_catalog and information_schema that a query can name, with its columns in order.
SELECT n.nspname, c.relname, c.relkind,
  ARRAY(SELECT a.attname FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname IN ('pg_catalog', 'information_schema') AND c.relkind IN ('r', 'v', 'm', 'f', 'p', 'S')
  AND c.oid < 16384
ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"
