"""What the control plane keeps, in SQLite or PostgreSQL: tables, transactions, and what may happen to each kind of thing."""
