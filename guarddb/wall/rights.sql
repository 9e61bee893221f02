-- What a role may do, by every way it comes by it, and what there is of a wall. %(agent)s: the role; %(schema)s: the wall's
-- schema. Run it with search_path = pg_catalog.
WITH
  agent AS MATERIALIZED (SELECT * FROM pg_roles WHERE rolname = %(agent)s),
  grantees AS MATERIALIZED (
    SELECT 0::oid AS oid, 'PUBLIC'::text AS name
    UNION ALL SELECT oid, 'direct' FROM agent
    UNION ALL
    SELECT r.oid, r.rolname FROM pg_roles AS r, agent AS a
    WHERE r.oid <> a.oid AND pg_has_role(a.oid, r.oid, 'MEMBER') AND NOT a.rolsuper
  ),
  restricted AS MATERIALIZED (
    SELECT objoid FROM pg_init_privs WHERE classoid = 'pg_proc'::regclass
  ),
  -- What everybody was given when the database, or an extension, was made.
  initial AS MATERIALIZED (
    SELECT i.classoid, i.objoid, i.objsubid, x.privilege_type
    FROM pg_init_privs AS i CROSS JOIN LATERAL aclexplode(i.initprivs) AS x WHERE x.grantee = 0
  ),
  found (kind, object, privilege, via, columns, revocable, definer, closed, brought) AS (
    SELECT CASE c.relkind WHEN 'S' THEN 'sequence' ELSE 'table' END, format('%%I.%%I', n.nspname, c.relname),
      x.privilege_type, g.name, NULL::text, pg_has_role(c.relowner, 'USAGE'), false, false,
      g.name = 'PUBLIC' AND EXISTS (
        SELECT FROM initial AS i WHERE i.classoid = 'pg_class'::regclass AND i.objoid = c.oid AND i.objsubid = 0
          AND i.privilege_type = x.privilege_type)
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL aclexplode(c.relacl) AS x JOIN grantees AS g ON g.oid = x.grantee
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 't') AND n.nspname !~ '^pg_(toast_)?temp_'
      AND (c.oid >= 16384 OR g.name !~ '^pg_') AND (n.nspname <> 'information_schema' OR g.name <> 'PUBLIC')
      AND (c.oid >= 16384 OR g.name <> 'PUBLIC' OR NOT EXISTS (
        SELECT FROM initial AS i WHERE i.classoid = 'pg_class'::regclass AND i.objoid = c.oid AND i.objsubid = 0
          AND i.privilege_type = x.privilege_type))
      AND (n.nspname, c.relname, x.privilege_type) <> ('guarddb_catalog', 'change', 'SELECT')
    UNION ALL
    SELECT 'table', format('%%I.%%I', n.nspname, c.relname), x.privilege_type, g.name, a.attname::text,
      pg_has_role(c.relowner, 'USAGE'), false, false, false
    FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL aclexplode(a.attacl) AS x JOIN grantees AS g ON g.oid = x.grantee
    WHERE NOT a.attisdropped AND (c.oid >= 16384 OR g.name !~ '^pg_' AND n.nspname <> 'information_schema' AND NOT EXISTS (
      SELECT FROM initial AS i WHERE i.classoid = 'pg_class'::regclass AND i.objoid = c.oid AND i.objsubid = a.attnum
        AND i.privilege_type = x.privilege_type))
    UNION ALL
    SELECT 'schema', quote_ident(n.nspname), x.privilege_type, g.name, NULL, pg_has_role(n.nspowner, 'USAGE'), false, false, false
    FROM pg_namespace AS n
    CROSS JOIN LATERAL aclexplode(n.nspacl) AS x JOIN grantees AS g ON g.oid = x.grantee
    WHERE n.nspname !~ '^pg_(toast|temp_)'
      AND (x.privilege_type = 'CREATE' OR n.nspname = %(schema)s || '_private')
    UNION ALL
    SELECT 'database', quote_ident(d.datname), x.privilege_type, g.name, NULL, pg_has_role(d.datdba, 'USAGE'), false, false, false
    FROM pg_database AS d
    CROSS JOIN LATERAL aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) AS x JOIN grantees AS g ON g.oid = x.grantee
    WHERE d.datname = current_database() AND x.privilege_type <> 'CONNECT'
    UNION ALL
    SELECT 'function', format('%%I.%%I(%%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)),
      x.privilege_type, g.name, NULL, pg_has_role(p.proowner, 'USAGE'), p.prosecdef,
      g.name = 'PUBLIC' AND p.oid IN (SELECT objoid FROM restricted) AND NOT EXISTS (
        SELECT FROM initial AS i WHERE i.classoid = 'pg_proc'::regclass AND i.objoid = p.oid), false
    FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
    CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS x JOIN grantees AS g ON g.oid = x.grantee
    WHERE p.oid >= 16384 AND n.nspname !~ '^pg_temp_' OR p.oid IN (SELECT objoid FROM restricted)
    UNION ALL
    SELECT 'language', quote_ident(l.lanname), x.privilege_type, g.name, NULL, false, false, false, false
    FROM pg_language AS l CROSS JOIN LATERAL aclexplode(l.lanacl) AS x JOIN grantees AS g ON g.oid = x.grantee
    WHERE NOT l.lanpltrusted
    UNION ALL
    SELECT 'foreign server', quote_ident(s.srvname), x.privilege_type, g.name, NULL, pg_has_role(s.srvowner, 'USAGE'), false, false, false
    FROM pg_foreign_server AS s CROSS JOIN LATERAL aclexplode(s.srvacl) AS x JOIN grantees AS g ON g.oid = x.grantee
    UNION ALL
    SELECT 'foreign-data wrapper', quote_ident(w.fdwname), x.privilege_type, g.name, NULL, pg_has_role(w.fdwowner, 'USAGE'), false, false, false
    FROM pg_foreign_data_wrapper AS w CROSS JOIN LATERAL aclexplode(w.fdwacl) AS x JOIN grantees AS g ON g.oid = x.grantee
    UNION ALL
    SELECT 'parameter', p.parname, x.privilege_type, g.name, NULL, false, false, false, false
    FROM pg_parameter_acl AS p CROSS JOIN LATERAL aclexplode(p.paracl) AS x JOIN grantees AS g ON g.oid = x.grantee
    UNION ALL
    SELECT 'large object', m.oid::text, x.privilege_type, g.name, NULL, false, false, false, false
    FROM pg_largeobject_metadata AS m CROSS JOIN LATERAL aclexplode(m.lomacl) AS x JOIN grantees AS g ON g.oid = x.grantee
    UNION ALL
    SELECT 'default privileges', coalesce(quote_ident(n.nspname), 'every schema') || ', ' ||
        CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS'
          WHEN 'n' THEN 'SCHEMAS' ELSE d.defaclobjtype::text END || ' of ' || d.defaclrole::regrole::text,
      x.privilege_type, g.name, NULL, pg_has_role(d.defaclrole, 'USAGE'), false, false, false
    FROM pg_default_acl AS d LEFT JOIN pg_namespace AS n ON n.oid = d.defaclnamespace
    CROSS JOIN LATERAL aclexplode(d.defaclacl) AS x JOIN grantees AS g ON g.oid = x.grantee
    WHERE d.defaclobjtype IN ('r', 'S') OR d.defaclobjtype IN ('f', 'n') AND g.name <> 'PUBLIC'
    UNION ALL
    SELECT 'ownership', pg_describe_object(d.classid, d.objid, d.objsubid), 'OWNER', 'direct', NULL, false, false, false, false
    FROM pg_shdepend AS d JOIN agent AS a ON d.refobjid = a.oid
    WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype = 'o'
      AND d.dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
      AND (d.classid <> 'pg_class'::regclass OR d.objid IN (
        SELECT oid FROM pg_class AS c WHERE NOT EXISTS (
          SELECT FROM pg_namespace AS n WHERE n.oid = c.relnamespace AND n.nspname ~ '^pg_(toast|temp_)')))
    UNION ALL
    SELECT 'membership', g.name, 'MEMBER', 'direct', NULL, false, false, false, false FROM grantees AS g
    WHERE g.name NOT IN ('PUBLIC', 'direct')
    UNION ALL
    SELECT 'attribute', v.name, v.name, 'direct', NULL, false, false, false, false
    FROM agent AS a CROSS JOIN LATERAL (VALUES
      ('SUPERUSER', a.rolsuper), ('BYPASSRLS', a.rolbypassrls), ('CREATEROLE', a.rolcreaterole),
      ('CREATEDB', a.rolcreatedb), ('REPLICATION', a.rolreplication)) AS v (name, has)
    WHERE v.has
  )
