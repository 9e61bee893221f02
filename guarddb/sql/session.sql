-- What names mean to this session: the schemas in the order they are searched, and its temporary schema.
-- current_schemas(true) lists the temporary schema where it is searched: first, unless search_path says otherwise.
-- Only in that other case does it stay in the list. Every name is qualified, as in fingerprint.sql.
SELECT pg_catalog.json_build_object(
  'search_path', CASE WHEN s.path[1] OPERATOR(pg_catalog.=) t.name THEN s.path[2:] ELSE s.path END,
  'temp_schema', t.name
)::pg_catalog.text
FROM (SELECT pg_catalog.current_schemas(true)::pg_catalog.text[] AS path) AS s
LEFT JOIN (SELECT nspname::pg_catalog.text AS name FROM pg_catalog.pg_namespace
           WHERE oid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) AS t ON true
