"""A hundred statements that are refused, each with what it was meant for.

The tables are a film rental's, in a schema of their own: see `SCHEMA` and `PROFILE`. `serves` holds statements that serve
the purpose as well as the policy lets anything serve it; none of them: the policy lets nothing serve it, and the hint has
to say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SCHEMA = """
CREATE SCHEMA app;
CREATE SCHEMA audit;
CREATE TABLE app.members (id int PRIMARY KEY, org_id int NOT NULL, name text, email text, ssn text, salary numeric,
    joined date, UNIQUE (org_id, email));
CREATE TABLE app.film (id int PRIMARY KEY, title text, days_out int, rating text);
CREATE TABLE app.rental (id int PRIMARY KEY, member_id int REFERENCES app.members, film_id int REFERENCES app.film,
    rented_at timestamptz, returned_at timestamptz);
CREATE TABLE app.secret (id int, v text);
CREATE TABLE audit.log (id int, message text);
CREATE MATERIALIZED VIEW app.member_counts AS SELECT org_id, count(*) AS n FROM app.members GROUP BY org_id;
INSERT INTO app.members SELECT i, i % 3 + 1, 'n' || i, 'e' || i || '@x.org', 's' || i, i * 10, date '2020-01-01' + i
    FROM generate_series(1, 30) AS i;
INSERT INTO app.film SELECT i, 't' || i, i, CASE WHEN i % 2 = 0 THEN 'PG' ELSE 'R' END FROM generate_series(1, 12) AS i;
INSERT INTO app.rental SELECT i, i, i % 12 + 1, '2024-01-01'::timestamptz + i * interval '1 day', NULL
    FROM generate_series(1, 30) AS i;
