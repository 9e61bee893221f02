-- What an agent may not see differs between two databases with this schema, and nothing else: masked values (begin with "raw"),
-- hidden rows and denied ones (with "secret"), and how many of them there are. {s1}, {s2}, {h}: texts; {k}: 1 or 2; {virtual}:
-- virtual columns, where there are any.
CREATE DOMAIN mail AS text CHECK (VALUE <> '');
CREATE TYPE mood AS ENUM ('calm', 'loud', 'odd');
CREATE TYPE addr AS (street text, zip int);
CREATE TABLE customers (
  id int PRIMARY KEY, name text NOT NULL, ssn text, email text UNIQUE, born date, seen timestamptz, n int DEFAULT 1,
  low text GENERATED ALWAYS AS (lower(ssn)) STORED, home addr, mail mail, mood mood, tags text[], doc jsonb, salary int, budget int DEFAULT 100000,
  bonus int DEFAULT 1, rate int DEFAULT 1, total int GENERATED ALWAYS AS (salary * bonus) STORED, coll text COLLATE "C",
  {virtual} CONSTRAINT in_budget CHECK (salary <= budget), CONSTRAINT other CHECK (n <> 77));
CREATE INDEX cust_rate ON customers ((salary / rate));
CREATE UNIQUE INDEX cust_pair ON customers (n, ssn);
CREATE INDEX cust_part ON customers (id) WHERE salary + n > 0;
CREATE STATISTICS cs ON ssn, born FROM customers;
INSERT INTO customers (id, name, ssn, email, born, seen, home, mail, mood, tags, doc, salary, n) VALUES
  (1, 'Ann', {s1}, {s1} || '@x', '1980-01-01'::date + {k}, '2024-01-01 00:30+00'::timestamptz + {k} * interval '1 h', ROW({s1}, {k}), {s1}, CASE {k} WHEN 1 THEN 'calm' ELSE 'loud' END::mood, ARRAY[{s1}], jsonb_build_object('k', {s1}), 1000 * {k}, 1),
  (2, 'Bob', {s2}, {s2} || '@x', NULL, NULL, NULL, {s2}, 'odd', ARRAY[{s2}, 'x'], '{"a": 1}', 3000 - 1000 * {k}, 2),
  (3, 'Cy', NULL, NULL, '1990-05-05', '2024-06-01 12:00+00', NULL, NULL, NULL, NULL, NULL, NULL, 3);
CREATE TABLE docs (id int PRIMARY KEY, tenant int NOT NULL, title text NOT NULL, big int, customer_id int REFERENCES customers, r int4range, note text COLLATE "C", mood mood DEFAULT 'calm',
  EXCLUDE USING gist (r WITH &&));
INSERT INTO docs VALUES (1, 1, 'one', 1, 1, '[1,2)', 'n1'), (2, 1, 'two', 2, 2, '[3,4)', 'n2');
INSERT INTO docs SELECT 100 + i * {k}, 2, {h} || i || CASE i % 2 WHEN 0 THEN E'\\' ELSE '' END, 7 * {k}, 3, int4range(100 * i + {k}, 100 * i + {k} + 5), {h} FROM generate_series(1, 20 * {k}) i;
CREATE INDEX ON docs (title); CREATE INDEX ON docs (big); CREATE INDEX ON docs (lower(note));
CREATE STATISTICS ds (mcv) ON title, tenant FROM docs;
CREATE TABLE evt (id int, kind text, n int, tenant int) PARTITION BY LIST (kind);
CREATE TABLE evt_a PARTITION OF evt FOR VALUES IN ('a');
CREATE TABLE evt_b PARTITION OF evt DEFAULT;
INSERT INTO evt VALUES (1, 'a', 1, 1), (2, 'b', 0, 1);
INSERT INTO evt SELECT 10 + i, CASE i % 2 WHEN 0 THEN 'a' ELSE {h} END, 5, 2 FROM generate_series(1, 5 * {k}) i;
CREATE TABLE meas (id int, at int, val text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE meas1 PARTITION OF meas FOR VALUES FROM (0) TO (100);
CREATE TABLE meas2 PARTITION OF meas FOR VALUES FROM (100) TO (200);
INSERT INTO meas VALUES (1, 1, {s1}), (2, 150, {s2});
CREATE TABLE base (id int, who text, pin text); CREATE TABLE kid (extra text) INHERITS (base);
INSERT INTO base VALUES (1, 'w1', {s1}); INSERT INTO kid VALUES (2, 'w2', {s2}, 'e');
CREATE TABLE orders (id int PRIMARY KEY, customer_email text REFERENCES customers (email), customer_id int REFERENCES customers ON UPDATE CASCADE, qty int);
INSERT INTO orders VALUES (1, NULL, 1, 3), (2, NULL, 2, 4);
CREATE TABLE members (who text, project int);
CREATE VIEW current_members AS SELECT who, project FROM members;
CREATE TABLE items (id int PRIMARY KEY, project int, what text);
INSERT INTO members VALUES ('me', 1), ('you', 2); INSERT INTO items VALUES (1, 1, 'mine');
INSERT INTO items SELECT 1 + i, 2, {h} FROM generate_series(1, 2 * {k}) i;
CREATE TABLE plain (id serial PRIMARY KEY, word text, doc int);
INSERT INTO plain (word, doc) VALUES ('a', 1), ('b', 2);
CREATE TABLE secrets (id int, what text); INSERT INTO secrets SELECT i, {h} FROM generate_series(1, 3 * {k}) i;
CREATE VIEW people AS SELECT id, name, ssn, upper(email) AS shout FROM customers;
CREATE VIEW titles AS SELECT d.id, d.title, c.name FROM docs AS d LEFT JOIN customers AS c ON c.id = d.customer_id;
CREATE VIEW grouped AS SELECT tenant, count(*) AS c FROM docs GROUP BY tenant;
CREATE VIEW tells AS SELECT what FROM secrets;
CREATE VIEW rowed AS SELECT c FROM customers AS c;
CREATE VIEW jsoned AS SELECT to_jsonb(c) AS j FROM customers AS c;
CREATE VIEW barrier WITH (security_barrier) AS SELECT id, ssn FROM customers WHERE id > 0;
CREATE MATERIALIZED VIEW stored AS SELECT title FROM docs;
CREATE FUNCTION peek() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS 'SELECT ssn FROM public.customers';
CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
CREATE TABLE trg (id int, tenant int, pub text); INSERT INTO trg VALUES (1, 1, 'x'); INSERT INTO trg SELECT 1 + i, 2, {h} FROM generate_series(1, {k}) i;
CREATE TABLE log (line text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'row % %', OLD, NEW; RETURN NEW; END $$;
CREATE TRIGGER t BEFORE UPDATE ON trg FOR EACH ROW EXECUTE FUNCTION note();
CREATE TABLE sal (id int PRIMARY KEY, cap int, salary int, tenant int DEFAULT 1);
INSERT INTO sal VALUES (1, 5000000, 1000 * {k}), (2, 5000000, 3000 - 1000 * {k});
CREATE TABLE pk2 (a int, m text, PRIMARY KEY (a, m)); INSERT INTO pk2 VALUES (1, {s1}), (2, {s2});
CREATE TABLE fk2 (id int, a int, m text, FOREIGN KEY (a, m) REFERENCES pk2); INSERT INTO fk2 VALUES (1, 1, {s1}), (2, 2, {s2});
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {app}, {agent};
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {app};
