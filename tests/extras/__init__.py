"""Each extra, installed by itself into an empty environment; see `__main__.py`."""
