-- One of everything that a wall has to decide about. Raw values of masked columns begin with "raw", hidden rows with "secret".
CREATE TABLE customers (
  id int PRIMARY KEY, name text NOT NULL, ssn text, email text UNIQUE, born date, seen timestamptz, n int DEFAULT 1,
  low text GENERATED ALWAYS AS (lower(ssn)) STORED);
INSERT INTO customers (id, name, ssn, email, born, seen) VALUES
  (1, 'Ann', 'raw-1', 'raw-ann@example.org', '1980-01-01', '2024-01-01 00:30+00'),
  (2, 'Bob', 'raw-2', 'raw-bob@example.org', NULL, NULL),
  (3, 'Cy', NULL, NULL, '1990-05-05', '2024-06-01 12:00+00');
CREATE TABLE docs (id int PRIMARY KEY, tenant int NOT NULL, title text NOT NULL, big int, customer_id int REFERENCES customers);
INSERT INTO docs VALUES (1, 1, 'one', 1, 1), (2, 1, 'two', 2, 2), (3, 2, 'secret three', 7, 3), (4, 2, 'secret\', 7, 1);
CREATE INDEX ON docs (title);
CREATE TABLE plain (id serial PRIMARY KEY, word text, doc int);
INSERT INTO plain (word, doc) VALUES ('a', 1), ('b', 2);
CREATE TABLE secrets (id int, what text);
INSERT INTO secrets VALUES (1, 'secret');
CREATE VIEW people AS SELECT id, name, ssn, upper(email) AS shout FROM customers;
CREATE VIEW titles AS SELECT d.id, d.title, c.name FROM docs AS d LEFT JOIN customers AS c ON c.id = d.customer_id;
CREATE VIEW per_doc AS SELECT d.id, d.title, count(*) AS n FROM docs AS d JOIN plain AS p ON p.doc = d.id GROUP BY d.id;
CREATE VIEW over_view AS SELECT * FROM titles WHERE id > 0;
CREATE VIEW tells AS SELECT what FROM secrets;
CREATE MATERIALIZED VIEW stored AS SELECT title FROM docs;
CREATE MATERIALIZED VIEW words AS SELECT word FROM plain;
CREATE FUNCTION peek() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS 'SELECT ssn FROM public.customers';
CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {app}, {agent};
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {app};
GRANT SELECT ON plain TO PUBLIC;
ANALYZE customers; ANALYZE docs;
