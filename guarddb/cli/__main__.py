"""`python -m guarddb.cli`, where the console script is not on the path."""

import sys

from guarddb.cli import main

sys.exit(main())
