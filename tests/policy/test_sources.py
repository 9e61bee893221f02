"""Policy sources: what is in force while a file changes, breaks and comes back."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

import pytest

from guarddb.policy import PolicyError, PolicyProfile
from guarddb.runtime.policies import FilePolicy, StaticPolicy, open_source
from guarddb.runtime.policy_source import PolicySource


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "p.yaml"
    path.write_text("name: one\n")
    return path


def replace(path: Path, text: str) -> None:
    other = path.with_suffix(".new")
    other.write_text(text)
    os.replace(other, path)


def age(path: Path, seconds: float = 60) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_static_policy_stays() -> None:
    source = StaticPolicy({"name": "p"})
    profile, version = source.current()
    assert (profile, version) == (PolicyProfile(name="p"), PolicyProfile(name="p").version)
    assert source.current()[0] is profile
    assert isinstance(source, PolicySource)


def test_a_changed_file_is_in_force_at_the_next_look(file: Path) -> None:
    source = FilePolicy(file, check_interval=0)
    first = source.current()
    assert source.current()[0] is first[0]
    replace(file, "name: two\n")
    assert source.current()[0].name == "two"
    assert source.current()[1] != first[1]
    file.write_text("name: six\n")  # same size, and perhaps the same timestamp
    assert source.current()[0].name == "six"


def test_the_file_is_not_looked_at_more_often_than_the_interval(file: Path) -> None:
    source = FilePolicy(file, check_interval=3600)
    replace(file, "name: two\n")
    assert source.current()[0].name == "one"


def test_a_bad_version_leaves_the_good_one_in_force_and_is_told_once(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = FilePolicy(file, check_interval=0)
    for bad in ("name: [\n", "name: two\nmax_rows: -1\n"):
        replace(file, bad)
        for _ in range(3):
            assert source.current()[0].name == "one"
    records = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(records) == 2
    assert records[0].name == "guarddb.policy"
    assert str(file) in records[0].getMessage()
    assert "max_rows" in records[1].getMessage()
    replace(file, "name: three\n")
    assert source.current()[0].name == "three"


def test_a_good_version_that_comes_back_is_in_force_again(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = FilePolicy(file, check_interval=0)
    for _ in range(2):
        replace(file, "name: [\n")
        assert source.current()[0].name == "one"
        replace(file, "name: one\n")
        assert source.current()[0].name == "one"
    assert sum(record.levelno == logging.ERROR for record in caplog.records) == 2


def test_a_missing_file_leaves_its_last_policy_in_force(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = FilePolicy(file, check_interval=0)
    file.unlink()
    for _ in range(3):
        assert source.current()[0].name == "one"
    assert sum("does not exist" in record.getMessage() for record in caplog.records) == 1
    file.write_text("name: two\n")
    assert source.current()[0].name == "two"


def test_an_unchanged_old_file_is_not_read_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    age(file)
    source = FilePolicy(file, check_interval=0)
    reads = []
    monkeypatch.setattr("guarddb.runtime.policies._FRESH_NS", -(10**18))
    monkeypatch.setattr(
        "guarddb.runtime.policies.read_policy_file",
        lambda path: reads.append(path) or Path(path).read_bytes(),
    )
    for _ in range(5):
        source.current()
    assert len(reads) == 1  # the inode's change time was fresh at first, so it was read once more


def test_the_first_version_must_be_good(tmp_path: Path) -> None:
    with pytest.raises(PolicyError):
        FilePolicy(tmp_path / "missing.yaml")
    with pytest.raises(ValueError, match="check_interval"):
        FilePolicy(tmp_path, check_interval=-1)


def test_the_path_does_not_move_with_the_working_directory(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    source = FilePolicy(file.name, check_interval=0)
    monkeypatch.chdir("/")
    replace(file, "name: two\n")
    assert source.current()[0].name == "two"


def test_threads_always_see_a_whole_policy(file: Path) -> None:
    source = FilePolicy(file, check_interval=0)
    wrong: list[object] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            profile, version = source.current()
            if profile.version != version or profile.name not in {"one", "two"}:
                wrong.append((profile, version))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for round_ in range(20):
        replace(file, "name: two\n" if round_ % 2 else "name: one\n")
        time.sleep(0.002)
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_open_source_takes_what_connect_takes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GUARDDB_POLICY", raising=False)
    profile = PolicyProfile(name="p")
    assert isinstance(open_source(profile), StaticPolicy)
    assert isinstance(open_source({"name": "p"}), StaticPolicy)
    assert isinstance(open_source(str(file)), FilePolicy)
    assert isinstance(open_source(file), FilePolicy)
    source = StaticPolicy(profile)
    assert open_source(source) is source
    with pytest.raises(PolicyError, match="GUARDDB_POLICY"):
        open_source()
    monkeypatch.setenv("GUARDDB_POLICY", str(file))
    assert open_source().current()[0].name == "one"
    for odd in (5, [], StaticPolicy, "http://x/pol_1", b"p.yaml"):
        with pytest.raises(PolicyError):
            open_source(odd)  # type: ignore[arg-type]
