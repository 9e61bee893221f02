-- For the length of the transaction (or savepoint) in which catalog.sql runs:
-- * search_path: pg_get_viewdef leaves out the schema of whatever the path would find, and a definition must mean the
--   same to everybody; without pg_temp in the path the temporary schema would come first.
-- * no nested loops: nobody has statistics on what the WITH queries return, the planner believes that it is one row, and
--   the time would be the square of the number of tables.
-- * client_encoding: the decoder reads UTF-8, whatever the session speaks.
SELECT
  pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true),
  pg_catalog.set_config('enable_nestloop', 'off', true),
  pg_catalog.set_config('jit', 'off', true),
  pg_catalog.set_config('client_encoding', 'UTF8', true)
