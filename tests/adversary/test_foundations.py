"""What a policy stands on, and definitions: classes of attempts under a role of its own, and their harmless neighbours.

Each attempt is judged with the catalog of a real server and sent through a guarded connection; a neighbour must run there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import guarddb
from tests.fix_server import temporary_database

SCHEMA = """
CREATE ROLE {role} LOGIN;
GRANT CREATE, USAGE ON SCHEMA public TO {role};
CREATE SCHEMA other AUTHORIZATION {role};
CREATE SCHEMA team AUTHORIZATION {role};
CREATE DOMAIN mail AS text;
CREATE DOMAIN inner_mail AS mail;
CREATE DOMAIN free_text AS text;
CREATE TYPE mood AS ENUM ('open', 'secret');
CREATE TYPE colour AS ENUM ('red', 'blue');
CREATE TYPE pair AS (a int, b text);
CREATE TYPE loose AS (a int, b text);
CREATE TABLE customers (id int PRIMARY KEY, email mail UNIQUE, ssn text UNIQUE, name text, born timestamptz, weight float8, box pair);
CREATE UNIQUE INDEX customers_lower ON customers (lower(ssn));
CREATE TABLE coded (code text PRIMARY KEY, note text);
CREATE TABLE tenants (id int PRIMARY KEY, name text);
CREATE TABLE regions (id int PRIMARY KEY, name text);
CREATE TABLE deals (id int PRIMARY KEY, tenant int REFERENCES tenants ON UPDATE CASCADE ON DELETE CASCADE, note text,
  region int REFERENCES regions, mood mood, visible_on date, box pair);
