"""`guarddb demo`: every answer of the tour is the one it was written for, and nothing is left running."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from guarddb.cli.tour import SCENES


def run_demo(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TMPDIR": str(directory), "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, "-m", "guarddb.cli", "demo", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """Where the tours of this module put their files: short and open to the user that the server runs as."""
    with tempfile.TemporaryDirectory(prefix="gdt-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def tour(directory: Path) -> dict[str, Any]:
    done = run_demo(directory, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_the_shop_has_more_than_a_hundred_thousand_rows(tour: dict[str, Any]) -> None:
    assert tour["rows_loaded"] > 100_000


def test_every_step_is_taken(tour: dict[str, Any]) -> None:
    assert [step["sql"] for step in tour["steps"]] == [step.sql for scene in SCENES for step in scene.steps]
    assert len(tour["steps"]) >= 20


def test_every_answer_is_the_expected_one(tour: dict[str, Any]) -> None:
    odd = [
        (s["sql"], s.get("rule"), s.get("reason"), s.get("error"))
        for s in tour["steps"]
        if not s["as_expected"]
    ]
    assert odd == []


def test_a_refusal_says_why_and_what_else_to_do(tour: dict[str, Any]) -> None:
    blocked = [step for step in tour["steps"] if step["verdict"] == "block"]
    assert len(blocked) >= 10
    assert [step["sql"] for step in blocked if not step["reason"] or not step.get("hint")] == []
    assert [step["sql"] for step in blocked if "rows" in step] == []


def test_no_masked_value_is_in_the_output(tour: dict[str, Any]) -> None:
    shown = json.dumps([step.get("rows") for step in tour["steps"]]) + json.dumps(
        [step.get("error") for step in tour["steps"]]
    )
    assert "@example.org" not in shown
    assert "+47 555" not in shown


def test_only_the_error_oracle_ends_in_a_server_error_and_it_tells_nothing(tour: dict[str, Any]) -> None:
    (step,) = [step for step in tour["steps"] if step.get("error")]
    assert "regclass" in step["sql"]
    assert not any(city in step["error"]["message"].lower() for city in ("oslo", "lisbon", "riga", "dublin"))


def test_the_tour_for_people(directory: Path) -> None:
    done = run_demo(directory)
    assert (done.returncode, done.stderr) == (0, "")
    assert "What the guard did" in done.stdout
    assert "not the answer" not in done.stdout
    assert "\x1b" not in done.stdout


def test_no_server_and_no_file_is_left(tour: dict[str, Any], directory: Path) -> None:
    commands = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert [command for command in commands if str(directory) in command] == []
    assert list(directory.glob("guarddb-*")) == []


def test_each_attack_meets_three_walls(tour: dict[str, Any]) -> None:
    assert len(tour["wall"]) == 4
    for attack in tour["wall"]:
        assert set(attack["ways"]) == {"guarddb", "guarddb behind the wall", "the wall alone"}
        for answer in attack["ways"].values():
            assert "@" not in answer, attack
            assert "division by zero" not in answer, attack
    assert tour["wall"][0]["ways"]["the wall alone"].endswith("[redacted]")
    assert len(set(tour["wall"][2]["ways"].values())) == 1
