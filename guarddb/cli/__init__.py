"""The `guarddb` command: judge statements, check profiles, try a session, take the tour.

Exit codes of every command: 0 done, 1 the answer is "no" (a statement is blocked, a profile has errors), 2
the question could not be asked (bad input, no connection, a missing extra): then one sentence says why, on
stderr, and with `--json` a document on stdout as well; 130 interrupted, 141 whoever read the output has gone.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from typing import Annotated, NamedTuple, TextIO

import typer
from typer.main import get_command

from guarddb.cli.audit import app as audit
from guarddb.cli.branches import app as branches
from guarddb.cli.catalog import app as catalog
from guarddb.cli.check import check
from guarddb.cli.demo import demo
from guarddb.cli.evaluate import evaluate
from guarddb.cli.inputs import Problem, sentence
from guarddb.cli.lint import lint
from guarddb.cli.mcp import mcp
from guarddb.cli.render import print_json
from guarddb.cli.risk import app as risk
from guarddb.cli.schema import schema, snapshot
from guarddb.cli.serve import serve
from guarddb.cli.shell import shell
from guarddb.cli.wall import wall

#: Whoever read the output has gone before the command knew its answer: what a shell shows of a command that SIGPIPE ends.
_READER_GONE = 141
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
#: Characters of the sentence that says what is wrong.
SENTENCE = 4_000

app = typer.Typer(
    name="guarddb",
    help="A policy guard for the SQL that AI agents write.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        print(
            f"guarddb {version('guarddb')}"
        )  # (guarddb.__version__ is psycopg's, as drivers are asked for it)
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """A policy guard for the SQL that AI agents write."""


for name, command in (
    ("demo", demo),
    ("eval", evaluate),
    ("check", check),
    ("lint", lint),
    ("shell", shell),
    ("schema", schema),
    ("snapshot", snapshot),
    ("serve", serve),
    ("mcp", mcp),
    ("wall", wall),
):
    app.command(name)(command)
app.add_typer(risk, name="risk")
app.add_typer(branches, name="branches")
app.add_typer(catalog, name="catalog")
app.add_typer(audit, name="audit")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (this process's own, by default) and return its exit code.

    Whatever happens, the user gets a sentence and no traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        # What an agent wrote may hold characters that the terminal's encoding has not.
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if arguments is None else arguments)
    # An answer that nobody can get is none: of a closed stream Python says nothing at all.
    ended = _run(words) if sys.stdout is not None else _Ended(2, "standard output is closed")
    code, problem, is_said, is_full = ended
    if len(problem) > SENTENCE:  # an error may quote a token of megabytes
        problem = problem[:SENTENCE] + "…"
    if problem and not is_said:
        _say(problem)
    try:
        if code == 2 and _wants_json(words) and not is_full:
            # (Whoever reads stdout as JSON reads it after a failure, too.)
            print_json({"error": {"message": problem}})
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _give_up(sys.stdout)
    except OSError as ex:
        if not is_full:
            code = 2
            _say(_cannot_write(ex))
        _give_up(sys.stdout)
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except OSError:
        _give_up(sys.stderr)
    return code


def _say(problem: str) -> None:
    """Say it on stderr, where there is one."""
    with suppress(OSError):
        print(f"guarddb: {problem}", file=sys.stderr)


def _cannot_write(ex: OSError) -> str:
    return f"cannot write {ex.filename or 'the output'}: {ex.strerror or ex}"


def _give_up(stream: TextIO) -> None:
    """Nobody reads it (`| head`) or its disk is full: without this the interpreter complains once more when it exits."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@cache
def _command() -> Callable[..., object]:
    # (Typer makes it anew at each call, which is most of what a short command costs a process that runs several.)
    return get_command(app)


def _wants_json(words: Sequence[str]) -> bool:
    options = words[: words.index("--")] if "--" in words else words
    return "--json" in options


class _Ended(NamedTuple):
    """How a command ended: its exit code, why it could not do what was asked, whether stderr says so already, and whether it was
    that nothing more can be written."""

    code: int
    problem: str = ""
    is_said: bool = False
    is_full: bool = False


def _run(arguments: Sequence[str]) -> _Ended:
    try:
        _command()(args=arguments, prog_name="guarddb")
    except SystemExit as ex:
        # (Typer has shown what it makes this of.)
        if isinstance(ex.__context__, BrokenPipeError):
            return _Ended(_READER_GONE)  # (typer's word for it is 1)
        worded = getattr(
            ex.__context__, "format_message", None
        )  # (click's, or the click that typer brings along)
        code = ex.code if isinstance(ex.code, int) else int(ex.code is not None)
        return _Ended(code, str(worded()) if worded is not None else "", is_said=True)
    except Problem as ex:
        return _Ended(2, str(ex))
    except BrokenPipeError:
        return _Ended(_READER_GONE)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return _Ended(130)
    except OSError as ex:
        if ex.errno not in _FULL:
            return _unexpected(ex)
        return _Ended(2, _cannot_write(ex), is_full=ex.filename is None)
    except Exception as ex:
        return _unexpected(ex)
    return _Ended(0)


def _unexpected(ex: Exception) -> _Ended:
    if os.environ.get("GUARDDB_DEBUG"):
        raise ex
    return _Ended(2, f"unexpected {type(ex).__name__}: {sentence(ex)} (GUARDDB_DEBUG=1 shows where)")
