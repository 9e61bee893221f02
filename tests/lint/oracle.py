"""What PostgreSQL itself says that a statement does: locks from pg_locks, work from its debug messages and from the files of
the tables.

A statement runs in a real transaction, is looked at before it ends, and is rolled back. What cannot run in a transaction is
stopped by another session's lock and looked at while it waits.
"""

from __future__ import annotations

import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

import psycopg

from guarddb.lint.acts import Lock, Work

#: The locks of a backend, also on what it has dropped.
LOCKS = "SELECT relation, mode FROM pg_locks WHERE pid = %s AND locktype = 'relation'"
#: A table's file, and those of its indexes.
FILES = """
SELECT n.nspname, c.relname, c.relkind, c.relfilenode, t.relname, c.oid FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_index AS i ON i.indexrelid = c.oid LEFT JOIN pg_class AS t ON t.oid = i.indrelid
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
"""
_REWRITING = re.compile(r'rewriting table "(\w+)"')
_VERIFYING = re.compile(r'verifying table "(\w+)"')
_BUILDING = re.compile(r'building index "\w+" on table "(\w+)"')
_VALIDATING = re.compile(r'validating foreign key constraint "(\w+)"')

Name = tuple[str, str]


@dataclass
class Measured:
    """For each relation that was there before: the strongest lock, and the work."""

    locks: dict[Name, Lock] = field(default_factory=dict)
    work: dict[Name, set[Work]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def take_locks(self, locks: list[tuple[int, str]], oids: dict[int, Name]) -> None:
        for oid, lock in locks:
            if (name := oids.get(oid)) is not None:
                self.locks[name] = max(mode(lock), self.locks.get(name, Lock.ACCESS_SHARE))

    def strong(self) -> dict[Name, tuple[Lock, frozenset[Work]]]:
        """Relations that others wait for, with the work done meanwhile. A rewrite includes reading, and building the indexes
        anew."""
        return {
            name: (lock, condensed(self.work.get(name, set())))
            for name, lock in self.locks.items()
            if lock >= Lock.SHARE
        }


def condensed(work: set[Work] | frozenset[Work]) -> frozenset[Work]:
    """A rewrite includes the rest; an index that is built, and keys that are looked up, include a scan."""
    if Work.REWRITE in work:
        return frozenset({Work.REWRITE})
    if len(work) > 1:
        return frozenset(work - {Work.SCAN})
    return frozenset(work)


def mode(name: str) -> Lock:
    """`ShareRowExclusiveLock` -> Lock.SHARE_ROW_EXCLUSIVE."""
    return Lock[re.sub(r"(?<!^)(?=[A-Z])", "_", name.removesuffix("Lock")).upper()]


def in_transaction(conn: psycopg.Connection, script: str) -> Measured:
    """Run a script in a transaction that is rolled back. `conn` is in autocommit."""
    measured = Measured()

    def take(diagnostic: psycopg.errors.Diagnostic) -> None:
        measured.messages.append(diagnostic.message_primary or "")

    files = {(row[0], row[1]): row for row in conn.execute(FILES).fetchall()}
    tables = {name for name, row in files.items() if row[2] in "rpmvf"}
    oids = {row[5]: name for name, row in files.items() if name in tables}
    conn.add_notice_handler(take)
    try:
        with conn.transaction(force_rollback=True):
            scans = dict(conn.execute("SELECT relname, seq_scan FROM pg_stat_xact_user_tables").fetchall())
            conn.execute("SET LOCAL client_min_messages = debug1")
            conn.execute(script)
            conn.execute("SET LOCAL client_min_messages = notice")
            locks = conn.execute(LOCKS, [conn.info.backend_pid]).fetchall()
            after = {(row[0], row[1]): row for row in conn.execute(FILES).fetchall()}
            keys = conn.execute("SELECT conname, conrelid::regclass::text FROM pg_constraint").fetchall()
            read = dict(conn.execute("SELECT relname, seq_scan FROM pg_stat_xact_user_tables").fetchall())
    finally:
        conn.remove_notice_handler(take)
    measured.take_locks(locks, oids)

    def did(table: str, work: Work) -> None:
        # (A partitioned table has no rows of its own.)
        if ("public", table) in tables and files["public", table][2] != "p":
            measured.work.setdefault(("public", table), set()).add(work)

    for message in measured.messages:
        for pattern, work in ((_REWRITING, Work.REWRITE), (_VERIFYING, Work.SCAN), (_BUILDING, Work.INDEX)):
            if found := pattern.search(message):
                did(found[1], work)
        if found := _VALIDATING.search(message):
            for key, table in keys:
                if key == found[1]:
                    did(table, Work.FOREIGN_KEY)
    if "TRUNCATE" in script or "NO DATA" in script:
        measured.work.clear()  # the files are new because they are empty
        return measured
    for name, row in files.items():
        if name in after and after[name][3] != row[3]:
            if row[2] in "rm":
                did(name[1], Work.REWRITE)
            elif row[2] == "i" and row[4] is not None:
                did(row[4], Work.INDEX)
    if "DOMAIN" in script or "PARTITION OF" in script:
        # No message speaks of these scans; the statistics do.
        for table, count in read.items():
            if (count or 0) > (scans.get(table) or 0):
                did(table, Work.SCAN)
    return measured


def while_it_waits(dsn: str, statement: str, table: str) -> Measured:
    """Start a statement that cannot run in a transaction, while another session is writing to `table`, and look at its
    locks."""
    measured = Measured()
    with (
        psycopg.connect(dsn) as writer,
        psycopg.connect(dsn, autocommit=True) as subject,
        psycopg.connect(dsn, autocommit=True) as watcher,
    ):
        files = watcher.execute(FILES).fetchall()
        oids = {row[5]: (row[0], row[1]) for row in files if row[2] in "rpmvf"}
        writer.execute(f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE")
        writer.execute("SELECT pg_current_xact_id()")
        pid = subject.info.backend_pid

        def run() -> None:
            with suppress(psycopg.errors.QueryCanceled):
                subject.execute(statement)

        thread = threading.Thread(target=run)
        thread.start()
        waiting = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
        while thread.is_alive() and watcher.execute(waiting, [pid]).fetchone() != (True,):
            time.sleep(0.01)
        measured.take_locks(watcher.execute(LOCKS, [pid]).fetchall(), oids)
        watcher.execute("SELECT pg_cancel_backend(%s)", [pid])
        thread.join()
    return measured
