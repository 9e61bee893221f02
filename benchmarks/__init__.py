"""`python benchmarks/fetch.py` and `python -m benchmarks.fetch` do the same: the scripts find each other either way."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