"""

PROFILE: dict[str, Any] = {
    "name": "rental",
    "table_allowlist": ["app.*"],
    "table_denylist": ["app.secret"],
    "masking_rules": [
        {"table": "app.members", "column": "email", "kind": "hash"},
        {"table": "app.members", "column": "ssn", "kind": "redact"},
        {"table": "app.members", "column": "salary", "kind": "null"},
    ],
    "row_filters": [{"table": "app.members", "predicate": "org_id = current_setting('app.org')::int"}],
    "guarddb": {"settings": {"app.org": "1"}},
}


@dataclass(frozen=True)
class Mistake:
    """A refused statement, what for, and what serves instead; `writes`: under a profile that may write."""

    sql: str
    purpose: str
    serves: tuple[str, ...] = ()
    writes: bool = False


def _m(sql: str, purpose: str, *serves: str, writes: bool = False) -> Mistake:
    return Mistake(sql, purpose, serves, writes)


ALL = "SELECT * FROM app.members"
COUNT = "SELECT count(*) FROM app.members"
TABLES = (
    "SELECT table_schema, table_name FROM information_schema.tables "
    "WHERE table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2"
)
FILM_COLUMNS = (
    "SELECT column_name, data_type, is_nullable FROM information_schema.columns "
    "WHERE table_name = 'film' ORDER BY ordinal_position"
)

MISTAKES: tuple[Mistake, ...] = (
    # Computing on a masked column: what is left of the question, or that nothing is.
    _m("SELECT avg(salary) FROM app.members", "the mean salary"),
    _m("SELECT sum(salary) FROM app.members", "what all earn together"),
    _m("SELECT max(salary) - min(salary) FROM app.members", "how far salaries lie apart"),
    _m("SELECT count(m) FROM app.members m", "how many members", COUNT),
    _m("SELECT count(ssn) FROM app.members", "how many members", COUNT),
    _m("SELECT count(email) AS n FROM app.members", "how many members", COUNT),
    _m("SELECT count(m.salary) FROM app.members m WHERE joined > '2020-01-10'", "how many since",
       COUNT + " WHERE joined > '2020-01-10'"),
    _m("SELECT org_id, count(email) FROM app.members GROUP BY org_id", "members of each org",
       "SELECT org_id, count(*) FROM app.members GROUP BY org_id"),
    _m("SELECT org_id, count(*), avg(salary) FROM app.members GROUP BY org_id ORDER BY 1", "size and pay of each org",
       "SELECT org_id, count(*) FROM app.members GROUP BY org_id"),
    _m("SELECT max(joined), max(salary) FROM app.members", "latest and highest",
       "SELECT max(joined) FROM app.members"),
    _m("SELECT row_to_json(m) FROM app.members m", "members, all columns", ALL),
    _m("SELECT to_jsonb(m) FROM app.members m WHERE id = 3", "member 3, all columns", ALL + " WHERE id = 3"),
    _m("SELECT m::text FROM app.members m", "members, all columns", ALL),
    _m("SELECT lower(email) FROM app.members", "e-mails", "SELECT email FROM app.members"),
    _m("SELECT id, upper(email) AS mail FROM app.members", "e-mails by id", "SELECT id, email FROM app.members"),
    _m("SELECT name || ' <' || email || '>' FROM app.members", "names with e-mails",
       "SELECT email FROM app.members", "SELECT name, email FROM app.members"),
    _m("SELECT name, coalesce(ssn, '-') FROM app.members", "names with numbers", "SELECT name, ssn FROM app.members"),
    _m("SELECT name, ssn::varchar FROM app.members", "names with numbers", "SELECT name, ssn FROM app.members"),
    _m("SELECT id, right(ssn, 4) FROM app.members", "numbers by id", "SELECT id, ssn FROM app.members"),
    _m("SELECT id, name, salary * 12 FROM app.members", "names and pay", "SELECT id, name FROM app.members"),
    _m("SELECT id, CASE WHEN salary > 100 THEN 'high' ELSE 'low' END FROM app.members", "classes of pay",
       "SELECT id FROM app.members"),
    _m("SELECT array_agg(email) FROM app.members", "all e-mails at once"),
    _m("SELECT string_agg(email, ', ') FROM app.members WHERE org_id = 1", "all e-mails at once"),
    _m("SELECT id, round(salary) AS salary, joined FROM app.members", "pay with dates",
       "SELECT id, joined FROM app.members"),
    _m("SELECT org_id, string_agg(email, ',') FROM app.members GROUP BY org_id", "e-mails of each org",
       "SELECT org_id FROM app.members GROUP BY org_id"),
    _m("SELECT id, length(ssn) FROM app.members", "lengths", "SELECT id, ssn FROM app.members"),
    _m("SELECT id, md5(email) FROM app.members", "a stable mark of each e-mail", "SELECT id, email FROM app.members"),
    # Choosing by a masked column: by another one, or all.
    _m("SELECT * FROM app.members WHERE email LIKE '%@x.org'", "members of a mail domain", ALL),
    _m("SELECT id FROM app.members WHERE email = 'e3@x.org'", "whose e-mail it is", "SELECT id FROM app.members"),
    _m("SELECT id, name FROM app.members WHERE org_id = 1 AND salary > 100", "who earns much",
       "SELECT id, name FROM app.members WHERE org_id = 1"),
    _m("SELECT id, name FROM app.members WHERE ssn IS NOT NULL AND joined > '2020-01-05'", "who has a number",
       "SELECT id, name FROM app.members WHERE joined > '2020-01-05'"),
    _m("SELECT name FROM app.members ORDER BY salary DESC LIMIT 5", "the best paid",
       "SELECT name FROM app.members LIMIT 5"),
    _m("SELECT name, email FROM app.members ORDER BY email", "names sorted by e-mail",
       "SELECT name, email FROM app.members"),
    _m("SELECT name, email FROM app.members ORDER BY 2", "the same by position", "SELECT name, email FROM app.members"),
    _m("SELECT DISTINCT email FROM app.members", "which e-mails there are", "SELECT email FROM app.members"),
    _m("SELECT DISTINCT org_id, email FROM app.members", "e-mails of each org", "SELECT org_id, email FROM app.members"),
    _m("SELECT ssn FROM app.members UNION SELECT title FROM app.film", "one list of both",
       "SELECT ssn FROM app.members UNION ALL SELECT title FROM app.film"),
    _m("SELECT name, email FROM app.members WHERE id < 5 UNION SELECT name, email FROM app.members WHERE id > 20",
       "two ranges of members",
       "SELECT name, email FROM app.members WHERE id < 5 UNION ALL SELECT name, email FROM app.members WHERE id > 20"),
    _m("SELECT email, count(*) FROM app.members GROUP BY email", "how often each e-mail", COUNT),
    _m("SELECT org_id, email, count(*) FROM app.members GROUP BY org_id, email", "how often each e-mail in an org",
       "SELECT org_id, count(*) FROM app.members GROUP BY org_id"),
    _m("SELECT email, count(*) FROM app.members GROUP BY 1 HAVING count(*) > 1", "double e-mails",
       COUNT + " HAVING count(*) > 1"),
    _m("SELECT m.name FROM app.members m JOIN app.rental r ON r.member_id = m.id WHERE m.ssn IS NOT NULL",
       "who has rented", "SELECT m.name FROM app.members m JOIN app.rental r ON r.member_id = m.id"),
    _m("SELECT name, rank() OVER (ORDER BY salary) FROM app.members", "ranks of pay",
       "SELECT name, rank() OVER () FROM app.members"),
    _m("SELECT org_id FROM app.members GROUP BY org_id HAVING max(salary) > 100", "orgs that pay well",
       "SELECT org_id FROM app.members GROUP BY org_id"),
    _m("SELECT name FROM (SELECT name, salary FROM app.members) s WHERE salary > 10", "who earns more than 10",
       "SELECT name FROM app.members"),
    _m("WITH m AS (SELECT * FROM app.members) SELECT name FROM m WHERE ssn = 's3'", "whose number it is",
       "SELECT name FROM app.members"),
    # Names that are not there, or closed.
    _m("SELECT title FROM films", "titles", "SELECT title FROM app.film"),
    _m("SELECT title FROM film WHERE id = 1", "one title", "SELECT title FROM app.film WHERE id = 1"),
    _m("SELECT title FROM public.film", "titles", "SELECT title FROM app.film"),
    _m("SELECT count(*) FROM rentals", "how many rentals", "SELECT count(*) FROM app.rental"),
    _m("SELECT r.id FROM rental r JOIN film f ON f.id = r.film_id", "rentals of films",
       "SELECT r.id FROM app.rental r JOIN app.film f ON f.id = r.film_id"),
    _m("SELECT member.name FROM member", "names", "SELECT name FROM app.members"),
    _m("SELECT name FROM Members", "names", "SELECT name FROM app.members"),
    _m("SELECT title FROM film ORDER BY title LIMIT 3", "first titles",
       "SELECT title FROM app.film ORDER BY title LIMIT 3"),
    _m("SELECT * FROM app.secret", "what is in it"),
    _m("SELECT message FROM audit.log", "the log"),
    _m("SELECT * FROM app.member_counts", "members of each org", ALL),
    _m("SELECT pid, query FROM pg_stat_activity", "what runs", "SELECT pid FROM pg_stat_activity"),
    _m("SELECT datname, usename, query FROM pg_stat_activity WHERE datname = current_database()", "who runs what",
       "SELECT datname, usename FROM pg_stat_activity WHERE datname = current_database()"),
    _m("SELECT relname, n_live_tup FROM pg_stat_user_tables", "rows of each table",
       "SELECT relname FROM pg_stat_user_tables"),
    _m("SELECT relname, reltuples FROM pg_class WHERE relname = 'film'", "rows of a table",
       "SELECT relname FROM pg_class WHERE relname = 'film'"),
    _m("SELECT pg_total_relation_size('app.members')", "how large a table is", COUNT),
    _m("SELECT pg_size_pretty(pg_relation_size('app.members'))", "the same, for people", COUNT),
    # Shapes that are no PostgreSQL.
    _m("```sql\nSELECT title FROM app.film;\n```", "titles", "SELECT title FROM app.film"),
    _m("```\nSELECT title FROM app.film\n```", "titles", "SELECT title FROM app.film"),
    _m("Here is the query you asked for:\n\n```sql\nSELECT title FROM app.film WHERE id = 2\n```\n\nIt reads one film.",
       "one title", "SELECT title FROM app.film WHERE id = 2"),
    _m("Sure! SELECT title FROM app.film WHERE id = 1; This returns the title.", "one title",
       "SELECT title FROM app.film WHERE id = 1"),
    _m("SQL: SELECT count(*) FROM app.film", "how many films", "SELECT count(*) FROM app.film"),
    _m("SELECT TOP 5 title FROM app.film ORDER BY title", "five titles",
       "SELECT title FROM app.film ORDER BY title LIMIT 5"),
    _m("SELECT TOP 3 * FROM app.film", "three films", "SELECT * FROM app.film LIMIT 3"),
    _m("SELECT title FROM app.film ORDER BY id LIMIT 2, 3", "the second page",
       "SELECT title FROM app.film ORDER BY id LIMIT 3 OFFSET 2"),
    _m("SELECT `title` FROM `app`.`film`", "titles", "SELECT title FROM app.film"),
    _m("SELECT [title] FROM [app].[film]", "titles", "SELECT title FROM app.film"),
    _m("DESCRIBE film", "the columns of a table", FILM_COLUMNS),
    _m("\\d film", "the columns of a table", FILM_COLUMNS),
    _m("\\dt", "which tables there are", TABLES),
    _m("SHOW COLUMNS FROM film", "the columns of a table", FILM_COLUMNS),
    _m("SHOW FULL TABLES", "which tables there are", TABLES),
    _m("USE app", "to work in a schema", TABLES),
    _m("```sql\nSELECT TOP 2 title FROM app.film ORDER BY title\n```", "two titles",
       "SELECT title FROM app.film ORDER BY title LIMIT 2"),
    _m("```sql\nSELECT title FROM films\n```", "titles", "SELECT title FROM app.film"),
    _m("\u200bSELECT title FROM app.film", "titles", "SELECT title FROM app.film"),
    # Under a read-only profile: what the write was about.
    _m("DELETE FROM app.film", "to empty a table", "SELECT count(*) FROM app.film"),
    _m("DELETE FROM app.film WHERE id = 3", "to delete a film", "SELECT * FROM app.film WHERE id = 3"),
    _m("UPDATE app.film SET title = 'x' WHERE id = 3", "to rename a film", "SELECT * FROM app.film WHERE id = 3"),
    _m("UPDATE app.film SET title = 'x'", "to rename all", "SELECT count(*) FROM app.film"),
    _m("DO $$ BEGIN UPDATE app.film SET title = 'x' WHERE id = 1; END $$", "to rename a film",
       "SELECT * FROM app.film WHERE id = 1"),
    _m("DO $$ BEGIN PERFORM count(*) FROM app.film; END $$", "to count films", "SELECT count(*) FROM app.film"),
    _m("INSERT INTO app.film (id, title) VALUES (99, 'x')", "to add a film"),
    _m("DROP TABLE app.film", "to drop a table"),
    _m("TRUNCATE app.film", "to empty a table"),
    _m("SELECT * FROM app.film WHERE id = 1 FOR UPDATE", "to lock a film", "SELECT * FROM app.film WHERE id = 1"),
    _m("SET TIME ZONE 'Europe/Berlin'", "to see local times"),
    _m("SET search_path = app", "to write names without schema"),
    _m("CREATE INDEX ON app.film (title)", "to be faster"),
    # Under a profile that writes.
    _m("INSERT INTO app.members (id, org_id, email) VALUES (99, 1, 'a') ON CONFLICT (org_id, email) DO NOTHING",
       "to add a member once", "INSERT INTO app.members (id, org_id, email) VALUES (99, 1, 'a')", writes=True),
    _m("DO $$ BEGIN UPDATE app.film SET title = 'x' WHERE id = 1; END $$", "to rename a film",
       "UPDATE app.film SET title = 'x' WHERE id = 1", writes=True),
    _m("UPDATE app.members SET name = 'x' WHERE email = 'e3@x.org'", "to rename a member", writes=True),
    _m("BEGIN; UPDATE app.film SET title = 'x' WHERE id = 1; COMMIT", "to rename a film",
       "UPDATE app.film SET title = 'x' WHERE id = 1", writes=True),
    _m("SELECT avg(salary) FROM app.members WHERE org_id = 1", "the mean salary of an org", writes=True),
)  # fmt: skip
