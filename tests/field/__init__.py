"""Public SQL from other people's repositories, run against plain psycopg and against guarddb; see `__main__`."""