CREATE TABLE members (project int, who text, PRIMARY KEY (project, who));
CREATE TABLE archive (project int, who text);
CREATE VIEW my_projects AS SELECT project, who FROM members WHERE who = 'me';
CREATE FUNCTION is_open(int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT EXISTS (SELECT 1 FROM archive WHERE project = $1)';
CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
CREATE FUNCTION free(int) RETURNS int LANGUAGE sql AS 'SELECT $1';
CREATE TABLE parted (id int, kind text) PARTITION BY LIST (kind);
CREATE TABLE parted_a PARTITION OF parted FOR VALUES IN ('a');
CREATE TABLE parted_rest PARTITION OF parted DEFAULT;
CREATE TABLE plain (id int PRIMARY KEY, v text, n int, tenant int, c colour, f free_text);
CREATE INDEX plain_n ON plain (n);
CREATE TABLE above (id int, tenant int, code text, n int,
  CONSTRAINT has_code NOT NULL code NO INHERIT, CONSTRAINT has_n NOT NULL n NO INHERIT);
CREATE TABLE beneath () INHERITS (above);
CREATE VIEW plain_view AS SELECT id, v FROM plain;
CREATE VIEW tenant_view AS SELECT id AS number, name AS id FROM tenants;
CREATE VIEW tenant_view2 AS SELECT number AS n, id AS name FROM tenant_view;
CREATE SEQUENCE numbers;
CREATE TABLE staff (id int PRIMARY KEY, salary int, budget int, bonus int, note text, rate int,
  total int GENERATED ALWAYS AS (salary * bonus) STORED, CONSTRAINT in_budget CHECK (salary <= budget), CHECK (budget > rate));
CREATE INDEX staff_rate ON staff ((salary / rate));
INSERT INTO staff VALUES (1, 700, 1000, 1, 'x', 1);
CREATE VIEW staff_view AS SELECT id, budget AS limit_of, note FROM staff;
CREATE TABLE plans (id int PRIMARY KEY, name text);
CREATE TABLE subs (id int, plan int REFERENCES plans ON UPDATE CASCADE ON DELETE CASCADE,
  old_plan int REFERENCES plans ON UPDATE CASCADE ON DELETE SET NULL, note text);
INSERT INTO plans VALUES (1, 'basic'), (2, 'full'), (3, 'none');
INSERT INTO subs VALUES (1, 1, NULL, 'x'), (2, 2, 1, 'y');
CREATE TABLE watched (id int, what regclass);
CREATE TABLE numbered (id int GENERATED ALWAYS AS IDENTITY, v text);
INSERT INTO customers (id, email, ssn, name) VALUES (1, 'a@x', '111', 'ada');
INSERT INTO tenants VALUES (1, 'one'), (2, 'two');
INSERT INTO deals (id, tenant, note, mood) VALUES (1, 1, 'mine', 'open'), (2, 2, 'hidden', 'secret');
INSERT INTO members VALUES (1, 'me'), (2, 'you');
INSERT INTO plain VALUES (1, 'x', 1, 1);
"""
OWNED = [
    "customers",
    "coded",
    "tenants",
    "regions",
    "deals",
    "members",
    "archive",
    "parted",
    "parted_a",
    "parted_rest",
    "plain",
    "above",
    "beneath",
    "numbered",
    "staff",
    "plans",
    "subs",
]
TYPES = ["mail", "inner_mail", "free_text", "mood", "colour", "pair", "loose"]

MASKED: dict[str, Any] = {
    "name": "masked",
    "access_mode": "read_write",
    "statement_rules": {
        "allow": [
            "select",
            "insert",
            "update",
            "delete",
            "ddl",
            "copy",
            "set",
            "show",
            "explain",
            "transaction",
            "other",
        ]
    },
    "masking_rules": [
        {"table": "customers", "column": "email", "kind": "redact"},
        {"table": "customers", "column": "ssn", "kind": "null"},
        {"table": "customers", "column": "box", "kind": "null"},
        {"table": "coded", "column": "code", "kind": "redact"},
        {"table": "staff", "column": "salary", "kind": "null"},
        {"table": "parted", "column": "kind", "kind": "redact"},
        {"table": "above", "column": "code", "kind": "redact"},
    ],
}
FILTERED: dict[str, Any] = {
    **{key: value for key, value in MASKED.items() if key != "masking_rules"},
    "name": "filtered",
    "row_filters": [
        {"table": "deals", "predicate": "tenant = 1 AND mood = 'open'"},
        {"table": "parted", "predicate": "id > 0"},
        {"table": "above", "predicate": "tenant = 1"},
    ],
}
COMPARED: dict[str, Any] = {
    **MASKED,
    "name": "compared",
    "row_filters": [{"table": "staff", "predicate": "salary <= budget"}],
}
STANDING: dict[str, Any] = {
    **FILTERED,
    "name": "standing",
    "row_filters": [
        {"table": "deals", "predicate": "region IN (SELECT m.project FROM members m WHERE m.who = 'me')"},
        {"table": "plain", "predicate": "public.is_open(plain.tenant)"},
        {"table": "coded", "predicate": "note IN (SELECT p.who FROM my_projects p)"},
    ],
}
HASHED: dict[str, Any] = {
    **MASKED,
    "name": "hashed",
    "masking_rules": [
        {"table": "customers", "column": "born", "kind": "hash"},
        {"table": "customers", "column": "weight", "kind": "hash"},
        {"table": "deals", "column": "mood", "kind": "hash"},
        {"table": "deals", "column": "box", "kind": "hash"},
        {"table": "watched", "column": "what", "kind": "hash"},
    ],
}
DATED: dict[str, Any] = {
    **FILTERED,
    "name": "dated",
    "row_filters": [{"table": "deals", "predicate": "visible_on <= current_date"}],
}
# ruff: noqa: E501
NOTHING: dict[str, Any] = {**{k: v for k, v in MASKED.items() if k != "masking_rules"}, "name": "nothing"}

PLANS: dict[str, Any] = {
    **NOTHING,
    "name": "plans",
    "masking_rules": [{"table": "subs", "column": "plan", "kind": "hash"}],
}
HIDDEN_PLANS: dict[str, Any] = {
    **NOTHING,
    "name": "hidden plans",
    "masking_rules": [
        {"table": "subs", "column": "plan", "kind": "null"},
        {"table": "subs", "column": "old_plan", "kind": "null"},
    ],
}
REDACTED_PLANS: dict[str, Any] = {
    **NOTHING,
    "name": "redacted plans",
    "masking_rules": [{"table": "subs", "column": "old_plan", "kind": "redact"}],
}

LISTED: dict[str, Any] = {
    **NOTHING,
    "name": "listed",
    "guarddb": {"function_allowlist": ["with_tax", "team.*"]},
}

DENIED: dict[str, Any] = {**NOTHING, "name": "denied", "table_denylist": ["coded"]}
ALLOWED: dict[str, Any] = {**NOTHING, "name": "allowed", "table_allowlist": ["plain"]}

ATTEMPTS: dict[str, tuple[dict[str, Any], str]] = {
    # what looks at masked values
    "domain check": (MASKED, "ALTER DOMAIN mail ADD CHECK (value <> 'a@x')"),
    "domain named check": (MASKED, "ALTER DOMAIN public.mail ADD CONSTRAINT c CHECK (value <> 'a@x') NOT VALID"),
    "domain not null": (MASKED, "ALTER DOMAIN mail SET NOT NULL"),
    "domain validate": (MASKED, "ALTER DOMAIN mail VALIDATE CONSTRAINT c"),
    "row type": (MASKED, "ALTER TYPE pair ALTER ATTRIBUTE b TYPE int CASCADE"),
    "attribute renamed": (MASKED, "ALTER TYPE pair RENAME ATTRIBUTE b TO c"),
    "foreign key to a masked key": (MASKED, "CREATE TABLE probe (c text REFERENCES coded)"),
    "foreign key by name": (MASKED, "CREATE TABLE probe (c text REFERENCES coded (code))"),
    "foreign key of the table": (MASKED, "CREATE TABLE probe (c text, FOREIGN KEY (c) REFERENCES coded)"),
    "foreign key added": (MASKED, "ALTER TABLE plain ADD FOREIGN KEY (v) REFERENCES coded"),
    "foreign key not valid": (MASKED, "ALTER TABLE plain ADD CONSTRAINT k FOREIGN KEY (v) REFERENCES coded NOT VALID"),
    "foreign key of a new column": (MASKED, "ALTER TABLE plain ADD COLUMN c text REFERENCES coded"),
    "cluster": (MASKED, "CLUSTER customers USING customers_ssn_key"),
    "cluster mark": (MASKED, "ALTER TABLE customers CLUSTER ON customers_ssn_key"),
    "cluster mark on an expression": (MASKED, "ALTER TABLE public.customers CLUSTER ON customers_lower"),
    "cluster all, verbose": (FILTERED, "CLUSTER (VERBOSE)"),
    "partition of masked key": (MASKED, "CREATE TABLE parted_b PARTITION OF parted FOR VALUES IN ('guess')"),
    # conflicts
    "conflict on constraint": (MASKED, "INSERT INTO customers (id, ssn) VALUES (9, '111') ON CONFLICT ON CONSTRAINT customers_ssn_key DO NOTHING"),
    "conflict updates": (MASKED, "INSERT INTO customers (id, ssn) VALUES (9, '111') ON CONFLICT ON CONSTRAINT customers_ssn_key DO UPDATE SET name = 'x' RETURNING id"),
    "conflict untargeted": (MASKED, "INSERT INTO customers (id, ssn) VALUES (9, '111') ON CONFLICT DO NOTHING"),
    "conflict untargeted select": (MASKED, "INSERT INTO customers (id, name) SELECT 1, 'x' ON CONFLICT DO NOTHING RETURNING id"),
    "conflict on columns": (MASKED, "INSERT INTO customers (id, ssn) VALUES (9, '111') ON CONFLICT (ssn) DO NOTHING"),
    "conflict on an expression": (MASKED, "INSERT INTO customers (id, ssn) VALUES (9, '111') ON CONFLICT (lower(ssn)) DO NOTHING"),
    "conflict in a CTE": (MASKED, "WITH i AS (INSERT INTO coded VALUES ('x') ON CONFLICT DO NOTHING RETURNING 1) SELECT count(*) FROM i"),
    "conflict prepared": (MASKED, "PREPARE p AS INSERT INTO coded VALUES ($1) ON CONFLICT DO NOTHING"),
    "conflict explained": (MASKED, "EXPLAIN INSERT INTO coded VALUES ('x') ON CONFLICT DO NOTHING"),
    # what looks at hidden rows
    "unique index": (FILTERED, "CREATE UNIQUE INDEX ON deals (note)"),
    "index on text": (FILTERED, "CREATE INDEX ON deals (note)"),
    "index that includes text": (FILTERED, "CREATE INDEX ON deals (id) INCLUDE (note)"),
    "index on an expression": (FILTERED, "CREATE INDEX ON deals ((1 / (id - 2)))"),
    "index with a condition": (FILTERED, "CREATE INDEX ON deals (id) WHERE 1 / (id - 2) > 0"),
    "statistics": (FILTERED, "CREATE STATISTICS s ON id, tenant FROM deals"),
    "serial": (FILTERED, "ALTER TABLE deals ADD COLUMN n serial"),
    "identity": (FILTERED, "ALTER TABLE deals ADD COLUMN n int GENERATED ALWAYS AS IDENTITY"),
    "generated": (FILTERED, "ALTER TABLE deals ADD COLUMN n int GENERATED ALWAYS AS (1 / (id - 2)) STORED"),
    "computed default": (FILTERED, "ALTER TABLE deals ADD COLUMN n bigint DEFAULT nextval('numbers')"),
    "random default": (FILTERED, "ALTER TABLE deals ADD COLUMN n float8 DEFAULT random()"),
    "not null without default": (FILTERED, "ALTER TABLE deals ADD COLUMN n int NOT NULL"),
    "not null with a null default": (FILTERED, "ALTER TABLE deals ADD COLUMN n int DEFAULT NULL NOT NULL"),
    "new column of a domain": (FILTERED, "ALTER TABLE deals ADD COLUMN n mail"),
    "new column with a check": (FILTERED, "ALTER TABLE deals ADD COLUMN n int CHECK (id <> 2)"),
    "set not null": (FILTERED, "ALTER TABLE deals ALTER region SET NOT NULL"),
    "check": (FILTERED, "ALTER TABLE deals ADD CHECK (note <> 'hidden')"),
    "check not valid": (FILTERED, "ALTER TABLE deals ADD CHECK (note <> 'hidden') NOT VALID"),
    "validate": (FILTERED, "ALTER TABLE deals VALIDATE CONSTRAINT c"),
    "primary key": (FILTERED, "ALTER TABLE deals ADD UNIQUE (note)"),
    "exclude": (FILTERED, "ALTER TABLE deals ADD EXCLUDE (note WITH =)"),
    "type": (FILTERED, "ALTER TABLE deals ALTER note TYPE varchar(3)"),
    "type using": (FILTERED, "ALTER TABLE deals ALTER note TYPE int USING note::int"),
    "foreign key out": (FILTERED, "ALTER TABLE deals ADD FOREIGN KEY (region) REFERENCES regions"),
    "foreign key in": (FILTERED, "CREATE TABLE probe (d int REFERENCES deals)"),
    "foreign key in, added": (FILTERED, "ALTER TABLE plain ADD FOREIGN KEY (id) REFERENCES deals"),
    "partition beside the default": (FILTERED, "CREATE TABLE parted_b PARTITION OF parted FOR VALUES IN ('b')"),
    "attach": (FILTERED, "ALTER TABLE parted ATTACH PARTITION plain FOR VALUES IN ('c')"),
    "cluster hidden": (FILTERED, "CLUSTER deals USING deals_pkey"),
    "domain of hidden rows": (FILTERED, "ALTER TYPE pair ADD ATTRIBUTE z int CASCADE"),
    "rename": (FILTERED, "ALTER TABLE deals RENAME TO old_deals"),
    "move": (FILTERED, "ALTER TABLE deals SET SCHEMA other"),
    "rename filter column": (FILTERED, "ALTER TABLE deals RENAME tenant TO t"),
    "rename into filter column": (FILTERED, "ALTER TABLE deals RENAME note TO tenant"),
    "constraint enforced": (FILTERED, "ALTER TABLE deals ALTER CONSTRAINT deals_region_fkey ENFORCED"),
    "constraint of masked values enforced": (MASKED, "ALTER TABLE customers ALTER CONSTRAINT customers_ssn_key ENFORCED"),
    "constraint inherited": (FILTERED, "ALTER TABLE above ALTER CONSTRAINT has_n INHERIT"),
    "constraint inherited among others": (FILTERED, "ALTER TABLE above ALTER n SET DEFAULT 1, ALTER CONSTRAINT has_n INHERIT"),
    "constraint of masked values inherited": (MASKED, "ALTER TABLE above ALTER CONSTRAINT has_code INHERIT"),
    "bound of a sequence": (FILTERED, "ALTER SEQUENCE numbers MAXVALUE 5"),
    "lower bound of a sequence": (MASKED, "ALTER SEQUENCE numbers MINVALUE 5 START 5"),
    "type of a sequence": (FILTERED, "ALTER SEQUENCE numbers AS smallint"),
    "bound of an identity": (FILTERED, "ALTER TABLE numbered ALTER id SET MAXVALUE 5"),
    # referential actions
    "cascade on update": (FILTERED, "UPDATE tenants SET id = 99 WHERE id = 1"),
    "cascade on delete": (FILTERED, "DELETE FROM tenants WHERE id = 2"),
    "cascade by a reference under null": (HIDDEN_PLANS, "UPDATE plans SET id = 9 WHERE id = 1"),
    "a hashed reference to a key under null": (
        {
            **NOTHING,
            "name": "half hashed",
            "masking_rules": [
                {"table": "subs", "column": "plan", "kind": "hash"},
                {"table": "plans", "column": "id", "kind": "null"},
            ],
        },
        "DELETE FROM plans WHERE name = 'basic'",
    ),
    "cascade by a redacted reference": (REDACTED_PLANS, "UPDATE plans SET id = 9 WHERE id = 1"),
    "cascade in a CTE": (FILTERED, "WITH u AS (UPDATE tenants SET id = 3 WHERE id = 2 RETURNING id) SELECT * FROM u"),
    "cascade by conflict": (FILTERED, "INSERT INTO tenants VALUES (2, 'x') ON CONFLICT (id) DO UPDATE SET id = 3"),
    "cascade by merge": (FILTERED, "MERGE INTO tenants t USING (VALUES (2)) v(k) ON t.id = v.k WHEN MATCHED THEN DELETE"),
    "cascade by merge update": (FILTERED, "MERGE INTO tenants t USING (VALUES (2)) v(k) ON t.id = v.k WHEN MATCHED THEN UPDATE SET id = 7"),
    "cascade through a view": (FILTERED, "UPDATE tenant_view SET number = 9 WHERE number = 2"),
    "cascade through two views": (FILTERED, "UPDATE tenant_view2 SET n = 9 WHERE n = 2"),
    "delete through a view": (FILTERED, "DELETE FROM tenant_view WHERE number = 2"),
    "truncate cascades": (
        {**FILTERED, "guarddb": {"floor_exceptions": ["destructive_ddl"]}},
        "TRUNCATE tenants CASCADE",
    ),
    "cascade tuple": (FILTERED, "UPDATE tenants SET (name, id) = ('x', 9) WHERE id = 2"),
    # what a filter stands on
    "insert what it reads": (STANDING, "INSERT INTO members VALUES (3, 'me')"),
    "update what it reads": (STANDING, "UPDATE members SET who = 'me' WHERE project = 2"),
    "delete what it reads": (STANDING, "DELETE FROM members WHERE project = 2"),
    "merge what it reads": (STANDING, "MERGE INTO members m USING (VALUES (2)) v(k) ON m.project = v.k WHEN MATCHED THEN UPDATE SET who = 'me'"),
    "copy into what it reads": (STANDING, "COPY members FROM STDIN"),
    "select into what it reads": (STANDING, "SELECT 1 AS project INTO members"),
    "in a CTE": (STANDING, "WITH i AS (INSERT INTO members VALUES (3, 'me') RETURNING 1) SELECT * FROM i"),
    "through the view": (STANDING, "UPDATE my_projects SET project = 2 WHERE project = 1"),
    "rename what it reads": (STANDING, "ALTER TABLE members RENAME TO old"),
    "rename a column of it": (STANDING, "ALTER TABLE members RENAME who TO whom"),
    "move what it reads": (STANDING, "ALTER TABLE members SET SCHEMA other"),
    "replace the view": (STANDING, "CREATE OR REPLACE VIEW my_projects AS SELECT project, who FROM members"),
    "rename the view": (STANDING, "ALTER VIEW my_projects RENAME TO x"),
    "drop the view": (STANDING, "DROP VIEW my_projects"),
    "add a column": (STANDING, "ALTER TABLE members ADD COLUMN region int"),
    "child of it": (STANDING, "CREATE TABLE more () INHERITS (members)"),
    "what a function reads": (STANDING, "INSERT INTO archive VALUES (1)"),
    "drop the function": (STANDING, "DROP FUNCTION is_open(int)"),
    "rename the function": (STANDING, "ALTER FUNCTION is_open(int) RENAME TO x"),
    "replace the function": (STANDING, "CREATE OR REPLACE FUNCTION is_open(int) RETURNS bool LANGUAGE sql AS 'SELECT true'"),
    # (Of a temporary one the row's type would be the one that the filter's name means.)
    "a relation takes a type's name": (FILTERED, "CREATE TEMP TABLE mood AS SELECT 1 AS a"),
    "a relation is selected into a type's name": (FILTERED, "SELECT 1 AS a INTO TEMP mood"),
    "a relation gets a type's name": (FILTERED, "ALTER TABLE plain RENAME TO mood"),
    "a relation gets a type's name as an index": (FILTERED, "ALTER INDEX plain RENAME TO mood"),
    "a view gets a type's name": (FILTERED, "ALTER VIEW plain_view RENAME TO mood"),
    "a relation is selected into a built-in type's name": (MASKED, "SELECT 1 AS a INTO TEMP text"),
    "an unknown relation gets a built-in type's name": (MASKED, "ALTER TABLE made_just_now RENAME TO text"),
    "rename an enum label": (FILTERED, "ALTER TYPE mood RENAME VALUE 'open' TO 'shut'"),
    "new enum label": (FILTERED, "ALTER TYPE mood ADD VALUE 'x'"),
    "rename the enum": (FILTERED, "ALTER TYPE mood RENAME TO m"),
    # settings
    "time zone": (DATED, "SET TIME ZONE 167"),
    "time zone local": (DATED, "SET LOCAL TimeZone = 'Asia/Tokyo'"),
    "time zone by function": (DATED, "SELECT set_config('timezone', 'UTC', false)"),
    "date style": (DATED, "SET DateStyle = 'German'"),
    "how constants of views are read": (FILTERED, "SET array_nulls = off"),
    "money in views": (FILTERED, "SET LOCAL lc_monetary = 'de_DE.UTF-8'"),
    "reset": (DATED, "RESET timezone"),
    "of the role": (DATED, "ALTER ROLE CURRENT_USER SET timezone = 'UTC'"),
    "of the database": (DATED, "ALTER DATABASE postgres SET timezone = 'UTC'"),
    "hash: float digits": (HASHED, "SET extra_float_digits = -14"),
    "hash: time zone": (HASHED, "SET timezone = 'UTC'"),
    "hash: date style": (HASHED, "SET datestyle = 'German'"),
    # what is computed with a masked value
    "check beside": (MASKED, "UPDATE staff SET budget = 500 WHERE id = 1"),
    "check beside in a list": (MASKED, "UPDATE staff SET (note, budget) = ('x', 500) WHERE id = 1"),
    "check beside by conflict": (MASKED, "INSERT INTO staff (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET budget = 500"),
    "check beside by merge": (MASKED, "MERGE INTO staff s USING plain p ON p.id = s.id WHEN MATCHED THEN UPDATE SET budget = 500"),
    "check beside through a view": (MASKED, "UPDATE staff_view SET limit_of = 500 WHERE id = 1"),
    "check beside in a CTE": (MASKED, "WITH u AS (UPDATE staff SET budget = 500 WHERE id = 1 RETURNING id) SELECT * FROM u"),
    "check beside explained": (MASKED, "EXPLAIN ANALYZE UPDATE staff SET budget = 500 WHERE id = 1"),
    "check beside prepared": (MASKED, "PREPARE p AS UPDATE staff SET budget = $1 WHERE id = 1"),
    "generated beside": (MASKED, "UPDATE staff SET bonus = 3000000 WHERE id = 1"),
    "filter beside": (COMPARED, "UPDATE staff SET budget = 500 WHERE id = 1"),
    "shadow of what a function reads": (STANDING, "CREATE TEMP TABLE archive AS SELECT 1 AS project"),
    "shadow by select into": (STANDING, "SELECT 1 AS project INTO TEMP archive"),
    "shadow by a view": (STANDING, "CREATE TEMP VIEW archive AS SELECT 1 AS project"),
    "shadow by a table": (STANDING, "CREATE TEMP TABLE archive (project int)"),
    "shadow by a sequence": (STANDING, "CREATE TEMP SEQUENCE archive"),
    "shadow explained": (STANDING, "EXPLAIN ANALYZE CREATE TEMP TABLE archive AS SELECT 1 AS project"),
    "shadow by a name": (STANDING, "ALTER TABLE numbered RENAME TO archive"),
    "index beside": (MASKED, "UPDATE staff SET rate = 0 WHERE id = 1"),
    # rows that vanish, or whose hash changes, by a masked reference
    "cascade shows by the hash": (PLANS, "UPDATE plans SET id = 9 WHERE id = 1"),
    "cascade shows by what is gone": (PLANS, "DELETE FROM plans WHERE id = 1"),
    "gone under null": (HIDDEN_PLANS, "DELETE FROM plans WHERE id = 1"),
    "gone in a CTE": (HIDDEN_PLANS, "WITH d AS (DELETE FROM plans WHERE id = 1 RETURNING id) SELECT count(*) FROM d"),
    "cascade shows by merge": (PLANS, "MERGE INTO plans p USING plain q ON p.id = q.id WHEN MATCHED THEN UPDATE SET id = 9"),
    # a table by its index
    "index of a denied table": (DENIED, "DROP INDEX coded_pkey"),
    "index with its schema": (DENIED, "REINDEX INDEX public.coded_pkey"),
    "index renamed": (DENIED, "ALTER INDEX coded_pkey RENAME TO other"),
    "index as a table": (DENIED, "ALTER TABLE coded_pkey RENAME TO other"),
    "index of a table that is not listed": (ALLOWED, "ALTER INDEX regions_pkey SET (fillfactor = 10)"),
    "comment on an index": (ALLOWED, "COMMENT ON INDEX regions_pkey IS 'x'"),
    "hash: enum label": (HASHED, "ALTER TYPE mood RENAME VALUE 'open' TO 'x'"),
    "hash: enum label with its schema": (HASHED, "ALTER TYPE public.mood RENAME VALUE 'open' TO 'x'"),
    "hash: name of a relation": (HASHED, "ALTER TABLE plain RENAME TO other"),
    "hash: name of a column's table": (HASHED, "ALTER TABLE plain SET SCHEMA other"),
    # administration
    "grant": (MASKED, "GRANT SELECT ON customers TO PUBLIC"),
    "grant all": (MASKED, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO PUBLIC"),
    "revoke": (MASKED, "REVOKE SELECT ON plain FROM PUBLIC"),
    "default privileges": (MASKED, "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC"),
    "reassign": (MASKED, "REASSIGN OWNED BY CURRENT_USER TO SESSION_USER"),
    "owner": (MASKED, "ALTER TABLE plain OWNER TO CURRENT_USER"),
    "view owner": (MASKED, "ALTER VIEW plain_view OWNER TO CURRENT_USER"),
    "schema owner": (MASKED, "ALTER SCHEMA other OWNER TO CURRENT_USER"),
    "policy": (MASKED, "CREATE POLICY p ON plain USING (true)"),
    "drop policy": (MASKED, "DROP POLICY p ON plain"),
    "alter policy": (MASKED, "ALTER POLICY p ON plain USING (true)"),
    "row security off": (MASKED, "ALTER TABLE plain DISABLE ROW LEVEL SECURITY"),
    "row security on": (MASKED, "ALTER TABLE plain FORCE ROW LEVEL SECURITY"),
    "security label": (MASKED, "SECURITY LABEL ON TABLE plain IS 'x'"),
    "role": (MASKED, "CREATE ROLE x"),
    "membership": (MASKED, "GRANT pg_read_all_data TO CURRENT_USER"),
    "alter system": (NOTHING, "ALTER SYSTEM SET archive_command = 'cp'"),
    "alter system reset": (NOTHING, "ALTER SYSTEM RESET ALL"),
    "preload": (NOTHING, "ALTER ROLE CURRENT_USER SET session_preload_libraries = 'x'"),
    "local preload": (NOTHING, "SET local_preload_libraries = 'x'"),
    "preload by function": (NOTHING, "SELECT set_config('local_preload_libraries', 'x', false)"),
    "logging off": (NOTHING, "SET log_statement = 'none'"),
    "logging off for the database": (NOTHING, "ALTER DATABASE postgres SET log_min_duration_statement = -1"),
    "activity off": (NOTHING, "SET track_activities = off"),
    "show directory": (MASKED, "SHOW data_directory"),
    "current_setting directory": (MASKED, "SELECT current_setting('hba_file')"),
    "show a password": (NOTHING, "SHOW primary_conninfo"),
    "current_setting of a passphrase": (NOTHING, "SELECT current_setting('SSL_Passphrase_Command', true)"),
    # code
    "function renamed": (MASKED, "ALTER FUNCTION free(int) RENAME TO with_tax"),
    "function moved": (MASKED, "ALTER FUNCTION free(int) SET SCHEMA other"),
    "function owner": (MASKED, "ALTER FUNCTION free(int) OWNER TO CURRENT_USER"),
    "type renamed": (MASKED, "ALTER TYPE colour RENAME TO c"),
    "type moved": (MASKED, "ALTER TYPE colour SET SCHEMA other"),
    "domain renamed": (MASKED, "ALTER DOMAIN free_text RENAME TO f"),
    "routine renamed": (MASKED, "ALTER ROUTINE free(int) RENAME TO g"),
    "operator moved": (MASKED, "ALTER OPERATOR = (int, int) SET SCHEMA other"),
    "function in pg_catalog": (NOTHING, "CREATE FUNCTION pg_catalog.f() RETURNS int LANGUAGE sql AS 'SELECT 1'"),
    "plpgsql": (NOTHING, "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS 'begin truncate plain; end'"),
    "sql that truncates": (NOTHING, "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'TRUNCATE plain'"),
    "sql that deletes all": (NOTHING, "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'DELETE FROM plain'"),
    "sql that reads files": (NOTHING, "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$ SELECT pg_read_file('x') $$"),
    "sql that calls what no list names": (NOTHING, "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT free(1)'"),
    "trigger with a function of somebody's": (
        NOTHING,
        "CREATE TRIGGER t BEFORE INSERT ON plain FOR EACH ROW EXECUTE FUNCTION noted()",
    ),
    "rule that writes beyond the cap": (
        {**NOTHING, "max_affected_rows": 5},
        "CREATE RULE r AS ON INSERT TO plain DO ALSO DELETE FROM tenants WHERE id > 0",
    ),
    "event trigger": (NOTHING, "CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION noted()"),
    "a listed name for another function": (LISTED, "ALTER FUNCTION free(int) RENAME TO with_tax"),
    "a listed schema for another function": (LISTED, "ALTER FUNCTION free(int) SET SCHEMA team"),
    "an aggregate by a listed name": (LISTED, "CREATE AGGREGATE with_tax(int) (sfunc = free, stype = int)"),
    "type using a constant": (NOTHING, "ALTER TABLE plain ALTER v TYPE text USING ''"),
    "type using null": (NOTHING, "ALTER TABLE plain ALTER v TYPE text USING NULL"),
    "type using another column": (NOTHING, "ALTER TABLE plain ALTER v TYPE text USING n::text"),
    "type using nothing of it": (NOTHING, "ALTER TABLE plain ALTER v TYPE text USING CASE WHEN true THEN '' ELSE v END"),
    "type using a text without itself": (NOTHING, "ALTER TABLE plain ALTER v TYPE text USING replace(v, v, '')"),
    "type using an element": (NOTHING, "ALTER TABLE plain ALTER v TYPE text USING (ARRAY['', v])[1]"),
    "type using no characters": (NOTHING, "ALTER TABLE plain ALTER v TYPE text USING left(v, 0)"),
}  # fmt: skip

NEIGHBOURS: dict[str, tuple[dict[str, Any], str]] = {
    "domain of nobody": (MASKED, "ALTER DOMAIN free_text ADD CHECK (value <> 'x')"),
    "domain default": (MASKED, "ALTER DOMAIN mail SET DEFAULT 'x'"),
    "new domain": (MASKED, "CREATE DOMAIN d AS int CHECK (value > 0)"),
    "row type of nobody": (MASKED, "ALTER TYPE loose ADD ATTRIBUTE c int"),
    "new type": (MASKED, "CREATE TYPE t AS ENUM ('a')"),
    "new row type": (FILTERED, "CREATE TYPE t AS (a int)"),
    "enum label of nobody": (FILTERED, "ALTER TYPE colour ADD VALUE 'green'"),
    "rename label of nobody": (FILTERED, "ALTER TYPE colour RENAME VALUE 'red' TO 'crimson'"),
    "foreign key to an open key": (MASKED, "CREATE TABLE probe (c int REFERENCES customers)"),
    "constraint not inherited": (FILTERED, "ALTER TABLE above ALTER CONSTRAINT has_n NO INHERIT"),
    "a table gets a built-in type's name": (MASKED, "ALTER TABLE plain RENAME TO jsonb"),
    "a column gets a type's name": (FILTERED, "ALTER TABLE plain RENAME COLUMN v TO mood"),
    "a constraint gets a type's name": (FILTERED, "ALTER TABLE plain RENAME CONSTRAINT plain_pkey TO mood"),
    "an index gets a type's name": (FILTERED, "ALTER INDEX plain_n RENAME TO mood_of_n"),
    "a column gets a relation's name": (STANDING, "ALTER TABLE tenants RENAME COLUMN name TO archive"),
    "selected into a name of its own": (FILTERED, "SELECT 1 AS a INTO TEMP moods"),
    "open constraint inherited": (MASKED, "ALTER TABLE above ALTER CONSTRAINT has_n INHERIT"),
    "foreign key elsewhere": (FILTERED, "ALTER TABLE plain ADD FOREIGN KEY (n) REFERENCES regions NOT VALID"),
    "conflict on an open key": (MASKED, "INSERT INTO customers (id, name) VALUES (1, 'x') ON CONFLICT (id) DO NOTHING"),
    "conflict on its constraint": (MASKED, "INSERT INTO customers (id, name) VALUES (1, 'x') ON CONFLICT ON CONSTRAINT customers_pkey DO NOTHING"),
    "conflict elsewhere": (MASKED, "INSERT INTO plain (id) VALUES (1) ON CONFLICT DO NOTHING"),
    "index on an open column": (MASKED, "CREATE INDEX ON customers (name)"),
    "unique index on an open column": (MASKED, "CREATE UNIQUE INDEX ON customers (name)"),
    "plain index": (FILTERED, "CREATE INDEX ON deals (tenant, visible_on)"),
    "index on an enum": (FILTERED, "CREATE INDEX ON deals (mood)"),
    "hash index": (FILTERED, "CREATE INDEX ON deals USING hash (tenant)"),
    "index elsewhere": (FILTERED, "CREATE UNIQUE INDEX ON plain (lower(v)) WHERE n > 0"),
    "statistics elsewhere": (FILTERED, "CREATE STATISTICS s ON v, n FROM plain"),
    "new column": (FILTERED, "ALTER TABLE deals ADD COLUMN n int"),
    "new column with a default": (FILTERED, "ALTER TABLE deals ADD COLUMN n int NOT NULL DEFAULT 0"),
    "new column with a negative default": (FILTERED, "ALTER TABLE deals ADD COLUMN n numeric DEFAULT -1.5"),
    "new column with a cast default": (FILTERED, "ALTER TABLE deals ADD COLUMN n date DEFAULT '2024-01-01'::date"),
    "default": (FILTERED, "ALTER TABLE deals ALTER note SET DEFAULT 'x'"),
    "drop not null": (FILTERED, "ALTER TABLE deals ALTER note DROP NOT NULL"),
    "statistics target": (FILTERED, "ALTER TABLE deals ALTER note SET STATISTICS 100"),
    "comment": (FILTERED, "COMMENT ON TABLE deals IS 'x'"),
    "analyze": (FILTERED, "ANALYZE deals"),
    "alter elsewhere": (FILTERED, "ALTER TABLE plain ADD CHECK (n > 0), ALTER v SET NOT NULL"),
    "serial elsewhere": (FILTERED, "ALTER TABLE plain ADD COLUMN k serial"),
    "partition elsewhere": (FILTERED, "CREATE TABLE p (id int) PARTITION BY RANGE (id)"),
    "rename elsewhere": (FILTERED, "ALTER TABLE plain RENAME v TO w"),
    "key without action": (FILTERED, "UPDATE regions SET id = 5 WHERE id = 1"),
    "other column of the key's table": (FILTERED, "UPDATE tenants SET name = 'x' WHERE id = 1"),
    "insert into the key's table": (FILTERED, "INSERT INTO tenants VALUES (3, 'three')"),
    "conflict in the key's table": (FILTERED, "INSERT INTO tenants VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET name = 'y'"),
    "other column through a view": (FILTERED, "UPDATE tenant_view2 SET name = 'x' WHERE n = 2"),
    "write beside": (STANDING, "INSERT INTO tenants VALUES (4, 'four')"),
    "index on what it reads": (STANDING, "CREATE INDEX ON members (who)"),
    "read what it reads": (STANDING, "SELECT * FROM members"),
    "drop another function": (STANDING, "DROP FUNCTION free(int)"),
    "time zone elsewhere": (FILTERED, "SET TIME ZONE 'UTC'"),
    "lock timeout": (DATED, "SET lock_timeout = '1s'"),
    "work_mem": (HASHED, "SET work_mem = '8MB'"),
    "float digits elsewhere": (DATED, "SET extra_float_digits = 0"),
    "application name": (HASHED, "SET application_name = 'x'"),
    "show": (NOTHING, "SHOW work_mem"),
    "current_setting": (NOTHING, "SELECT current_setting('server_version')"),
    "setting of the role": (NOTHING, "ALTER ROLE CURRENT_USER SET work_mem = '8MB'"),
    "grant without data rules": (NOTHING, "GRANT SELECT ON plain TO PUBLIC"),
    "function declared stable": (NOTHING, "ALTER FUNCTION free(int) STABLE"),
    "sql function": (NOTHING, "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'"),
    "rule": (NOTHING, "CREATE RULE r AS ON INSERT TO plain DO ALSO NOTHING"),
    "trigger with a built-in function": (
        NOTHING,
        "CREATE TRIGGER t BEFORE UPDATE ON plain FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    ),
    "function renamed without data rules": (NOTHING, "ALTER FUNCTION free(int) RENAME TO g"),
    "type with a cast": (NOTHING, "ALTER TABLE plain ALTER n TYPE text USING n::text"),
    "type by comparison": (NOTHING, "ALTER TABLE plain ALTER f TYPE bool USING (f = 'x')"),
    "type by case": (NOTHING, "ALTER TABLE plain ALTER f TYPE int USING CASE f WHEN 'x' THEN 1 ELSE 0 END"),
    "type using its element": (NOTHING, "ALTER TABLE plain ALTER f TYPE text USING (ARRAY['', f::text])[2]"),
    "type using a replacement": (NOTHING, "ALTER TABLE plain ALTER f TYPE text USING replace(f, 'a', '')"),
    "type without using": (NOTHING, "ALTER TABLE plain ALTER n TYPE bigint"),
    "view": (MASKED, "CREATE VIEW v AS SELECT id, name FROM customers"),
    "replace a view": (MASKED, "CREATE OR REPLACE VIEW plain_view AS SELECT id, v FROM plain"),
    "schema": (MASKED, "CREATE TABLE other.t (id int PRIMARY KEY, v text DEFAULT 'x')"),
    "sequence": (FILTERED, "CREATE SEQUENCE s"),
    "sequence restarted": (FILTERED, "ALTER SEQUENCE numbers MAXVALUE 1000 RESTART 1"),
    "sequence's step": (FILTERED, "ALTER SEQUENCE numbers INCREMENT BY 2 CACHE 5"),
    "constraint deferred": (FILTERED, "ALTER TABLE deals ALTER CONSTRAINT deals_region_fkey DEFERRABLE"),
    "table as": (FILTERED, "CREATE TABLE copied AS SELECT * FROM plain"),
    "drop index": (FILTERED, "DROP INDEX plain_n"),
    "table as without data": (FILTERED, "CREATE TABLE copied AS SELECT * FROM deals WITH NO DATA"),
    "table as of a table": (FILTERED, "CREATE TABLE copied AS TABLE deals WITH NO DATA"),
    "table as of a query": (FILTERED, "CREATE TABLE copied AS SELECT d.id FROM deals d JOIN plain p ON p.id = d.id WHERE d.id > 0 WITH DATA"),
    "view with a check": (FILTERED, "CREATE VIEW mine AS SELECT id FROM deals WHERE id > 0 WITH LOCAL CHECK OPTION"),
    "label of an enum that is not hashed": (HASHED, "ALTER TYPE colour RENAME VALUE 'red' TO 'crimson'"),
    "new label of a hashed enum": (HASHED, "ALTER TYPE mood ADD VALUE 'x'"),
    "renaming beside hashes": (MASKED, "ALTER TABLE plain RENAME TO other"),
    "another column": (MASKED, "UPDATE staff SET note = 'y' WHERE id = 1"),
    "all of the check": (MASKED, "UPDATE staff SET salary = 1, budget = 5, rate = 1, bonus = 1 WHERE id = 1"),
    "the masked value itself": (MASKED, "UPDATE staff SET salary = 600 WHERE id = 1"),
    "a new row under the check": (MASKED, "INSERT INTO staff (id, salary, budget, rate) VALUES (2, 1, 5, 1)"),
    "another column through the view": (MASKED, "UPDATE staff_view SET note = 'y' WHERE id = 1"),
    "where nothing is masked": (FILTERED, "UPDATE staff SET budget = 800 WHERE id = 1"),
    "another column of the plan": (PLANS, "UPDATE plans SET name = 'x' WHERE id = 1"),
    "delete where nothing is masked": (MASKED, "DELETE FROM plans WHERE id = 3"),
    "a copy under another name": (STANDING, "CREATE TEMP TABLE archived AS SELECT project FROM archive"),
    "index of a listed table": (ALLOWED, "REINDEX INDEX plain_n"),
    "drop an index of a listed table": (ALLOWED, "DROP INDEX public.plain_n"),
    "rename an index beside a denied table": (DENIED, "ALTER INDEX plain_n RENAME TO other"),
    "drop view": (FILTERED, "DROP VIEW plain_view"),
}  # fmt: skip


@pytest.fixture(scope="module")
def ground(server_dsn: str) -> Iterator[tuple[str, guarddb.Catalog]]:
    with temporary_database(server_dsn, "foundations") as admin:
        with psycopg.connect(admin, autocommit=True) as conn:
            role = f"f_{conn.info.dbname}"
            conn.execute(SCHEMA.format(role=role))
            for name in OWNED:
                conn.execute(f"ALTER TABLE {name} OWNER TO {role}")
            for name in TYPES:
                conn.execute(f"ALTER TYPE {name} OWNER TO {role}")
            for name in ("my_projects", "plain_view", "tenant_view", "tenant_view2", "staff_view"):
                conn.execute(f"ALTER VIEW {name} OWNER TO {role}")
            conn.execute(f"ALTER SEQUENCE numbers OWNER TO {role}")
            conn.execute(f"ALTER FUNCTION free(int) OWNER TO {role}")
            conn.execute(f"ALTER FUNCTION is_open(int) OWNER TO {role}")
            catalog = guarddb.Catalog.from_connection(conn)
        try:
            yield make_conninfo(admin, user=role), catalog
        finally:
            with psycopg.connect(admin, autocommit=True) as conn:
                conn.execute(f"DROP OWNED BY {role} CASCADE")
                conn.execute(f"DROP ROLE {role}")


@pytest.fixture(scope="module")
def guarded(ground: tuple[str, guarddb.Catalog]) -> Iterator[Callable[[Any], guarddb.Connection[Any]]]:
    """guarded(policy) -> one connection for each, on which nothing is to pass."""
    opened: dict[str, guarddb.Connection[Any]] = {}

    def connection(policy: Any) -> guarddb.Connection[Any]:
        document = json.dumps(policy)
        if document not in opened:
            opened[document] = guarddb.connect(ground[0], policy=policy)
        return opened[document]

    yield connection
    for conn in opened.values():
        conn.close()


@pytest.mark.parametrize("name", ATTEMPTS)
def test_is_refused(
    ground: tuple[str, guarddb.Catalog], guarded: Callable[[Any], guarddb.Connection[Any]], name: str
) -> None:
    _, catalog = ground
    policy, sql = ATTEMPTS[name]
    decision = guarddb.evaluate(sql, policy, catalog)
    assert decision.blocked, decision.rewritten_sql
    assert decision.rule != "internal_error"
    assert decision.hint
    conn = guarded(policy)
    with pytest.raises(guarddb.PolicyViolation):
        conn.execute(sql)
    conn.rollback()


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_passes_and_runs(ground: tuple[str, guarddb.Catalog], name: str) -> None:
    dsn, catalog = ground
    policy, sql = NEIGHBOURS[name]
    decision = guarddb.evaluate(sql, policy, catalog)
    assert not decision.blocked, decision.reason
    with guarddb.connect(dsn, policy=policy) as conn:
        conn.execute(sql)
        conn.rollback()


STYLES = (
    ("SET datestyle = 'SQL, DMY'", "SET datestyle = 'SQL, MDY'"),
    ("SET datestyle = 'German'", "SET datestyle = 'ISO, MDY'"),
    ("SET intervalstyle = 'sql_standard'", "SET intervalstyle = 'postgres'"),
    ("SET extra_float_digits = -15", "RESET extra_float_digits"),
    ("SET timezone = 'Asia/Tokyo'", "SET timezone = 'UTC'"),
    ("SET bytea_output = 'escape'", "SET bytea_output = 'hex'"),
)


@pytest.mark.parametrize(("one", "other"), STYLES)
def test_a_definition_means_the_same_whatever_style_it_was_read_in(
    server_dsn: str, one: str, other: str
) -> None:
    """A view over a filtered table is written into the statement: its constants must not be read in another style."""
    policy = {**FILTERED, "row_filters": [{"table": "moments", "predicate": "id > 0"}]}
    with temporary_database(server_dsn, "styles") as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(
                "CREATE TABLE moments (id int, at timestamptz, day date, age interval, weight float8, code bytea);"
                "INSERT INTO moments VALUES (1, '2024-02-01', '2024-02-01', '-1 day -02:03', 0.123456789012345, '\\x5c31'),"
                " (2, '2024-01-02', '2024-01-02', '-1 day +02:03', 0.123456789012999, '\\x31');"
                "CREATE VIEW shown AS SELECT id FROM moments WHERE at = '2024-02-01 00:00+00'::timestamptz"
                " AND day = '2024-02-01'::date AND age = '-1 day -02:03'::interval AND weight = 0.123456789012345::float8"
                " AND code = '\\x5c31'::bytea"
            )
        with guarddb.connect(dsn, policy=policy, autocommit=True) as conn:
            conn.execute(one.encode())
            conn.execute("CREATE VIEW news AS SELECT 1 AS id")  # so that definitions are read again
            assert conn.execute("SELECT id FROM shown").fetchall() == [(1,)]
            conn.execute(other.encode())
            assert conn.execute("SELECT id FROM shown").fetchall() == [(1,)]


def test_no_new_label_tells_which_hashes_are_its(ground: tuple[str, guarddb.Catalog]) -> None:
    """With a key as without: the hash of a renamed label is another one, in the rows that have it."""
    dsn, _ = ground
    with guarddb.connect(dsn, policy=HASHED) as conn:
        before = conn.execute("SELECT id, mood FROM deals ORDER BY id").fetchall()
        with pytest.raises(guarddb.PolicyViolation), conn.transaction():
            conn.execute("ALTER TYPE mood RENAME VALUE 'secret' TO 'x'")
        assert conn.execute("SELECT id, mood FROM deals ORDER BY id").fetchall() == before


def test_a_temporary_relation_does_not_take_the_name_of_a_built_in_type(
    ground: tuple[str, guarddb.Catalog],
) -> None:
    """In the order in which PostgreSQL looks for types it would be the first."""
    dsn, _ = ground
    for made in ("TABLE mine (a int)", "VIEW mine AS SELECT 1 AS a"):
        for renames in ("TABLE", "VIEW", "INDEX"):
            with guarddb.connect(dsn, policy=MASKED) as conn:
                conn.execute(f"CREATE TEMP {made}".encode())
                with pytest.raises(guarddb.PolicyViolation, match="stand in for it"):
                    conn.execute(f"ALTER {renames} mine RENAME TO text".encode())
                assert conn.execute("SELECT 'x'::text").fetchall() == [("x",)]
                conn.rollback()