SELECT json_build_object(
  'exists', EXISTS (SELECT FROM agent),
  -- PostgreSQL 16 asks for ADMIN OPTION on the role as well.
  'may_alter', (SELECT u.rolsuper OR u.rolcreaterole AND (
      current_setting('server_version_num')::int < 160000 OR EXISTS (
        SELECT FROM agent AS a WHERE pg_has_role(current_user, a.oid, 'MEMBER WITH ADMIN OPTION')))
    FROM pg_roles AS u WHERE u.rolname = current_user),
  'settings', coalesce((
    SELECT json_agg(c.setting) FROM pg_db_role_setting AS s JOIN agent AS a ON a.oid = s.setrole
    CROSS JOIN LATERAL unnest(s.setconfig) AS c (setting)
    WHERE s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())), '[]'),
  'rights', coalesce((
    SELECT json_agg(json_build_object('kind', kind, 'object', object, 'privilege', privilege, 'via', via,
      'columns', columns, 'revocable', revocable, 'definer', definer, 'closed', closed,
      'brought', brought)
      ORDER BY kind, object, privilege, via, columns) FROM (
        SELECT kind, object, privilege, via, array_agg(columns ORDER BY columns) FILTER (WHERE columns IS NOT NULL) AS columns,
          revocable, definer, closed, brought
        FROM found GROUP BY kind, object, privilege, via, columns IS NULL, revocable, definer, closed, brought) AS f), '[]'),
  'comment', (SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = %(schema)s),
  'usage', (SELECT has_schema_privilege(a.oid, n.oid, 'USAGE') FROM agent AS a, pg_namespace AS n WHERE n.nspname = %(schema)s),
  'views', coalesce((
    SELECT json_agg(c.relname ORDER BY c.relname) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relkind = 'v'), '[]'),
  'policies', coalesce((
    SELECT json_agg(format('%%I.%%I', n.nspname, c.relname) ORDER BY n.nspname, c.relname) FROM pg_policy AS p
    JOIN pg_class AS c ON c.oid = p.polrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE p.polname = %(policy)s AND c.relrowsecurity), '[]')
)::text
