-- What the wall is built on, as one JSON text. Run it with search_path = pg_catalog, so that every type and every relation of
-- a definition is printed with its schema. Nothing here depends on who asks but `mine`, `user`, `superuser` and `pins`.
WITH RECURSIVE
  domain_chain (domain, type) AS (
    SELECT oid, typbasetype FROM pg_type WHERE typtype = 'd'
    UNION ALL
    SELECT c.domain, t.typbasetype FROM domain_chain AS c JOIN pg_type AS t ON t.oid = c.type AND t.typtype = 'd'
  ),
  base_type AS MATERIALIZED (
    SELECT t.oid, b.oid AS base, b.typname, b.typcategory,
      b.typnamespace = 'pg_catalog'::regnamespace AS built_in
    FROM pg_type AS t
    LEFT JOIN domain_chain AS c ON c.domain = t.oid
      AND c.type IN (SELECT oid FROM pg_type WHERE typtype <> 'd')
    JOIN pg_type AS b ON b.oid = coalesce(c.type, t.oid)
  ),
  walls AS MATERIALIZED (
    SELECT n.oid FROM pg_namespace AS n
    WHERE obj_description(n.oid, 'pg_namespace') LIKE '{"guarddb": "wall%'
  ),
  user_relation AS MATERIALIZED (
    SELECT c.*, n.nspname, e.extname
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    LEFT JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
    LEFT JOIN pg_extension AS e ON e.oid = d.refobjid
    WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
      AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp_)'
      -- (what `guarddb catalog install-trigger` makes: numbers of changes, and no data of anybody's)
      AND (n.nspname, c.relname) <> ('guarddb_catalog', 'change')
      AND n.oid NOT IN (SELECT oid FROM walls)
  ),
  -- Functions that run what a user wrote: all but an extension's in C that are not volatile.
  users_code AS MATERIALIZED (
    SELECT p.oid, format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) AS signature
    FROM pg_proc AS p
    JOIN pg_namespace AS n ON n.oid = p.pronamespace
    JOIN pg_language AS l ON l.oid = p.prolang
    LEFT JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
    WHERE p.oid >= 16384 AND (d.objid IS NULL OR p.provolatile = 'v' OR l.lanname NOT IN ('c', 'internal'))
  ),
  users_operator AS MATERIALIZED (
    SELECT o.oid, o.oprcode FROM pg_operator AS o JOIN users_code AS p ON p.oid = o.oprcode
  ),
  -- What a view, a policy, a function, a domain's CHECK runs of users' code, as PostgreSQL's own analyzer recorded it.
  runs AS MATERIALIZED (
    SELECT DISTINCT d.classid, d.objid, coalesce(o.oprcode, d.refobjid)::oid AS code
    FROM pg_depend AS d
    LEFT JOIN users_operator AS o ON d.refclassid = 'pg_operator'::regclass AND d.refobjid = o.oid
    WHERE d.classid IN ('pg_rewrite'::regclass, 'pg_policy'::regclass, 'pg_proc'::regclass, 'pg_constraint'::regclass)
      AND (o.oid IS NOT NULL
        OR d.refclassid = 'pg_proc'::regclass AND d.refobjid IN (SELECT oid FROM users_code))
  ),
  -- Types with whose values a CHECK runs such code: domains, and what is made of them.
  coded_type AS (
    SELECT DISTINCT k.contypid AS oid FROM pg_constraint AS k
    JOIN runs AS r ON r.classid = 'pg_constraint'::regclass AND r.objid = k.oid
    WHERE k.contypid <> 0
    UNION
    SELECT t.oid FROM coded_type AS c JOIN pg_type AS t ON t.typbasetype = c.oid OR t.typelem = c.oid
      OR EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = t.typrelid AND a.atttypid = c.oid AND NOT a.attisdropped)
  ),
  view_code AS MATERIALIZED (
    SELECT ev_class, json_agg(DISTINCT p.signature) AS document
    FROM users_code AS p JOIN (
      SELECT w.ev_class, r.code FROM pg_rewrite AS w
      JOIN runs AS r ON r.classid = 'pg_rewrite'::regclass AND r.objid = w.oid
      WHERE w.rulename = '_RETURN'
      UNION ALL
      -- (A domain's CHECK runs where the view casts to it.)
      SELECT w.ev_class, r.code FROM pg_rewrite AS w
      JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_type'::regclass
      JOIN coded_type AS t ON t.oid = d.refobjid
      JOIN pg_constraint AS k ON k.contypid <> 0
      JOIN runs AS r ON r.classid = 'pg_constraint'::regclass AND r.objid = k.oid
      WHERE w.rulename = '_RETURN'
    ) AS c ON c.code = p.oid
    GROUP BY ev_class
  ),
  column_source AS MATERIALIZED (
    -- What generated columns are made of, and the sequences of defaults, as PostgreSQL itself recorded it.
    SELECT f.adrelid, f.adnum,
      json_agg(DISTINCT d.refobjsubid) FILTER (WHERE d.refobjid = f.adrelid AND d.refobjsubid <> f.adnum) AS sources,
      json_agg(DISTINCT d.refobjid::bigint) FILTER (WHERE d.refobjid <> f.adrelid) AS sequences
    FROM pg_attrdef AS f
    JOIN pg_depend AS d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass
    WHERE f.adrelid >= 16384
    GROUP BY f.adrelid, f.adnum
  ),
  columns AS MATERIALIZED (
    SELECT a.attrelid, json_agg(json_build_object(
      'name', a.attname,
      'number', a.attnum,
      'type', format_type(b.base, -1),
      'type_name', CASE WHEN b.built_in THEN b.typname ELSE '' END,
      'category', b.typcategory,
      'collation', CASE WHEN a.attcollation NOT IN (0, 100) THEN a.attcollation::regcollation::text END,
      'not_null', a.attnotnull,
      'has_default', a.atthasdef AND a.attgenerated = '',
      'identity', a.attidentity <> '',
      'generated', a.attgenerated <> '',
      'sources', coalesce(CASE WHEN a.attgenerated <> '' THEN s.sources END, '[]'),
      'sequences', coalesce(s.sequences, '[]'),
      'missing', a.atthasmissing
    ) ORDER BY a.attnum) AS document
    FROM pg_attribute AS a
    JOIN base_type AS b ON b.oid = a.atttypid
    LEFT JOIN column_source AS s ON s.adrelid = a.attrelid AND s.adnum = a.attnum
    WHERE a.attrelid IN (SELECT oid FROM user_relation WHERE relkind <> 'S') AND a.attnum > 0 AND NOT a.attisdropped
    GROUP BY a.attrelid
  ),
  parents AS MATERIALIZED (
    SELECT inhrelid, json_agg(inhparent::bigint ORDER BY inhseqno) AS document FROM pg_inherits GROUP BY inhrelid
  ),
  view_reads AS MATERIALIZED (
    SELECT r.ev_class,
      json_agg(DISTINCT jsonb_build_array(d.refobjid::bigint, d.refobjsubid))
        FILTER (WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class) AS relations
    FROM pg_rewrite AS r
    JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
    WHERE r.rulename = '_RETURN' AND r.oid >= 16384
    GROUP BY r.ev_class
  ),
  -- What is computed of several columns when a row is written: an error, or none, tells how they compare. 0: a whole row.
  computed AS MATERIALIZED (
    SELECT relation, json_agg(json_build_object('what', what, 'columns', columns) ORDER BY what) AS document
    FROM (
      SELECT conrelid AS relation, format('the constraint "%s"', conname) AS what, coalesce(conkey, '{}')::int[] AS columns
      FROM pg_constraint WHERE contype = 'c' AND conrelid >= 16384
      UNION ALL
      SELECT a.attrelid, format('the generated column "%s"', a.attname), ARRAY(
        SELECT d.refobjsubid FROM pg_attrdef AS f
        JOIN pg_depend AS d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
          AND d.refclassid = 'pg_class'::regclass AND d.refobjid = f.adrelid AND d.refobjsubid <> f.adnum
        WHERE f.adrelid = a.attrelid AND f.adnum = a.attnum ORDER BY 1)
      FROM pg_attribute AS a WHERE a.attrelid >= 16384 AND a.attgenerated <> ''
      UNION ALL
      SELECT i.indrelid, format('the index "%s"', c.relname), ARRAY(
        SELECT k FROM unnest(i.indkey::int2[]) AS k WHERE k > 0
        UNION SELECT d.refobjsubid FROM pg_depend AS d
        WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
          AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid > 0
        UNION SELECT 0 WHERE concat(i.indexprs, i.indpred) LIKE '%:varattno 0 %'
        ORDER BY 1)::int[]
      FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
      WHERE i.indrelid >= 16384 AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL)
    ) AS c
    GROUP BY relation
  ),
  triggers AS MATERIALIZED (
    SELECT tgrelid, json_agg(tgname ORDER BY tgname) AS document FROM pg_trigger
    WHERE NOT tgisinternal AND tgenabled <> 'D' AND (tgtype & 1 = 1 OR tgoldtable IS NOT NULL)
    GROUP BY tgrelid
  ),
  relations AS (
    SELECT json_agg(json_build_object(
      'oid', c.oid::bigint,
      'schema', c.nspname,
      'name', c.relname,
      'kind', c.relkind,
      'mine', pg_has_role(c.relowner, 'USAGE'),
      'columns', coalesce(a.document, '[]'),
      'parents', coalesce(p.document, '[]'),
      'partition_key', CASE WHEN k.partrelid IS NOT NULL THEN string_to_array(k.partattrs::text, ' ')::int[] END,
      'is_partition', c.relispartition,
      'definition', CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END,
      'barrier', coalesce(c.reloptions::text ~ 'security_barrier=(true|on|1)', false),
      'reads', coalesce(v.relations, '[]'),
      'code', coalesce(x.document, '[]'),
      'computed', coalesce(m.document, '[]'),
      'triggers', coalesce(t.document, '[]'),
      'has_rules', EXISTS (SELECT FROM pg_rewrite AS w WHERE w.ev_class = c.oid AND w.rulename <> '_RETURN'),
      'row_security', c.relrowsecurity
        AND NOT EXISTS (SELECT FROM pg_policy AS o WHERE o.polrelid = c.oid AND o.polname = 'guarddb_everyone'),
      -- Those that a wall made are for the owner of its views.
      'asleep', coalesce((
        SELECT json_agg(o.polname ORDER BY o.polname) FROM pg_policy AS o
        WHERE o.polrelid = c.oid AND NOT o.polpermissive
          AND (NOT c.relrowsecurity
            OR EXISTS (SELECT FROM pg_policy AS e WHERE e.polrelid = c.oid AND e.polname = 'guarddb_everyone'))
          AND NOT EXISTS (SELECT FROM pg_class AS v
            WHERE v.relnamespace IN (SELECT oid FROM walls) AND v.relowner = ANY (o.polroles))), '[]'),
      'extension', c.extname
    ) ORDER BY c.oid) AS document
    FROM user_relation AS c
    LEFT JOIN columns AS a ON a.attrelid = c.oid
    LEFT JOIN parents AS p ON p.inhrelid = c.oid
    LEFT JOIN pg_partitioned_table AS k ON k.partrelid = c.oid
    LEFT JOIN view_reads AS v ON v.ev_class = c.oid
    LEFT JOIN view_code AS x ON x.ev_class = c.oid
    LEFT JOIN computed AS m ON m.relation = c.oid
    LEFT JOIN triggers AS t ON t.tgrelid = c.oid
  ),
  foreign_keys AS (
    SELECT json_agg(json_build_object(
      'name', conname,
      'child', conrelid::bigint,
      'parent', confrelid::bigint,
      'parent_columns', confkey,
      'child_columns', conkey,
      'on_delete', confdeltype,
      'on_update', confupdtype
    ) ORDER BY oid) AS document
    FROM pg_constraint WHERE contype = 'f' AND oid >= 16384
  ),
  functions AS (
    SELECT json_agg(json_build_object(
      'schema', n.nspname,
      'name', p.proname,
      'signature', format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)),
      'by_types', p.oid::regprocedure::text,
      'mine', pg_has_role(p.proowner, 'USAGE'),
      'definer', p.prosecdef,
      'trusted', p.oid NOT IN (SELECT oid FROM users_code),
      'of_users', p.pronargs > 0 AND (
        SELECT bool_and(a.type >= 16384) FROM unnest(p.proargtypes::oid[]) AS a (type)),
      'public', EXISTS (
        SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS x WHERE x.grantee = 0),
      -- What a default, a constraint, an index, a view, an operator or a type runs, it runs as whoever uses it.
      'needed', EXISTS (
        SELECT FROM pg_depend AS u
        WHERE u.refclassid = 'pg_proc'::regclass AND u.refobjid = p.oid
          AND u.classid <> 'pg_trigger'::regclass AND u.deptype <> 'e')
    ) ORDER BY p.oid) AS document
    FROM pg_proc AS p
    JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE p.oid >= 16384 AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_temp_'
      AND n.oid NOT IN (SELECT oid FROM walls)
  )
