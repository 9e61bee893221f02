"""The repository keeps its own rules: rooms only look down, exports are complete, the README's commands are
real."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import guarddb

ROOT = Path(__file__).parent.parent

#: What other people's code may call; see the README.
PUBLIC_NAMES = {
    "ApprovalExpired",
    "ApprovalRejected",
    "AsyncConnection",
    "BudgetExceeded",
    "Catalog",
    "Connection",
    "Decision",
    "Finding",
    "MaskingRule",
    "PolicyError",
    "PolicyProfile",
    "PolicyUnavailable",
    "PolicyViolation",
    "RowFilter",
    "StatementRules",
    "connect",
    "evaluate",
    "install",
    "lint",
    "load_policy",
    "uninstall",
}


def test_rooms_only_look_down() -> None:
    """The import-linter contracts of pyproject.toml hold."""
    pytest.importorskip("importlinter")
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command; lint_imports_command()",
        "--no-cache",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Every name that is imported anywhere, `TYPE_CHECKING` and functions included, and what it is imported from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{each.name}" for each in node.names)
        elif isinstance(node, ast.Import):
            yield from (each.name for each in node.names)


def test_there_is_no_circle_of_files() -> None:
    """Nor one of types alone: what two files need of each other is a third."""
    packages = {"guarddb": ROOT / "guarddb", "guarddb.integrations": ROOT / "integrations"}
    files = {
        ".".join((package, *path.relative_to(folder).with_suffix("").parts)): path
        for package, folder in packages.items()
        for path in folder.rglob("*.py")
        if path.name != "__init__.py"
    }
    graph = {
        name: [n for n in imports_of(ast.parse(path.read_text(encoding="utf-8"))) if n in files and n != name]
        for name, path in files.items()
    }
    assert len(graph) > 250
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as ex:
        pytest.fail(" -> ".join(ex.args[1]))


def test_every_public_name_is_exported() -> None:
    assert sorted(name for name in PUBLIC_NAMES if not hasattr(guarddb, name)) == []


def test_every_error_is_exported() -> None:
    """Whoever catches an error must not have to know the module it is defined in."""
    assert sorted(name for name in guarddb.errors.__all__ if not hasattr(guarddb, name)) == []


def test_the_list_of_public_names_is_complete() -> None:
    """`__all__` holds what the package imports and does not hide, and nothing twice."""
    public = {name for name in vars(guarddb) if not name.startswith("_")}
    modules = {name for name in public if getattr(vars(guarddb)[name], "__name__", "").startswith("guarddb.")}
    assert len(set(guarddb.__all__)) == len(guarddb.__all__)
    assert [name for name in guarddb.__all__ if not hasattr(guarddb, name)] == []
    assert sorted(public - set(guarddb.__all__) - modules - {"annotations"}) == []


def test_integrations_use_public_names_only() -> None:
    """What ships beside guarddb needs nothing that others cannot use."""
    found = []
    for path in sorted((ROOT / "integrations").rglob("*.py")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            module = re.match(r"\s*(?:from|import) guarddb\.([\w.]+)", line)
            if module is not None and not module[1].startswith("integrations"):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert found == []


def test_guarddb_stands_in_for_psycopg() -> None:
    """`import guarddb as psycopg` finds every public name of psycopg."""
    missing = [name for name in psycopg.__all__ if not hasattr(guarddb, name)]
    assert missing == []


def test_there_is_no_attribute_named_psycopg() -> None:
    """SQLAlchemy's async adapter copies the module's dict over its own, and would connect with the plain
    driver."""
    assert not hasattr(guarddb, "psycopg")


def commands_of_readme() -> list[str]:
    return re.findall(r"```sh\n(.*?)\n```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_readme_opens_with_two_commands_of_one_line() -> None:
    tour, tests = commands_of_readme()[:2]
    assert tour.endswith("guarddb demo")
    assert "pytest" in tests
    assert "\n" not in tour + tests


def test_the_readmes_extras_and_scripts_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for command in commands_of_readme()[:2]:
        for extra in re.findall(r"\.\[(\w+)\]", command):
            assert extra in project["optional-dependencies"]
    assert set(project["scripts"]) == {"guarddb"}  # where it leads: tests/cli/test_start.py


def test_the_ci_script_runs_the_readmes_test_command() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    text = script.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text
    pytest_arguments = commands_of_readme()[1].split("pytest", 1)[1].strip()
    assert pytest_arguments in text


def committed_files() -> list[Path]:
    try:
        done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


#: Absolute paths of somebody's machine, and the settings of its package mirror.
MACHINE = re.compile(
    r"(?<![\w.])/(?:home|root|Users|work|opt)/\w|(?:extra-index-url|index-url|find-links|trusted-host)\s*[= ]\s*\S"
)


def test_nothing_of_a_machine_is_committed() -> None:
    """No paths below a home directory and no package mirror: what is committed works on any machine."""
    found = []
    for path in committed_files():
        if path == Path(__file__) or path.suffix == ".png":
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if MACHINE.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert found == []


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "docs/architecture.md",
        "docs/cli.md",
        "docs/telemetry.md",
        "tests/README.md",
    ],
)
def test_links_between_documents_lead_somewhere(name: str) -> None:
    path = ROOT / name
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_every_command_is_described_in_the_docs() -> None:
    from guarddb.cli import app

    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    names = [command.name for command in app.registered_commands]
    assert len(names) >= 7
    assert [name for name in names if f"guarddb {name}" not in text] == []


def block_of_readme(language: str) -> str:
    found = re.search(
        rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert found is not None
    return found[1]


README_TABLES = """
CREATE TABLE customers (id int, tenant_id int, email text, phone text);
CREATE TABLE orders (id int, tenant_id int);
CREATE TABLE order_items (id int);
CREATE TABLE products (id int);
INSERT INTO customers VALUES (7, 42, 'ada@example.org', '555'), (8, 43, 'eve@example.org', '556');
"""


def test_the_readmes_quick_start_does_what_it_says(
    fresh_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(fresh_dsn, autocommit=True) as conn:
        conn.execute(README_TABLES)
    policy = tmp_path / "sales.yaml"
    policy.write_text(block_of_readme("yaml"), encoding="utf-8")
    monkeypatch.setenv("SALES_HASH_KEY", "a key")
    code = block_of_readme("python")
    for said, meant in (("postgresql://agent@localhost/shop", fresh_dsn), ("sales.yaml", str(policy))):
        assert said in code
        code = code.replace(said, meant)
    names: dict[str, object] = {}
    # What the text shows as bare expressions is kept here, to be looked at.
    code = code.replace("cur.fetchall()", "rows = cur.fetchall()").replace("ex.rule, ex.hint", "refusal = ex")
    exec(compile(code, "README.md", "exec"), names)
    assert names["rows"] == [(7, names["rows"][0][1])]  # type: ignore[index]
    assert re.fullmatch("[0-9a-f]{64}", names["rows"][0][1])  # type: ignore[index]
    assert names["cur"].decision.verdict == "row-filter"  # type: ignore[attr-defined]
    assert names["refusal"].rule == "masked_column_predicate"  # type: ignore[attr-defined]


def test_the_readmes_role_can_read_and_nothing_else(fresh_dsn: str) -> None:
    role = f"readme_agent_{os.getpid()}"
    with psycopg.connect(fresh_dsn, autocommit=True) as conn:
        conn.execute(README_TABLES)
        database = conn.info.dbname
        script = block_of_readme("sql").replace("DATABASE shop", f"DATABASE {database}")
        conn.execute(re.sub(r"\bagent\b", role, script))
        try:
            with psycopg.connect(make_conninfo(fresh_dsn, user=role), autocommit=True) as agent:
                assert agent.execute("SELECT count(*) FROM customers").fetchone() == (2,)
                with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                    agent.execute("DELETE FROM customers")
                # The setting is a habit that the role may change; what it was not granted is the wall.
                agent.execute("SET default_transaction_read_only = off")
                for refused in (
                    "DELETE FROM customers",
                    "CREATE TABLE t ()",
                    "CREATE TEMPORARY TABLE t ()",
                    "SELECT * FROM pg_authid",
                ):
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        agent.execute(refused)
        finally:
            conn.execute(f"DROP OWNED BY {role}")
            conn.execute(f"DROP ROLE {role}")
