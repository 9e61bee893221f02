"""The tour's shop: its tables, rows and views as SQL, and the three profiles of its agents."""
