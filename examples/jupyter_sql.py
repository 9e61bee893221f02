"""`%sql` in a notebook, guarded by its URL alone. In a notebook the lines are

    %load_ext sql
    %sql postgresql+guarddb://agent@localhost/shop?guarddb_policy=sales.yaml
    %sql SELECT count(*) FROM products

pip install 'guarddb[sqlalchemy]' jupysql ipython
SALES_HASH_KEY=… DATABASE_URL=postgresql://agent@localhost/shop python examples/jupyter_sql.py
"""

from __future__ import annotations

import os
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell

POLICY = Path(__file__).parent / "profiles" / "sales.yaml"


def main() -> None:
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "sql")
    for option in ("feedback=0", "displaycon=False"):
        shell.run_line_magic("config", f"SqlMagic.{option}")
    url = os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+guarddb://")
    shell.run_line_magic("sql", f"{url}{'&' if '?' in url else '?'}guarddb_policy={POLICY}")
    print(shell.run_line_magic("sql", "SELECT count(*) FROM products").dict())
    try:
        shell.run_line_magic("sql", "DELETE FROM products WHERE id = 1")
    except Exception as ex:  # what a notebook shows under the cell
        print(str(ex).splitlines()[0])


if __name__ == "__main__":
    main()
