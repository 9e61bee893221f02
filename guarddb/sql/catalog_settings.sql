-- For the length of the transaction (or savepoint) in which catalog.sql runs:
-- * search_path: pg_get_viewdef leaves out the schema of whatever the path would find, and a definition must mean the
--   same to everybody; without pg_temp in the path the temporary schema would come first.
-- * no nested loops: nobody has statistics on what the WITH queries return, the planner believes that it is one row, and
--   the time would be the square of the number of tables.
-- * joins in the order in which they stand there: looking for another one took a fifth to a fourth of the time, in an empty database
--   as in one of 1,200 tables, and what it found was no faster.
-- * client_encoding: the decoder reads UTF-8, whatever the session speaks.
-- * styles of dates, intervals, floats and bytes: pg_get_viewdef prints constants in the session's, and a definition that was read in
--   one style and is written into a statement under another (1/2/2024) would mean something else. These are read alike in all of them.
SELECT
  pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true),
  pg_catalog.set_config('enable_nestloop', 'off', true),
  pg_catalog.set_config('join_collapse_limit', '1', true),
  pg_catalog.set_config('from_collapse_limit', '1', true),
  pg_catalog.set_config('jit', 'off', true),
  pg_catalog.set_config('client_encoding', 'UTF8', true),
  pg_catalog.set_config('DateStyle', 'ISO, YMD', true),
  pg_catalog.set_config('IntervalStyle', 'postgres', true),
  pg_catalog.set_config('TimeZone', 'UTC', true),
  pg_catalog.set_config('extra_float_digits', '1', true),
  pg_catalog.set_config('bytea_output', 'hex', true),
  pg_catalog.set_config('lc_monetary', 'C', true),
  pg_catalog.set_config('quote_all_identifiers', 'off', true)
