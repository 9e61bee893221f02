-- One text that changes when anything of an installed wall does: definitions, owners, rights, row security. %(schema)s,
-- %(policy)s, %(reader)s, %(keeper)s. Run it with search_path = pg_catalog.
SELECT md5(coalesce(string_agg(part, E'\n' ORDER BY part COLLATE "C"), '')) FROM (
  SELECT concat_ws('|', 'view', n.nspname, c.relname, c.relkind, c.relowner::regrole, c.reloptions::text, pg_get_viewdef(c.oid),
    (SELECT string_agg(concat(x.grantee::regrole, ' ', x.privilege_type), ','
      ORDER BY x.grantee::regrole::text COLLATE "C", x.privilege_type COLLATE "C")
     FROM (SELECT * FROM aclexplode(c.relacl) UNION ALL
       SELECT e.grantor, e.grantee, a.attname || ' ' || e.privilege_type, e.is_grantable
       FROM pg_attribute AS a CROSS JOIN LATERAL aclexplode(a.attacl) AS e WHERE a.attrelid = c.oid) AS x)) AS part
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE n.nspname IN (%(schema)s, %(schema)s || '_private') AND c.relkind IN ('v', 'm')
  UNION ALL
  SELECT concat_ws('|', 'function', pg_get_functiondef(p.oid), p.proowner::regrole,
    (SELECT string_agg(concat(x.grantee::regrole, ' ', x.privilege_type), ','
      ORDER BY x.grantee::regrole::text COLLATE "C", x.privilege_type COLLATE "C") FROM aclexplode(p.proacl) AS x))
  FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
  WHERE n.nspname IN (%(schema)s, %(schema)s || '_private')
  UNION ALL
  SELECT concat_ws('|', 'rule', c.relname, pg_get_ruledef(r.oid), r.ev_enabled)
  FROM pg_rewrite AS r JOIN pg_class AS c ON c.oid = r.ev_class JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE n.nspname IN (%(schema)s, %(schema)s || '_private') AND r.rulename <> '_RETURN'
  UNION ALL
  SELECT concat_ws('|', 'trigger', c.relname, pg_get_triggerdef(t.oid), t.tgenabled)
  FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE n.nspname IN (%(schema)s, %(schema)s || '_private') AND NOT t.tgisinternal
  UNION ALL
  SELECT concat_ws('|', 'policy', p.polrelid::regclass, p.polname, p.polpermissive, p.polcmd,
    (SELECT string_agg(r::regrole::text, ',' ORDER BY r::regrole::text COLLATE "C") FROM unnest(p.polroles) AS r),
    pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid), c.relrowsecurity)
  FROM pg_policy AS p JOIN pg_class AS c ON c.oid = p.polrelid
  WHERE p.polname = %(policy)s OR p.polname = 'guarddb_everyone' AND EXISTS (
    SELECT FROM pg_policy AS o WHERE o.polrelid = p.polrelid AND o.polname = %(policy)s)
  UNION ALL
  SELECT concat_ws('|', 'right', c.oid::regclass, x.grantee::regrole, x.privilege_type, x.attname)
  FROM pg_class AS c
  CROSS JOIN LATERAL (
    SELECT e.grantee, e.privilege_type, NULL AS attname FROM aclexplode(c.relacl) AS e
    UNION ALL
    SELECT e.grantee, e.privilege_type, a.attname FROM pg_attribute AS a CROSS JOIN LATERAL aclexplode(a.attacl) AS e
    WHERE a.attrelid = c.oid AND NOT a.attisdropped) AS x
  WHERE c.oid >= 16384 AND x.grantee IN (SELECT oid FROM pg_roles WHERE rolname IN (%(reader)s, %(keeper)s))
  UNION ALL
  SELECT concat_ws('|', 'role', r.rolname, r.rolsuper, r.rolbypassrls, r.rolcanlogin, r.rolcreaterole)
  FROM pg_roles AS r WHERE r.rolname IN (%(reader)s, %(keeper)s)
  UNION ALL
  SELECT concat_ws('|', 'member', m.roleid::regrole, m.member::regrole)
  FROM pg_auth_members AS m
  WHERE (m.member IN (SELECT oid FROM pg_roles WHERE rolname IN (%(reader)s, %(keeper)s)))
) AS parts
