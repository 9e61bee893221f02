-- What `guarddb catalog install-trigger` installs: every change of the catalog leaves a row, and tells whoever listens.
--
-- A row for each change, and no counter that is counted up: two transactions that change the catalog then never wait for each other, and
-- a reader's snapshot holds the row exactly when it holds the change. Old rows are taken away as new ones come.
DROP EVENT TRIGGER IF EXISTS guarddb_catalog_ddl;
DROP EVENT TRIGGER IF EXISTS guarddb_catalog_drop;
DROP FUNCTION IF EXISTS guarddb_catalog.note_change();
DROP TABLE IF EXISTS guarddb_catalog.change;
DROP SCHEMA IF EXISTS guarddb_catalog;

CREATE SCHEMA guarddb_catalog;
GRANT USAGE ON SCHEMA guarddb_catalog TO PUBLIC;
COMMENT ON SCHEMA guarddb_catalog IS 'guarddb: notes every change of the catalog, see guarddb catalog install-trigger';

CREATE TABLE guarddb_catalog.change (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
GRANT SELECT ON guarddb_catalog.change TO PUBLIC;

-- With its owner's rights, for whoever changes the catalog may not write the table.
CREATE FUNCTION guarddb_catalog.note_change() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  number bigint;
BEGIN
  -- Temporary objects are their session's own.
  IF TG_EVENT = 'sql_drop' THEN
    IF NOT EXISTS (SELECT FROM pg_event_trigger_dropped_objects() AS d WHERE NOT d.is_temporary) THEN
      RETURN;
    END IF;
  ELSIF TG_TAG LIKE 'DROP %' OR NOT EXISTS (
    SELECT FROM pg_event_trigger_ddl_commands() AS c WHERE c.schema_name IS DISTINCT FROM 'pg_temp'
  ) THEN
    RETURN;
  END IF;
  INSERT INTO guarddb_catalog.change DEFAULT VALUES RETURNING id INTO number;
  PERFORM pg_notify('guarddb_catalog', '');
  IF number % 32 = 0 THEN
    BEGIN
      DELETE FROM guarddb_catalog.change WHERE id IN (
        SELECT c.id FROM guarddb_catalog.change AS c WHERE c.id < number - 64 FOR UPDATE SKIP LOCKED
      );
    EXCEPTION WHEN serialization_failure THEN
      NULL; -- (somebody else has taken them away)
    END;
  END IF;
END
$$;
REVOKE ALL ON FUNCTION guarddb_catalog.note_change() FROM PUBLIC;

CREATE EVENT TRIGGER guarddb_catalog_ddl ON ddl_command_end EXECUTE FUNCTION guarddb_catalog.note_change();
CREATE EVENT TRIGGER guarddb_catalog_drop ON sql_drop EXECUTE FUNCTION guarddb_catalog.note_change();
-- Also in sessions that apply a subscription or load a dump (session_replication_role = replica).
ALTER EVENT TRIGGER guarddb_catalog_ddl ENABLE ALWAYS;
ALTER EVENT TRIGGER guarddb_catalog_drop ENABLE ALWAYS;
