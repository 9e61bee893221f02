"""The suites of SQLAlchemy and Django, run from a checkout, plain and guarded; see `__main__.py`."""
