-- One attempt a line; `;;` parts its statements, which run in one transaction, each in a savepoint.
-- writes beside masks
UPDATE customers SET budget = 1500 WHERE id = 1
UPDATE customers SET budget = 1500 WHERE id = 2
UPDATE customers SET bonus = 1500000 WHERE id = 1
UPDATE customers SET rate = 0 WHERE id = 1
UPDATE customers SET rate = 0 WHERE id = 3
UPDATE customers SET n = n + 1
UPDATE customers SET n = 2147483647 WHERE id = 1
UPDATE customers SET n = 2147482000 WHERE id = 1
UPDATE customers SET n = 77 WHERE id = 1
UPDATE customers SET (budget, name) = (1500, 'x') WHERE id = 1
UPDATE sal SET cap = 1500 WHERE id = 1
UPDATE sal SET cap = 1500 WHERE id = 2
UPDATE people SET name = 'x' WHERE id = 1
INSERT INTO customers (id, name, budget) VALUES (1, 'x', 1) ON CONFLICT (id) DO UPDATE SET budget = 1500
MERGE INTO customers c USING (VALUES (1)) v(i) ON c.id = v.i WHEN MATCHED THEN UPDATE SET budget = 1500
INSERT INTO customers (id, name, budget) VALUES (50, 'x', -5)
INSERT INTO customers (id, name, bonus, rate) VALUES (50, 'x', 5, 0)
INSERT INTO customers (id, name, n) VALUES (50, 'x', 1)
INSERT INTO orders VALUES (9, 'raw-aaa@x', NULL, 1)
INSERT INTO orders VALUES (9, 'raw-zz@x', NULL, 1)
UPDATE orders SET customer_email = 'raw-aaa@x' WHERE id = 1
UPDATE pk2 SET a = 3 WHERE a = 1
DELETE FROM pk2 WHERE a = 1
DELETE FROM customers WHERE id = 3
INSERT INTO fk2 (id, a) VALUES (9, 1)
UPDATE fk2 SET a = 2 WHERE id = 1
UPDATE meas SET at = 50 WHERE id = 2
INSERT INTO meas (id, at) VALUES (5, 500)
UPDATE kid SET who = 'x'
UPDATE base SET who = 'x'
UPDATE base SET id = 7 WHERE who = 'w2' RETURNING *
DELETE FROM base WHERE who = 'w1'
DELETE FROM kid WHERE extra = 'e' RETURNING *
-- hidden rows by writes
INSERT INTO docs VALUES (104, 1, 'x', 1, 1)
INSERT INTO docs VALUES (104, 1, 'x', 1, 1) ON CONFLICT DO NOTHING
INSERT INTO docs VALUES (104, 1, 'x', 1, 1) ON CONFLICT (id) DO UPDATE SET title = docs.title
INSERT INTO docs VALUES (104, 1, 'x', 1, 1) ON CONFLICT (id) DO UPDATE SET title = docs.title WHERE docs.tenant = 1
INSERT INTO docs VALUES (104, 1, 'x', 1, 1) ON CONFLICT (id) DO UPDATE SET title = 'z' WHERE false
INSERT INTO docs VALUES (104, 2, 'x', 1, 1) ON CONFLICT DO NOTHING
UPDATE docs SET id = 104 WHERE id = 1
UPDATE docs SET tenant = 2 WHERE id = 1
UPDATE docs SET customer_id = 99 WHERE id = 1
UPDATE docs SET title = title WHERE big = 7 AND 1 / (big - 7) > 0
UPDATE docs SET big = 1/(big-7) RETURNING big
DELETE FROM docs WHERE big = 7
DELETE FROM docs WHERE 1/(big-14) > 0 OR 1/(big-7) > 0
DELETE FROM docs RETURNING *
DELETE FROM docs USING customers c WHERE docs.customer_id = c.id AND 1/(docs.big - 7) < 9 RETURNING docs.*
MERGE INTO docs USING (VALUES (104), (1)) v(i) ON docs.id = v.i WHEN MATCHED THEN UPDATE SET title = 'm' WHEN NOT MATCHED THEN INSERT VALUES (v.i, 1, 'x') RETURNING *
MERGE INTO docs USING (VALUES (104), (1)) v(i) ON docs.id = v.i WHEN MATCHED THEN UPDATE SET title = 'm' WHEN NOT MATCHED THEN DO NOTHING
MERGE INTO docs USING (VALUES (104)) v(i) ON docs.id = v.i WHEN MATCHED THEN DELETE RETURNING old
MERGE INTO docs USING (VALUES (1)) v(i) ON docs.id = v.i WHEN NOT MATCHED BY SOURCE THEN DELETE RETURNING old.*
MERGE INTO docs USING (VALUES (1)) v(i) ON docs.id = v.i WHEN NOT MATCHED BY SOURCE THEN UPDATE SET title = 'gone' RETURNING old, new
MERGE INTO docs USING docs s ON docs.id = s.id WHEN MATCHED AND 1/(s.big - 7) > 0 THEN DO NOTHING
MERGE INTO customers c USING (VALUES (1)) v(i) ON c.id = v.i WHEN MATCHED THEN UPDATE SET name = 'x' RETURNING old, new
MERGE INTO customers c USING (VALUES (1)) v(i) ON c.ssn = 'raw-aaa' WHEN MATCHED THEN UPDATE SET name = 'x' RETURNING merge_action(), c.*
UPDATE customers SET name = 'y' RETURNING old, new
UPDATE customers SET name = 'y' RETURNING old.*, new.*
UPDATE customers SET name = 'y' RETURNING WITH (OLD AS o, NEW AS n) o.ssn, n.ssn, (o).low
DELETE FROM orders RETURNING old, (SELECT customers FROM customers LIMIT 1)
UPDATE trg SET pub = 'z' RETURNING *
UPDATE trg SET pub = pub WHERE 1/(length(pub) - 8) < 9
INSERT INTO evt VALUES (5, 'zz', 1, 1) RETURNING *
INSERT INTO evt VALUES (5, 'a', 1, 2)
UPDATE evt SET kind = 'q' RETURNING *
UPDATE evt SET tenant = 2
INSERT INTO evt_a VALUES (5, 'b', 1, 1)
DELETE FROM evt_b
UPDATE evt_a SET kind = 'b'
UPDATE members SET who = 'me'
INSERT INTO current_members VALUES ('me', 2)
UPDATE current_members SET who = 'me'
UPDATE items SET project = 2
INSERT INTO items VALUES (50, 2, 'x')
INSERT INTO items VALUES (2, 1, 'x')
UPDATE titles SET title = 'x'
-- leaky conditions
SELECT count(*) FROM docs WHERE 1/(big-7) > 0
SELECT count(*) FROM docs WHERE 1/(big-7) > 0 AND tenant = 2
SELECT count(*) FROM docs WHERE title::int = 1
SELECT count(*) FROM docs WHERE title LIKE '%secret-q2\'
SELECT count(*) FROM docs WHERE title ~ '('
SELECT count(*) FROM docs WHERE title SIMILAR TO '%('
SELECT count(*) FROM docs WHERE note >= 's' AND title < (SELECT 'q' COLLATE "POSIX")
SELECT count(*) FROM docs WHERE note >= 's' AND note < ('q' COLLATE "POSIX")
SELECT count(*) FROM docs WHERE title >= 's' AND note < (SELECT 'q' COLLATE "POSIX")
SELECT count(*) FROM docs WHERE note = (SELECT 'secret-q' COLLATE "POSIX")
SELECT count(*) FROM docs a JOIN docs b ON a.note = b.note COLLATE "POSIX"
SELECT count(*) FROM docs a JOIN docs b ON a.title = b.note
SELECT max(note), min(title) FROM docs
SELECT max(big) FROM docs
SELECT title FROM docs ORDER BY big DESC LIMIT 1
SELECT title FROM docs ORDER BY 1/(big-7)
SELECT DISTINCT ON (big) big FROM docs
SELECT count(*) FROM docs d, LATERAL (SELECT 1/(d.big-7)) x
SELECT count(*) FROM docs d LEFT JOIN LATERAL generate_series(1, 100/(d.big-7)) x ON true
SELECT CASE WHEN big = 7 THEN 1/0 END FROM docs
SELECT count(*) FROM docs WHERE CASE WHEN big = 7 THEN 1/0 END = 1
SELECT count(*) FROM docs WHERE coalesce(nullif(big, 7), 1/0) = 1
SELECT count(*) FROM docs WHERE (big = 7) AND (1/(big-7))::text = ''
SELECT count(*) FROM docs WHERE row(big, 1) = row('x'::text, 1)
SELECT count(*) FROM docs WHERE row(big, 1) = ANY (ARRAY[row('x'::text, 1)])
SELECT count(*) FROM docs WHERE id = ANY(ARRAY[104]) AND docs = ANY (ARRAY[ROW(1)]::record[])
SELECT count(*) FROM docs WHERE docs IS NOT NULL
SELECT count(*) FROM docs WHERE docs > ROW(1)::docs
SELECT count(*) FROM docs WHERE docs::text LIKE '%secret%'
SELECT count(*) FROM docs WHERE tenant = 2 AND pg_sleep(0) IS NOT NULL
SELECT count(*) FROM docs WHERE mood = 'nope'
SELECT count(*) FROM docs WHERE mood::text::mood > 'calm'
SELECT count(*) FROM docs WHERE r && '[0,1000)'
SELECT count(*) FROM docs WHERE int4range(big, 3) IS NOT NULL
SELECT count(*) FROM docs WHERE r * int4range(5, big) IS NOT NULL
SELECT width_bucket(big, 7, 7, 5) FROM docs
SELECT count(*) FROM docs WHERE big IN (SELECT 1/(big-7) FROM docs)
SELECT count(*) FROM evt WHERE 1/(n-5) > 0
SELECT count(*) FROM evt WHERE kind::int > 0
SELECT count(*) FROM evt_b WHERE kind = 'secret-q' OR 1/(n-5) > 0
SELECT count(*) FROM items WHERE 1/(project - 2) < 9
SELECT count(*) FROM items WHERE what::int = 1
SELECT count(*) FROM trg WHERE pub::int = 1 AND id > 1
SELECT count(*) FROM sal WHERE 1/(cap - 5000000) > 0
SELECT count(*) FROM grouped WHERE 1/(tenant - 2) > 0
SELECT count(*) FROM titles WHERE title::int > 0 AND id > 50
SELECT count(*) FROM grouped WHERE c > 5
-- masks
SELECT ssn::int FROM customers
SELECT count(*) FROM customers WHERE ssn = 'raw-aaa'
SELECT count(*) FROM customers WHERE ssn > 'raw-b'
SELECT ssn, low, total FROM customers WHERE low = 'raw-aaa' OR total > 5
SELECT count(*) FROM customers WHERE email = 'raw-aaa@x'
SELECT id FROM customers ORDER BY ssn, email, salary
SELECT id FROM customers ORDER BY salary DESC LIMIT 1
SELECT mood, count(*) FROM customers GROUP BY mood
SELECT (home).street FROM customers
SELECT (home).zip, mail, tags[1], doc->>'k' FROM customers
SELECT doc->'k' FROM customers
SELECT c FROM customers c
SELECT c::text FROM customers c
SELECT row_to_json(c) FROM customers c
SELECT xmlforest(ssn, email) FROM customers
SELECT json_agg(c) FROM customers c
SELECT * FROM json_populate_recordset(null::customers, (SELECT json_agg(c) FROM customers c))
SELECT (c).* FROM (SELECT c FROM customers c) x
SELECT (jsonb_populate_record(NULL::public.customers, to_jsonb(c))).ssn FROM customers c
SELECT c::public.customers FROM customers c
SELECT (c::text::public.customers).ssn FROM customers c
SELECT (ROW(c.*)::public.customers).ssn FROM customers c
SELECT public.customers(c) FROM customers c
SELECT NULL::public.customers
SELECT (NULL::public.customers).ssn
SELECT virt, virtn FROM customers
SELECT count(*) FROM customers WHERE virtn > 1500
SELECT ssn FROM people
SELECT ssn FROM barrier WHERE 1/(length(ssn)-10) > 0
SELECT shout FROM people ORDER BY shout
SELECT j->>'ssn', j->>'low' FROM jsoned
SELECT val FROM meas1
SELECT val FROM meas WHERE at > 100 ORDER BY val
SELECT pin, who FROM base
SELECT * FROM kid
SELECT base.*, tableoid FROM base
SELECT m FROM pk2 ORDER BY m
SELECT count(*) FROM pk2 JOIN fk2 USING (m)
SELECT count(*) FROM pk2 NATURAL JOIN fk2
SELECT count(DISTINCT ssn), count(DISTINCT salary) FROM customers
SELECT string_agg(ssn || low || mail, ',') FROM customers
SELECT pg_column_size(ssn), octet_length(mail), pg_column_size(c.*), pg_column_compression(ssn) FROM customers c
SELECT ctid, xmin FROM customers
SELECT ctid, tableoid FROM docs
SELECT public.customers.ssn FROM customers
SELECT ssn FROM public.customers
SELECT 1 FROM public.docs
SELECT count(*) FROM public.customers
SELECT count(*) FROM ONLY public.docs
SELECT id FROM public.customers
-- temp shadowing & functions in pg_temp
CREATE TEMP TABLE members (who text, project int);;INSERT INTO pg_temp.members VALUES ('me', 2);;SELECT * FROM items
CREATE TEMP VIEW members AS SELECT 'me' AS who, 2 AS project;;SELECT * FROM items
CREATE TEMP VIEW current_members AS SELECT 'me' AS who, 2 AS project;;SELECT * FROM items
CREATE TEMP TABLE docs AS SELECT * FROM docs;;SELECT * FROM docs
CREATE TEMP TABLE customers (id int, ssn text);;INSERT INTO customers VALUES (1, 'x');;SELECT * FROM people
SET search_path = pg_temp, public;;CREATE TEMP VIEW v AS SELECT * FROM docs
SET search_path = public;;SELECT * FROM docs
SET search_path = public;;SELECT * FROM customers
SET search_path = {wall}_private;;SELECT * FROM installed
SELECT * FROM {wall}_private.restore
SELECT * FROM {wall}_private.settings
SELECT * FROM {wall}_private.constants
CREATE FUNCTION pg_temp.spy(int) RETURNS bool LANGUAGE plpgsql COST 0.0001 AS $$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$;;SELECT count(*) FROM docs WHERE pg_temp.spy(big)
CREATE FUNCTION pg_temp.spy(int) RETURNS bool LANGUAGE plpgsql COST 0.0001 IMMUTABLE LEAKPROOF AS $$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$;;SELECT count(*) FROM docs WHERE pg_temp.spy(big)
CREATE FUNCTION pg_temp.spy(anyelement) RETURNS bool LANGUAGE plpgsql COST 0.0001 AS $$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$;;SELECT count(*) FROM customers c WHERE pg_temp.spy(c) AND pg_temp.spy(c.ssn)
CREATE FUNCTION pg_temp.spy(int, int) RETURNS bool LANGUAGE plpgsql COST 0.0001 AS $$ BEGIN RAISE NOTICE '% %', $1, $2; RETURN true; END $$;;CREATE OPERATOR pg_temp.=== (leftarg = int, rightarg = int, function = pg_temp.spy);;SELECT count(*) FROM docs WHERE big OPERATOR(pg_temp.===) 1
CREATE FUNCTION pg_temp.spy(int, int) RETURNS bool LANGUAGE plpgsql COST 0.0001 AS $$ BEGIN RAISE NOTICE '% %', $1, $2; RETURN true; END $$;;CREATE OPERATOR pg_temp.= (leftarg = int, rightarg = int, function = pg_temp.spy);;SET search_path = pg_temp, pg_catalog, public;;SELECT count(*) FROM {wall}.docs WHERE big = 1
CREATE FUNCTION pg_temp.spy(int, int) RETURNS bool LANGUAGE plpgsql COST 0.0001 AS $$ BEGIN RAISE NOTICE '% %', $1, $2; RETURN true; END $$;;CREATE OPERATOR pg_temp.=== (leftarg = int, rightarg = int, function = pg_temp.spy, restrict = eqsel, join = eqjoinsel, hashes, merges);;SELECT count(*) FROM docs a JOIN docs b ON a.big OPERATOR(pg_temp.===) b.big
CREATE TYPE pg_temp.shadow AS (ssn text);;SELECT (c::text)::pg_temp.shadow FROM customers c
CREATE DOMAIN pg_temp.d AS text CHECK (value NOT LIKE 'raw%');;SELECT ssn::pg_temp.d, low::pg_temp.d FROM customers
CREATE DOMAIN pg_temp.d AS int CHECK (value <> 7);;SELECT count(*) FROM docs WHERE big::pg_temp.d > 0
CREATE CAST (int AS {wall}.docs) WITHOUT FUNCTION
CREATE FUNCTION pg_temp.c(pg_temp.docs) RETURNS int LANGUAGE sql AS 'SELECT 1'
CREATE TYPE pg_temp.t AS ENUM ('a');;CREATE FUNCTION pg_temp.f(int) RETURNS pg_temp.t LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '%', $1; RETURN 'a'; END $$;;CREATE CAST (int AS pg_temp.t) WITH FUNCTION pg_temp.f(int) AS IMPLICIT;;SELECT count(*) FROM docs WHERE big::pg_temp.t = 'a'
CREATE TEMP TABLE mine (LIKE docs INCLUDING ALL)
CREATE TEMP TABLE mine (LIKE public.docs INCLUDING ALL)
CREATE TEMP TABLE mine (LIKE public.customers INCLUDING STATISTICS)
CREATE TEMP TABLE mine (id int REFERENCES public.docs)
CREATE TEMP TABLE mine (id int REFERENCES public.customers)
CREATE TEMP TABLE mine () INHERITS (public.base)
CREATE TEMP TABLE mine PARTITION OF public.evt FOR VALUES IN ('z')
CREATE TEMP TABLE mine OF public.addr
CREATE TEMP VIEW mine AS SELECT * FROM public.docs;;SELECT * FROM mine
CREATE TEMP VIEW mine WITH (security_invoker) AS SELECT * FROM public.docs;;SELECT * FROM mine
CREATE TEMP VIEW mine AS SELECT ssn FROM {wall}.customers;;SELECT * FROM mine
CREATE TEMP VIEW mine WITH (security_invoker = false) AS SELECT * FROM docs;;SELECT * FROM mine WHERE 1/(big-7) > 0
CREATE TEMP TABLE t AS SELECT * FROM customers;;ANALYZE t;;SELECT * FROM t
CREATE TEMP TABLE t AS SELECT ssn FROM public.customers
SELECT ssn INTO TEMP t FROM public.customers
CREATE TEMP TABLE trg2 (x int);;CREATE FUNCTION pg_temp.tf() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '%', NEW; RETURN NEW; END $$;;CREATE TRIGGER x AFTER INSERT ON {wall}.docs FOR EACH ROW EXECUTE FUNCTION pg_temp.tf()
CREATE FUNCTION pg_temp.tf() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '%', OLD; RETURN NEW; END $$;;CREATE TRIGGER x INSTEAD OF UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION pg_temp.tf()
CREATE RULE r AS ON SELECT TO {wall}.docs DO INSTEAD SELECT 1
CREATE RULE r AS ON INSERT TO docs DO ALSO SELECT 1
CREATE POLICY p ON public.docs USING (true)
ALTER TABLE public.docs DISABLE ROW LEVEL SECURITY
ALTER TABLE public.docs FORCE ROW LEVEL SECURITY
ALTER VIEW docs SET (security_invoker = true)
ALTER VIEW docs OWNER TO CURRENT_USER
DROP VIEW docs
CREATE OR REPLACE VIEW {wall}.docs AS SELECT 1
GRANT SELECT ON docs TO PUBLIC
GRANT SELECT ON public.docs TO CURRENT_USER
COMMENT ON TABLE public.docs IS 'x'
SECURITY LABEL ON TABLE docs IS 'x'
TRUNCATE docs
TRUNCATE public.docs
LOCK TABLE docs IN ACCESS EXCLUSIVE MODE
LOCK TABLE docs IN ACCESS SHARE MODE
LOCK TABLE public.docs IN ACCESS SHARE MODE
ANALYZE public.docs
VACUUM (VERBOSE) public.docs
ANALYZE VERBOSE docs
CLUSTER public.docs
REINDEX TABLE public.docs
REFRESH MATERIALIZED VIEW public.stored
CREATE INDEX ON public.docs (title)
CREATE STATISTICS ss ON title, big FROM public.docs
CREATE STATISTICS pg_temp.ss ON title, big FROM public.docs
CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p
CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION pg_temp.x()
CREATE EXTENSION pgcrypto
CREATE LANGUAGE plperl
CREATE FOREIGN DATA WRAPPER x
CREATE SERVER s FOREIGN DATA WRAPPER x
CREATE USER MAPPING FOR CURRENT_USER SERVER s
IMPORT FOREIGN SCHEMA x FROM SERVER s INTO public
CREATE ACCESS METHOD m TYPE INDEX HANDLER x
CREATE COLLATION pg_temp.c (provider = icu, locale = 'und', deterministic = false);;SELECT count(*) FROM docs WHERE title COLLATE pg_temp.c = 'ONE'
CREATE COLLATION pg_temp.c (locale = 'C');;SELECT count(*) FROM docs WHERE title >= 's' COLLATE pg_temp.c
CREATE AGGREGATE pg_temp.a (text) (sfunc = textcat, stype = text, initcond = '');;SELECT pg_temp.a(title) FROM docs
CREATE AGGREGATE pg_temp.a (text) (sfunc = textcat, stype = text, initcond = '');;SELECT pg_temp.a(ssn) FROM customers
CREATE PROCEDURE pg_temp.p() LANGUAGE plpgsql AS $$ DECLARE r record; BEGIN FOR r IN SELECT * FROM docs LOOP RAISE NOTICE '%', r; END LOOP; END $$;;CALL pg_temp.p()
CREATE PROCEDURE pg_temp.p() LANGUAGE plpgsql SECURITY DEFINER AS $$ DECLARE r record; BEGIN FOR r IN SELECT * FROM public.docs LOOP RAISE NOTICE '%', r; END LOOP; END $$;;CALL pg_temp.p()
DO $$ DECLARE r record; BEGIN FOR r IN SELECT * FROM public.customers LOOP RAISE NOTICE '%', r; END LOOP; END $$
DO $$ DECLARE r {wall}.customers; BEGIN SELECT * INTO r FROM {wall}.customers LIMIT 1; RAISE NOTICE '%', r; END $$
DO $$ DECLARE r public.customers; BEGIN SELECT * INTO r FROM {wall}.customers ORDER BY id LIMIT 1; RAISE NOTICE '%', r; END $$
DO $$ BEGIN EXECUTE 'SET ROLE {stem}_reader'; END $$
SET ROLE {stem}_reader
SET ROLE {stem}_owner
SET SESSION AUTHORIZATION {stem}_reader
SET SESSION AUTHORIZATION DEFAULT
RESET ROLE;;SELECT current_user = session_user
GRANT {stem}_reader TO CURRENT_USER
CREATE ROLE x
ALTER ROLE {agent} BYPASSRLS
ALTER ROLE {agent} SET row_security = off
SET row_security = off;;SELECT * FROM docs
SET row_security = off;;SELECT * FROM items
SET session_replication_role = replica
SET allow_system_table_mods = on
SET debug_print_plan = on;;SET client_min_messages = debug5;;SELECT count(*) FROM docs WHERE title = 'x'
SET log_statement_stats = on
SET client_min_messages = log;;SET log_min_messages = debug5
SET debug_print_rewritten = on;;SET client_min_messages = log;;SELECT count(*) FROM items
SET debug_print_parse = on;;SET client_min_messages = debug1;;SELECT ssn FROM customers
SET plan_cache_mode = force_generic_plan;;PREPARE p(int) AS SELECT count(*) FROM docs WHERE 1/(big-$1) > 0;;EXECUTE p(7)
SET plan_cache_mode = force_generic_plan;;PREPARE p(int) AS SELECT count(*) FROM docs WHERE CASE WHEN big = 7 THEN 1/$1 = 1 END;;EXECUTE p(0)
SET plan_cache_mode = force_custom_plan;;PREPARE p(int) AS SELECT count(*) FROM docs WHERE CASE WHEN big = 7 THEN 1/$1 = 1 END;;EXECUTE p(0)
PREPARE p AS SELECT * FROM docs;;SET search_path = public;;EXECUTE p
PREPARE p AS SELECT * FROM docs WHERE id = $1;;SET row_security = off;;EXECUTE p(104)
DECLARE c SCROLL CURSOR FOR SELECT * FROM docs ORDER BY id;;FETCH ALL c;;FETCH BACKWARD 3 c
DECLARE c CURSOR FOR SELECT * FROM docs FOR UPDATE;;FETCH ALL c
DECLARE c CURSOR FOR SELECT * FROM docs FOR UPDATE;;FETCH c;;UPDATE docs SET title = 'z' WHERE CURRENT OF c
DECLARE c CURSOR FOR SELECT * FROM docs;;FETCH c;;UPDATE public.docs SET title = 'z' WHERE CURRENT OF c
SELECT * FROM docs FOR UPDATE
SELECT * FROM docs FOR SHARE SKIP LOCKED
SELECT * FROM customers FOR UPDATE
SELECT * FROM docs WHERE big = 7 FOR UPDATE NOWAIT
COPY docs TO STDOUT
COPY {wall}.docs TO STDOUT
COPY public.docs TO STDOUT
COPY (SELECT * FROM customers) TO STDOUT
COPY (SELECT * FROM public.customers) TO STDOUT
COPY (DELETE FROM docs RETURNING *) TO STDOUT
COPY docs TO PROGRAM 'cat'
COPY docs TO '/tmp/x'
COPY docs FROM '/etc/passwd'
COPY public.docs (id) TO STDOUT
COPY public.customers (id, n) TO STDOUT
TABLE docs
TABLE public.docs
SELECT * FROM docs TABLESAMPLE SYSTEM (100)
SELECT * FROM public.docs TABLESAMPLE SYSTEM (100)
SELECT lo_create(0) > 0
SELECT lo_import('/etc/passwd')
SELECT lo_get(1)
SELECT count(*) FROM pg_largeobject
SELECT pg_try_advisory_lock(1);;SELECT pg_advisory_unlock(1)
LISTEN x;;NOTIFY x, 'y'
SELECT pg_notify('x', (SELECT string_agg(ssn, ',') FROM customers))
SELECT count(*) FROM docs WHERE pg_notify('x', title) IS NULL
SELECT set_config('app.x', (SELECT string_agg(title, ',') FROM docs), false)
SELECT currval('public.plain_id_seq')
SELECT nextval('public.plain_id_seq') > 0
SELECT last_value FROM public.plain_id_seq
SELECT setval('public.plain_id_seq', 1)
SELECT pg_sequence_last_value('public.plain_id_seq'::regclass)
SELECT * FROM pg_sequences
SELECT dblink('x')
SELECT pg_read_file('/etc/passwd')
SELECT pg_ls_dir('.')
SELECT pg_stat_file('x')
SELECT query_to_xml('SELECT * FROM public.docs', true, true, '')
SELECT table_to_xml('public.docs', true, true, '')
SELECT schema_to_xml('public', true, true, '')
SELECT schema_to_xml('{wall}', true, true, '')
SELECT cursor_to_xml('c', 1, true, true, '')
SELECT ts_stat('SELECT to_tsvector(ssn) FROM public.customers')
SELECT ts_rewrite('a'::tsquery, 'SELECT title::tsquery, title::tsquery FROM public.docs')
SELECT * FROM ts_stat('SELECT to_tsvector(ssn) FROM {wall}.customers')
SELECT pg_get_viewdef('{wall}.docs'::regclass)
SELECT pg_get_expr(polqual, polrelid) FROM pg_policy ORDER BY 1
SELECT pg_describe_object('pg_class'::regclass, 'public.docs'::regclass, 0)
SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'public.customers'::regclass ORDER BY 1
SELECT pg_get_partkeydef('public.evt'::regclass), pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname IN ('evt', 'evt_a', 'evt_b')
SELECT pg_relation_size('public.docs') > 0
SELECT tablename, attname, null_frac FROM pg_stats WHERE schemaname = 'public' ORDER BY 1, 2
SELECT tablename, statistics_name, most_common_vals FROM pg_stats_ext
SELECT * FROM pg_stats_ext_exprs
SELECT * FROM pg_statistic_ext_data
SELECT stxname, stxkeys FROM pg_statistic_ext
SELECT attname, attmissingval FROM pg_attribute WHERE attmissingval IS NOT NULL
SELECT * FROM pg_stat_statements
SELECT query FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND query IS NOT NULL AND query NOT LIKE '<insu%'
SELECT pg_stat_get_live_tuples('public.secrets'::regclass) >= 0
SELECT * FROM pg_locks WHERE false
SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()
SELECT * FROM pg_prepared_statements
SELECT * FROM pg_cursors
SELECT brin_page_items('x', 1)
SELECT * FROM bt_page_items('docs_pkey', 1)
SELECT get_raw_page('public.docs', 0)
SELECT * FROM pgstattuple('public.docs')
SELECT pg_get_publication_tables('x')
SELECT * FROM pg_logical_slot_get_changes('x', NULL, NULL)
SELECT pg_create_logical_replication_slot('x', 'test_decoding')
SELECT pg_logical_emit_message(false, 'a', 'b') IS NOT NULL
SELECT pg_walfile_name(pg_current_wal_lsn()) IS NOT NULL
SELECT txid_current() IS NOT NULL
SELECT pg_export_snapshot() IS NOT NULL
SELECT has_table_privilege('public.docs', 'select'), has_any_column_privilege('public.customers', 'select')
SELECT pg_terminate_backend(0)
SELECT pg_reload_conf()
SELECT pg_rotate_logfile()
SELECT gist_translate_cmptype_common(1)
SELECT satisfies_hash_partition('public.evt'::regclass, 1, 0, 1)
SELECT pg_input_is_valid('raw', 'public.mail')
SELECT * FROM pg_input_error_info('', 'mail')
SELECT ''::mail
SELECT 'x'::mood
SELECT enum_range(NULL::mood)
SELECT peek()
SELECT twice(1)
SELECT public.twice(big) FROM docs
SELECT * FROM public.peek()
SELECT {wall}.setting('x')
SELECT convert_from(sha256('x'), 'UTF8') IS NULL
SELECT pg_typeof(c) FROM customers c LIMIT 1
SELECT * FROM customers c, jsonb_to_record(to_jsonb(c)) AS x(ssn text, low text, salary int)
SELECT * FROM customers c, jsonb_each(to_jsonb(c)) e WHERE e.key IN ('ssn', 'low', 'total', 'salary', 'virt')
SELECT * FROM JSON_TABLE((SELECT jsonb_agg(c) FROM customers c), '$[*]' COLUMNS (ssn text, salary int))
SELECT JSON_QUERY(to_jsonb(c), '$.ssn') FROM customers c
SELECT JSON_OBJECT('a': c.ssn, 'b': c.low) FROM customers c
SELECT xmltable.* FROM XMLTABLE('/r/x' PASSING (SELECT xmlelement(name r, xmlagg(xmlelement(name x, ssn))) FROM customers) COLUMNS a text PATH '.')
SELECT array_agg(c ORDER BY c) FROM (SELECT id, ssn, low FROM customers) c
SELECT ssn, rank() OVER (ORDER BY ssn), lag(salary) OVER (ORDER BY salary) FROM customers ORDER BY id
SELECT count(*) FILTER (WHERE ssn > 'r') FROM customers
SELECT GROUPING(ssn), ssn, count(*) FROM customers GROUP BY ROLLUP (ssn)
WITH RECURSIVE r AS (SELECT id, ssn FROM customers WHERE id = 1 UNION SELECT c.id, c.ssn FROM customers c JOIN r ON c.id = r.id + 1) SELECT * FROM r
WITH x AS MATERIALIZED (SELECT * FROM docs) SELECT count(*) FROM x WHERE 1/(big-7) > 0
WITH x AS NOT MATERIALIZED (SELECT * FROM docs) SELECT count(*) FROM x WHERE 1/(big-7) > 0
SELECT count(*) FROM (SELECT * FROM docs OFFSET 0) x WHERE 1/(big-7) > 0
SELECT * FROM docs WHERE (SELECT 1/(docs.big-7)) > 0
SELECT * FROM docs WHERE EXISTS (SELECT 1 FROM plain WHERE 1/(docs.big-7) = plain.id)
SELECT * FROM plain WHERE id IN (SELECT 1/(big-7) FROM docs)
SELECT * FROM plain p LEFT JOIN docs d ON d.big = p.id AND 1/(d.big-7) > 0
SELECT * FROM plain p RIGHT JOIN docs d ON 1/(d.big-7) > p.id
SELECT * FROM plain p FULL JOIN docs d ON d.big = p.id WHERE coalesce(1/(d.big-7), 0) = 0
SELECT * FROM docs a JOIN docs b USING (big) WHERE 1/(a.big-7) > 0
SELECT big FROM docs UNION SELECT 1/(big-7) FROM docs
SELECT big FROM docs EXCEPT SELECT big FROM docs WHERE 1/(big-7) > 0
SELECT count(*) FROM docs HAVING max(1/(big-7)) > 0
SELECT tenant, count(*) FROM docs GROUP BY tenant HAVING 1/(tenant-2) < 9
SELECT * FROM docs LIMIT (SELECT max(1/(big-7))+9 FROM docs)
SELECT * FROM docs WHERE id BETWEEN 1 AND 1/(big-7)
SELECT count(*) FROM docs WHERE to_char(big, title) = 'x'
SELECT count(*) FROM docs WHERE format(title, 1) = 'x'
SELECT count(*) FROM docs WHERE title::regclass IS NULL
SELECT count(*) FROM docs WHERE pg_catalog.texteq(title, 'secret-q1')
SELECT count(*) FROM docs WHERE starts_with(title, 'secret')
SELECT count(*) FROM docs WHERE title ^@ 'secret'
SELECT count(*) FROM docs WHERE lower(note) = 'secret-q'
SELECT count(*) FROM docs WHERE lower(note) > 's' AND length(lower(note)) > 0 AND repeat(note, 1000000000) > ''
SELECT count(*) FROM docs WHERE repeat(title, 1000000000) > ''
SELECT count(*) FROM docs WHERE set_byte(title::bytea, 9, 1) IS NOT NULL
EXPLAIN (COSTS OFF) SELECT * FROM docs WHERE big = 7
EXPLAIN (COSTS OFF, VERBOSE) SELECT * FROM items
EXPLAIN (COSTS OFF) SELECT * FROM evt WHERE kind = 'secret-q'
EXPLAIN (VERBOSE, COSTS OFF) SELECT ssn, low, virt FROM customers
EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) SELECT * FROM customers WHERE ssn > 'r'
EXPLAIN (MEMORY, COSTS OFF) SELECT 1
SHOW default_transaction_read_only;;SELECT current_setting('search_path')
DISCARD ALL
RESET ALL;;SELECT * FROM docs
SET TRANSACTION ISOLATION LEVEL SERIALIZABLE;;SELECT * FROM docs
CHECKPOINT
ALTER SYSTEM SET x = 1
ALTER DATABASE postgres SET x = 1
CREATE TABLE public.mine (x int)
CREATE TABLE {wall}.mine (x int)
CREATE TABLE pg_temp.mine (x int);;SELECT * FROM mine
CREATE TABLESPACE x LOCATION '/tmp'
CREATE DATABASE x
ALTER TABLE public.docs ADD COLUMN x int
ALTER TYPE public.mood ADD VALUE 'x'
ALTER FUNCTION public.twice(int) LEAKPROOF
CREATE OR REPLACE FUNCTION public.twice(int) RETURNS int LANGUAGE sql AS 'SELECT 1'
REASSIGN OWNED BY CURRENT_USER TO {agent}
SELECT lo_from_bytea(0, string_agg(title, ',')::bytea) > 0 FROM docs
ALTER LARGE OBJECT 1 OWNER TO CURRENT_USER
COMMENT ON COLUMN public.customers.ssn IS 'x'
SELECT col_description('public.customers'::regclass, 3)
SELECT * FROM information_schema.columns WHERE table_name = 'secrets' AND table_schema = 'public'
SELECT column_name FROM information_schema.columns WHERE table_name = 'customers' ORDER BY 1, table_schema
SELECT * FROM information_schema.tables WHERE table_name = 'secrets'
SELECT view_definition FROM information_schema.views WHERE table_name = 'docs'
SELECT check_clause FROM information_schema.check_constraints ORDER BY 1 LIMIT 3
SELECT pg_get_ruledef(oid) FROM pg_rewrite WHERE ev_class = '{wall}.customers'::regclass
SELECT prosrc FROM pg_proc WHERE proname = 'peek'
SELECT amcheck.bt_index_check('docs_pkey')
SELECT pg_column_toast_chunk_id(ssn) FROM customers
SELECT count(*) FROM docs CROSS JOIN LATERAL (SELECT random() < 2 WHERE docs.id > 0) x
SELECT setseed(0.5);;SELECT count(*) FROM docs WHERE random() > 2;;SELECT random()
SELECT setseed(0.5);;SELECT count(*) FROM docs WHERE id > random()*-1;;SELECT random()
CREATE TEMP SEQUENCE s;;SELECT count(*) FROM docs WHERE nextval('s') > 0;;SELECT currval('s')
CREATE TEMP SEQUENCE s;;SELECT count(*) FROM docs WHERE id > nextval('s') - 100000;;SELECT currval('s')
CREATE TEMP SEQUENCE s;;SELECT count(*) FROM customers WHERE ssn > nextval('s')::text;;SELECT currval('s')
