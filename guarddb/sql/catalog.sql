-- The whole snapshot as one JSON text, in one round trip. Run it in a transaction after catalog_settings.sql.
--
-- The settings are not what makes it safe: relations and types are qualified here all the same, since a temporary table
-- "pg_class" is easily made and would come first.
WITH RECURSIVE
  -- Relations that somebody else has locked, or is about to: what deparses an expression over one of them would wait
  -- (pg_get_expr, pg_get_viewdef and their like open the relation). Whoever wants to wait sets nothing.
  busy AS MATERIALIZED (
    SELECT unnest(nullif(current_setting('guarddb.busy', true), '')::pg_catalog.oid[]) AS oid
  ),
  -- What the definition of a view, or the body of a function, is made of.
  stands_on AS MATERIALIZED (
    SELECT coalesce(w.ev_class, d.objid) AS oid, d.refobjid, w.oid IS NULL AS function
    FROM pg_catalog.pg_depend AS d
    LEFT JOIN pg_catalog.pg_rewrite AS w ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND w.oid = d.objid
    WHERE EXISTS (SELECT FROM busy)
      AND (w.rulename = '_RETURN' OR d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass)
      AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
  ),
  -- The views over them too, at any depth: they could be read, but not understood.
  unread (oid, function) AS (
    SELECT oid, false FROM busy
    UNION
    SELECT s.oid, s.function FROM unread AS u JOIN stands_on AS s ON s.refobjid = u.oid AND NOT u.function
  ),
  extension_member AS MATERIALIZED (
    SELECT d.classid, d.objid, e.extname
    FROM pg_catalog.pg_depend AS d JOIN pg_catalog.pg_extension AS e ON e.oid = d.refobjid
    WHERE d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e' AND d.objid >= 16384
  ),
  -- Every type with its qualified name; 600 built-in ones, so it is cheap and saves two joins for each column.
  named_type AS MATERIALIZED (
    SELECT t.oid, t.typname, t.typtype, t.typcategory, t.typbasetype, t.typelem, t.typrelid, t.typnamespace, t.typtypmod,
      n.nspname, n.nspname || '.' || t.typname AS name
    FROM pg_catalog.pg_type AS t JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace
  ),
  -- A domain with every type below it, down to the base, which is no domain.
  domain_chain (domain, type, is_base) AS (
    SELECT oid, oid, false FROM named_type WHERE typtype = 'd'
    UNION ALL
    SELECT c.domain, t.typbasetype, b.typtype <> 'd'
    FROM domain_chain AS c
    JOIN named_type AS t ON t.oid = c.type
    JOIN named_type AS b ON b.oid = t.typbasetype
    WHERE t.typtype = 'd'
  ),
  resolved_type AS MATERIALIZED (
    SELECT t.oid, t.typname, t.nspname, t.typtype, t.typrelid, t.typelem, t.typtypmod, t.name,
      b.oid AS base_oid, b.name AS base_name, b.typcategory AS category,
      coalesce(e.typtype = 'e' OR e.nspname = 'pg_catalog' AND e.typname IN (
        'bool', 'int2', 'int4', 'int8', 'float4', 'float8', 'numeric', 'text', 'varchar', 'bpchar', 'name', 'char',
        'bytea', 'date', 'time', 'timetz', 'timestamp', 'timestamptz', 'interval', 'uuid', 'oid', 'inet', 'cidr',
        'macaddr', 'bit', 'varbit', 'money'), false) AS plain
    FROM named_type AS t
    LEFT JOIN domain_chain AS c ON c.domain = t.oid AND c.is_base
    JOIN named_type AS b ON b.oid = coalesce(c.type, t.oid)
    -- The element of a true array; "name" and friends have a typelem too, and no category A.
    JOIN named_type AS e ON e.oid = CASE WHEN b.typcategory = 'A' AND b.typelem <> 0 THEN b.typelem ELSE b.oid END
  ),
  user_relation AS MATERIALIZED (
    SELECT c.oid, n.nspname, c.relname, c.relkind, c.reltuples, c.relhastriggers, c.relhasrules, c.relpages,
      c.relpersistence, c.relpartbound
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c')
      AND n.nspname <> 'information_schema'
      -- (One that this snapshot still sees and others have dropped cannot be opened; this asks the newest catalogs.)
      AND has_table_privilege(c.oid, 'SELECT') IS NOT NULL
  ),
  -- What an operator says a column holds: a security label, or in the comment `classification: pii` (a word before the colon,
  -- one behind it).
  column_label AS MATERIALIZED (
    SELECT l.objoid, l.objsubid, min(l.class) AS class
    FROM (
      SELECT d.objoid, d.objsubid, 1 AS rank, substring(d.description FROM
        '(?i)(?:^|[^[:alnum:]_])(?:guarddb|classification|data[ _-]?class|sensitivity)\s*[:=]\s*([[:alnum:]_-]+)') AS class
      FROM pg_catalog.pg_description AS d
      WHERE d.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objoid >= 16384 AND d.objsubid > 0
      UNION ALL
      SELECT s.objoid, s.objsubid, 0, coalesce(
        substring(s.label FROM
          '(?i)(?:^|[^[:alnum:]_])(?:guarddb|classification|data[ _-]?class|sensitivity)\s*[:=]\s*([[:alnum:]_-]+)'),
        substring(s.label FROM '^[[:alnum:]_-]+$'))
      FROM pg_catalog.pg_seclabel AS s
      WHERE s.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass AND s.objoid >= 16384 AND s.objsubid > 0
    ) AS l
    WHERE l.class IS NOT NULL
    GROUP BY l.objoid, l.objsubid, l.rank
    HAVING l.rank = 0 OR NOT EXISTS (
      SELECT 1 FROM pg_catalog.pg_seclabel AS s
      WHERE s.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass
        AND s.objoid = l.objoid AND s.objsubid = l.objsubid)
  ),
  -- The columns that a generated one is computed from.
  generated_from AS MATERIALIZED (
    SELECT g.adrelid, g.adnum, json_agg(a.attname ORDER BY a.attnum) AS columns
    FROM (
      SELECT DISTINCT f.adrelid, f.adnum, d.refobjsubid
      FROM pg_catalog.pg_attrdef AS f
      JOIN pg_catalog.pg_attribute AS o ON o.attrelid = f.adrelid AND o.attnum = f.adnum AND o.attgenerated <> ''
      JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.objid = f.oid
        AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = f.adrelid
        AND d.refobjsubid > 0 AND d.refobjsubid <> f.adnum
      WHERE f.adrelid >= 16384
    ) AS g
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = g.adrelid AND a.attnum = g.refobjsubid
    GROUP BY g.adrelid, g.adnum
  ),
  -- The columns of a partition key, by themselves or in an expression of the key.
  key_columns AS MATERIALIZED (
    SELECT p.partrelid, json_agg(DISTINCT a.attname) AS columns
    FROM pg_catalog.pg_partitioned_table AS p
    CROSS JOIN LATERAL (
      SELECT unnest(p.partattrs::pg_catalog.int2[])::pg_catalog.int4 AS number
      UNION ALL
      SELECT m[1]::pg_catalog.int4 FROM regexp_matches(p.partexprs::pg_catalog.text, ':varattno (\d+)', 'g') AS m
    ) AS k
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = p.partrelid AND a.attnum = k.number AND k.number > 0
    GROUP BY p.partrelid
  ),
  relation_attributes AS MATERIALIZED (
    SELECT a.attrelid, json_agg(json_build_object(
      'name', a.attname,
      'number', a.attnum,
      'type', t.name,
      'base_type', t.base_name,
      'category', t.category,
      -- A virtual generated column (PostgreSQL 18) is an expression, and reading it may raise.
      'plain', t.plain AND coalesce(k.collisdeterministic, true) AND a.attgenerated <> 'v',
      'not_null', a.attnotnull,
      'generated', a.attgenerated <> '',
      'virtual', a.attgenerated = 'v',
      'typmod', a.atttypmod,
      'reads', coalesce(f.columns, '[]'),
      'labelled', m.class,
      'collation', CASE WHEN a.attcollation <> 100 THEN k.collname END
    ) ORDER BY a.attnum) AS attributes
    FROM pg_catalog.pg_attribute AS a
    JOIN resolved_type AS t ON t.oid = a.atttypid
    LEFT JOIN pg_catalog.pg_collation AS k ON k.oid = a.attcollation
    LEFT JOIN generated_from AS f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
    LEFT JOIN column_label AS m ON m.objoid = a.attrelid AND m.objsubid = a.attnum
    WHERE a.attrelid >= 16384 AND a.attnum > 0 AND NOT a.attisdropped
      AND a.attrelid IN (SELECT oid FROM user_relation)
    GROUP BY a.attrelid
  ),
  inheritance (child, parent, depth) AS (
    SELECT inhrelid, inhparent, 1 FROM pg_catalog.pg_inherits WHERE inhparent IN (SELECT oid FROM user_relation)
    UNION
    SELECT i.child, p.inhparent, i.depth + 1
    FROM inheritance AS i JOIN pg_catalog.pg_inherits AS p ON p.inhrelid = i.parent
  ),
  -- Two ways lead to the same ancestor when inheritance is multiple: the shorter counts.
  nearest_inheritance AS MATERIALIZED (
    SELECT child, parent, min(depth) AS depth FROM inheritance GROUP BY child, parent
  ),
  ancestors AS MATERIALIZED (
    SELECT child, json_agg(parent::bigint ORDER BY depth, parent) AS oids FROM nearest_inheritance GROUP BY child
  ),
  descendants AS MATERIALIZED (
    SELECT parent, json_agg(child::bigint ORDER BY depth, child) AS oids FROM nearest_inheritance GROUP BY parent
  ),
  primary_key AS MATERIALIZED (
    SELECT c.conrelid, json_agg(a.attname ORDER BY k.n) AS columns
    FROM pg_catalog.pg_constraint AS c
    CROSS JOIN LATERAL unnest(c.conkey) WITH ORDINALITY AS k (number, n)
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = k.number
    WHERE c.oid >= 16384 AND c.contype = 'p'
    GROUP BY c.conrelid
  ),
  -- What the lint of migrations asks for: what a CHECK proves, whom a foreign key ties, what an index is on.
  relation_constraint AS MATERIALIZED (
    SELECT c.conrelid, json_agg(json_build_object(
      'name', c.conname,
      'kind', c.contype,
      'validated', c.convalidated,
      'columns', coalesce((
        SELECT json_agg(a.attname ORDER BY k.n)
        FROM unnest(c.conkey) WITH ORDINALITY AS k (number, n)
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = k.number), '[]'),
      'expression', CASE WHEN c.contype = 'c' AND c.conrelid NOT IN (SELECT oid FROM busy)
        THEN pg_get_expr(c.conbin, c.conrelid) END,
      'references', c.confrelid::bigint,
      'referenced_columns', coalesce((
        SELECT json_agg(a.attname ORDER BY k.n)
        FROM unnest(c.confkey) WITH ORDINALITY AS k (number, n)
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.confrelid AND a.attnum = k.number), '[]'),
      'on_update', CASE c.contype WHEN 'f' THEN c.confupdtype ELSE 'a' END,
      'on_delete', CASE c.contype WHEN 'f' THEN c.confdeltype ELSE 'a' END
    ) ORDER BY c.oid) AS constraints
    FROM pg_catalog.pg_constraint AS c
    WHERE c.oid >= 16384 AND c.conrelid <> 0 AND c.contype IN ('c', 'f', 'p', 'u', 'x', 'n')
    GROUP BY c.conrelid
  ),
  -- The columns of an index's expressions and of its condition.
  index_dependency AS MATERIALIZED (
    SELECT d.objid, d.refobjid, array_agg(d.refobjsubid) AS columns
    FROM pg_catalog.pg_depend AS d
    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
      AND d.refobjsubid > 0 AND d.objid IN (SELECT indexrelid FROM pg_catalog.pg_index WHERE indrelid >= 16384)
    GROUP BY d.objid, d.refobjid
  ),
  relation_index AS MATERIALIZED (
    SELECT i.indrelid, json_agg(json_build_object(
      'name', c.relname,
      'oid', c.oid::bigint,
      -- An expression has no name, and then the list is shorter than the index is wide.
      'columns', coalesce((
        SELECT json_agg(a.attname ORDER BY k.n)
        FROM unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY AS k (number, n)
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number), '[]'),
      'unique', i.indisunique,
      'valid', i.indisvalid,
      'pages', c.relpages,
      'reads', coalesce((
        SELECT json_agg(a.attname ORDER BY a.attnum) FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = i.indrelid AND a.attnum > 0
          AND (a.attnum = ANY (i.indkey::pg_catalog.int2[]) OR d.columns @> ARRAY[a.attnum::pg_catalog.int4])), '[]'),
      'exclusion', i.indisexclusion
    ) ORDER BY c.oid) AS indexes
    FROM pg_catalog.pg_index AS i
    JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
    LEFT JOIN index_dependency AS d ON d.objid = i.indexrelid AND d.refobjid = i.indrelid
    WHERE i.indrelid >= 16384
    GROUP BY i.indrelid
  ),
  row_trigger AS MATERIALIZED (
    -- Row triggers (1) that fire before (2) or instead (64); AFTER triggers, foreign keys' among them, change no row.
    SELECT DISTINCT tgrelid FROM pg_catalog.pg_trigger
    WHERE oid >= 16384 AND tgtype & 1 = 1 AND tgtype & (2 | 64) <> 0 AND tgenabled <> 'D'
  ),
  rule AS MATERIALIZED (
    SELECT DISTINCT ev_class FROM pg_catalog.pg_rewrite WHERE oid >= 16384 AND rulename <> '_RETURN'
  ),
  relations AS (
    SELECT json_agg(json_build_object(
      'oid', c.oid::bigint,
      'schema', c.nspname,
      'name', c.relname,
      'kind', c.relkind,
      'attributes', coalesce(a.attributes, '[]'),
      'ancestors', coalesce(up.oids, '[]'),
      'descendants', coalesce(down.oids, '[]'),
      'definition', CASE WHEN c.relkind IN ('v', 'm') THEN
        CASE WHEN c.oid IN (SELECT oid FROM unread) THEN '' ELSE pg_get_viewdef(c.oid) END END,
      'primary_key', coalesce(pk.columns, '[]'),
      'partitioned_by', coalesce(part.columns, '[]'),
      'has_row_triggers', g.tgrelid IS NOT NULL,
      'has_rules', w.ev_class IS NOT NULL,
      'estimated_rows', c.reltuples,
      'extension', e.extname,
      -- A table that nobody has analyzed yet: only its file tells whether there is anything in it.
      'pages', CASE WHEN c.reltuples < 0 AND c.relkind IN ('r', 'm') AND c.oid NOT IN (SELECT oid FROM busy) THEN
        coalesce(pg_relation_size(c.oid) / current_setting('block_size')::int, 0) ELSE c.relpages END,
      'persistence', c.relpersistence,
      'constraints', coalesce(k.constraints, '[]'),
      'indexes', coalesce(i.indexes, '[]'),
      -- (Of what cannot be read, the columns that it is made of; and which partition is the default one stands elsewhere.)
      'partition_key', CASE WHEN c.relkind = 'p' THEN
        CASE WHEN c.oid IN (SELECT oid FROM busy) THEN part.columns::pg_catalog.text ELSE pg_get_partkeydef(c.oid) END END,
      'partition_bound', CASE WHEN c.relpartbound IS NULL THEN NULL
        WHEN c.oid NOT IN (SELECT oid FROM busy) THEN pg_get_expr(c.relpartbound, c.oid)
        WHEN EXISTS (SELECT FROM pg_catalog.pg_partitioned_table AS p WHERE p.partdefid = c.oid) THEN 'DEFAULT'
        ELSE 'FOR VALUES' END
    ) ORDER BY c.oid) AS document
    FROM user_relation AS c
    LEFT JOIN relation_constraint AS k ON k.conrelid = c.oid
    LEFT JOIN relation_index AS i ON i.indrelid = c.oid
    LEFT JOIN relation_attributes AS a ON a.attrelid = c.oid
    LEFT JOIN ancestors AS up ON up.child = c.oid
    LEFT JOIN descendants AS down ON down.parent = c.oid
    LEFT JOIN primary_key AS pk ON pk.conrelid = c.oid
    LEFT JOIN key_columns AS part ON part.partrelid = c.oid
    LEFT JOIN row_trigger AS g ON g.tgrelid = c.oid
    LEFT JOIN rule AS w ON w.ev_class = c.oid
    LEFT JOIN extension_member AS e ON e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND e.objid = c.oid
  ),
  named_function AS MATERIALIZED (
    SELECT p.oid, n.nspname, n.nspname || '.' || p.proname AS name
    FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
    WHERE p.oid >= 16384
  ),
  -- An aggregate's own entry says internal and immutable whatever it runs: judge it by its support functions.
  aggregate AS MATERIALIZED (
    SELECT g.aggfnoid::pg_catalog.oid AS oid,
      -- i < s < v, in this order of letters too
      max(s.provolatile::pg_catalog.text) AS volatility,
      coalesce(min(l.lanname::pg_catalog.text) FILTER (WHERE l.lanname NOT IN ('c', 'internal')), 'c') AS language
    FROM pg_catalog.pg_aggregate AS g
    JOIN pg_catalog.pg_proc AS s ON s.oid IN (
      g.aggtransfn, g.aggfinalfn, g.aggcombinefn, g.aggserialfn, g.aggdeserialfn, g.aggmtransfn, g.aggminvtransfn,
      g.aggmfinalfn)
    JOIN pg_catalog.pg_language AS l ON l.oid = s.prolang
    WHERE g.aggfnoid >= 16384
    GROUP BY g.aggfnoid
  ),
  function_arguments AS MATERIALIZED (
    SELECT p.oid, json_agg(t.name ORDER BY a.n) AS types
    FROM pg_catalog.pg_proc AS p
    CROSS JOIN LATERAL unnest(p.proargtypes) WITH ORDINALITY AS a (type, n)
    JOIN resolved_type AS t ON t.oid = a.type
    WHERE p.oid >= 16384
    GROUP BY p.oid
  ),
  functions AS (
    SELECT json_agg(json_build_object(
      'schema', f.nspname,
      'name', p.proname,
      'arguments', coalesce(a.types, '[]'),
      'returns', r.name,
      'kind', p.prokind,
      'volatility', coalesce(g.volatility, p.provolatile::pg_catalog.text),
      'language', coalesce(g.language, l.lanname::pg_catalog.text),
      'extension', e.extname,
      'returns_set', p.proretset,
      'required_arguments', p.pronargs - p.pronargdefaults,
      'variadic', p.provariadic <> 0,
      'output_names', CASE WHEN p.proargmodes IS NULL THEN '[]' ELSE (
                      SELECT coalesce(json_agg(coalesce(p.proargnames[m.n], '') ORDER BY m.n), '[]')
                      FROM unnest(p.proargmodes) WITH ORDINALITY AS m (mode, n)
                      WHERE m.mode IN ('o', 'b', 't')) END,
      'body', CASE WHEN e.extname IS NULL AND l.lanname NOT IN ('c', 'internal') AND p.prokind <> 'a'
                   THEN CASE
                     WHEN p.prosqlbody IS NOT NULL AND EXISTS (SELECT FROM unread AS u WHERE u.function AND u.oid = p.oid)
                     -- No text, but every name in it.
                     THEN (SELECT string_agg(quote_ident(b.relname), ' ') FROM stands_on AS s
                           JOIN pg_catalog.pg_class AS b ON b.oid = s.refobjid WHERE s.function AND s.oid = p.oid)
                     ELSE coalesce(pg_get_function_sqlbody(p.oid), p.prosrc) END END
    ) ORDER BY p.oid) AS document
    FROM named_function AS f
    JOIN pg_catalog.pg_proc AS p ON p.oid = f.oid
    JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
    JOIN resolved_type AS r ON r.oid = p.prorettype
    LEFT JOIN function_arguments AS a ON a.oid = p.oid
    LEFT JOIN aggregate AS g ON g.oid = p.oid
    LEFT JOIN extension_member AS e ON e.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND e.objid = p.oid
    WHERE f.nspname <> 'information_schema'
  ),
  operators AS (
    SELECT json_agg(json_build_object(
      'schema', n.nspname,
      'name', o.oprname,
      'left', l.name,
      'right', r.name,
      'function', fn.nspname || '.' || f.proname
    ) ORDER BY o.oid) AS document
    FROM pg_catalog.pg_operator AS o
    JOIN pg_catalog.pg_namespace AS n ON n.oid = o.oprnamespace
    JOIN pg_catalog.pg_proc AS f ON f.oid = o.oprcode
    JOIN pg_catalog.pg_namespace AS fn ON fn.oid = f.pronamespace
    LEFT JOIN resolved_type AS l ON l.oid = o.oprleft
    LEFT JOIN resolved_type AS r ON r.oid = o.oprright
    WHERE o.oid >= 16384
  ),
  casts AS (
    SELECT json_agg(json_build_object(
      'source', s.name,
      'target', t.name,
      'function', f.name,
      'context', c.castcontext
    ) ORDER BY c.oid) AS document
    FROM pg_catalog.pg_cast AS c
    LEFT JOIN named_function AS f ON f.oid = c.castfunc
    JOIN resolved_type AS s ON s.oid = c.castsource
    JOIN resolved_type AS t ON t.oid = c.casttarget
    WHERE c.oid >= 16384
  ),
  -- What a domain's CHECKs call, by dependency: functions, and the functions behind operators. Built-in ones are
  -- pinned and leave no dependency. A domain over a domain checks both.
  check_function AS MATERIALIZED (
    SELECT c.domain, json_agg(DISTINCT f.name) AS names
    FROM domain_chain AS c
    JOIN pg_catalog.pg_constraint AS k ON k.contypid = c.type
    JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND d.objid = k.oid
    LEFT JOIN pg_catalog.pg_operator AS o
      ON d.refclassid = 'pg_catalog.pg_operator'::pg_catalog.regclass AND o.oid = d.refobjid
    JOIN named_function AS f
      ON f.oid = CASE WHEN d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass THEN d.refobjid ELSE o.oprcode END
    GROUP BY c.domain
  ),
  constrained_domain AS MATERIALIZED (
    SELECT DISTINCT c.domain
    FROM domain_chain AS c
    JOIN pg_catalog.pg_type AS t ON t.oid = c.type
    LEFT JOIN pg_catalog.pg_constraint AS k ON k.contypid = c.type
    WHERE t.typtype = 'd' AND (k.oid IS NOT NULL OR t.typnotnull)
  ),
  types AS (
    SELECT json_agg(json_build_object(
      'schema', t.nspname,
      'name', t.typname,
      'kind', t.typtype,
      'base_type', t.base_name,
      'category', t.category,
      'check_functions', coalesce(f.names, '[]'),
      'over', o.name,
      'constrained', k.domain IS NOT NULL,
      'typmod', t.typtypmod
    ) ORDER BY t.oid) AS document
    FROM resolved_type AS t
    LEFT JOIN pg_catalog.pg_class AS c ON c.oid = t.typrelid
    LEFT JOIN named_type AS e ON e.oid = t.typelem
    LEFT JOIN check_function AS f ON f.domain = t.oid
    LEFT JOIN constrained_domain AS k ON k.domain = t.oid
    LEFT JOIN named_type AS n ON n.oid = t.oid
    LEFT JOIN named_type AS o ON o.oid = n.typbasetype
    -- The row types of tables and views are found by the relation; of composite types only those of their own.
    WHERE t.oid >= 16384 AND t.nspname <> 'information_schema'
      AND (t.typrelid = 0 OR c.relkind = 'c') AND coalesce(e.typrelid, 0) = 0
  )
SELECT json_build_object(
  'format', 1,
  'version', (
/* fingerprint.sql */
),
  'server_version', current_setting('server_version_num')::int,
  'encoding', current_setting('server_encoding'),
  'relations', coalesce((SELECT document FROM relations), '[]'),
  'functions', coalesce((SELECT document FROM functions), '[]'),
  'operators', coalesce((SELECT document FROM operators), '[]'),
  'casts', coalesce((SELECT document FROM casts), '[]'),
  'types', coalesce((SELECT document FROM types), '[]'),
  -- Views that somebody's lock keeps from being read.
  'unread', coalesce((
    SELECT json_agg(c.relname ORDER BY c.oid) FROM pg_catalog.pg_class AS c
    WHERE c.relkind IN ('v', 'm') AND c.oid IN (SELECT oid FROM unread WHERE NOT function)), '[]'),
  'partial', EXISTS (SELECT FROM busy)
)::pg_catalog.text
