"""The only room that knows psycopg: guarded connections and cursors."""