SELECT json_build_object(
  'server_version', current_setting('server_version_num')::int,
  'database', current_database(),
  'user', current_user,
  'superuser', (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
  -- Whoever owns something here, or was given a right here by name.
  'roles', coalesce((
    SELECT json_agg(rolname ORDER BY rolname) FROM pg_roles
    WHERE rolname !~ '^pg_' AND NOT rolsuper AND oid IN (
      SELECT refobjid FROM pg_shdepend
      WHERE refclassid = 'pg_authid'::regclass AND (
        dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
        OR classid = 'pg_database'::regclass
          AND objid = (SELECT oid FROM pg_database WHERE datname = current_database())))), '[]'),
  'pins', (SELECT json_object_agg(name, reset_val ORDER BY name) FROM pg_settings WHERE name IN (
    'TimeZone', 'DateStyle', 'IntervalStyle', 'extra_float_digits', 'bytea_output', 'default_text_search_config',
    'lc_monetary', 'lc_numeric', 'lc_time', 'timezone_abbreviations', 'xmlbinary', 'xmloption', 'array_nulls')),
  'relations', coalesce((SELECT document FROM relations), '[]'),
  'foreign_keys', coalesce((SELECT document FROM foreign_keys), '[]'),
  'functions', coalesce((SELECT document FROM functions), '[]'),
  'operators', coalesce((
    SELECT json_agg(json_build_object('name', o.oprname, 'function', p.signature,
      'of_users', (o.oprleft = 0 OR o.oprleft >= 16384) AND (o.oprright = 0 OR o.oprright >= 16384),
      -- (A type made by whoever installed PostgreSQL may have a low number too, and is in pg_catalog or a schema of its own.)
      'of_built_ins', NOT EXISTS (SELECT FROM pg_type AS t WHERE t.oid IN (o.oprleft, o.oprright)
        AND (t.oid >= 16384 OR t.typtype = 'd' OR t.typnamespace <> 'pg_catalog'::regnamespace))) ORDER BY o.oid)
    FROM pg_operator AS o JOIN users_code AS p ON p.oid = o.oprcode), '[]'),
  -- What an installed wall's policies and functions run, whatever it was taken for when they were made.
  'installed_code', coalesce((
    SELECT json_agg(json_build_array(i.owner, i.name, c.signature) ORDER BY i.owner, i.name, c.signature)
    FROM (
      SELECT 'pg_policy'::regclass AS class, oid, polname::text AS owner, polrelid::regclass::text AS name FROM pg_policy
      UNION ALL
      SELECT 'pg_proc'::regclass, p.oid, n.nspname, p.proname FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
      WHERE n.oid IN (SELECT oid FROM walls)
    ) AS i
    JOIN runs AS r ON r.classid = i.class AND r.objid = i.oid
    JOIN users_code AS c ON c.oid = r.code
    JOIN pg_proc AS f ON f.oid = r.code
    WHERE f.pronamespace NOT IN (SELECT oid FROM walls)), '[]'),
  -- (A value of PostgreSQL's own types may become one of a user's.)
  'implicit_casts', (SELECT count(*) FROM pg_cast
    WHERE oid >= 16384 AND castcontext = 'i' AND castsource < 16384 AND casttarget >= 16384),
  'coded_types', (SELECT count(*) FROM coded_type),
  'user_casts', (SELECT count(*) FROM pg_cast AS c JOIN users_code AS p ON p.oid = c.castfunc),
  'casts_of_built_ins', (
    SELECT count(*) FROM pg_cast AS c JOIN users_code AS p ON p.oid = c.castfunc
    WHERE c.castsource < 16384 AND c.casttarget < 16384),
  'extension_schemas', coalesce((
    SELECT json_agg(DISTINCT n.nspname ORDER BY n.nspname)
    FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
    WHERE n.nspname <> 'pg_catalog'), '[]')
)::text
