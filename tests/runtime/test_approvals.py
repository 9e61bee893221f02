"""Asking a person: what is a clear answer, and what everything else is."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from guarddb.content.visible import visible
from guarddb.lint.finding import Finding
from guarddb.runtime.approvals import (
    Answer,
    ApprovalRequest,
    ApproverLost,
    AsyncApprover,
    ChangedRow,
    Outcome,
    ask,
    ask_async,
    report,
)
from guarddb.runtime.approvers import as_approver, as_async_approver
from guarddb.runtime.terminal import TerminalApprover, shown


def request(**details: Any) -> ApprovalRequest:
    details.setdefault("tables", ("public.orders",))
    return ApprovalRequest.make("DELETE FROM orders WHERE id = $1", "delete", timeout_seconds=60, **details)


class Book:
    """An approver that files requests under its own ids and keeps what it was told."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.told: list[tuple[str, Outcome]] = []

    def submit(self, request: ApprovalRequest) -> ApprovalRequest:
        return replace(request, id="apr_of_the_book")

    def wait(self, request: ApprovalRequest, timeout: float | None) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def report(self, request: ApprovalRequest, status: Outcome) -> None:
        self.told.append((request.id, status))


class AsyncBook(Book):
    """The same, async; waits until it is told to go on."""

    waiting: asyncio.Event

    async def submit(self, request: ApprovalRequest) -> ApprovalRequest:  # type: ignore[override]
        return super().submit(request)

    async def wait(self, request: ApprovalRequest, timeout: float | None) -> Any:
        if self.answer is None:
            self.waiting.set()
            await asyncio.Event().wait()
        return super().wait(request, timeout)

    async def report(self, request: ApprovalRequest, status: Outcome) -> None:  # type: ignore[override]
        super().report(request, status)


async def asked(approver: Any, form: str, asking: ApprovalRequest) -> Answer:
    if form == "sync":
        return ask(as_approver(approver), asking)[1]
    return (await ask_async(as_async_approver(approver), asking))[1]


async def yes(asking: ApprovalRequest) -> bool:
    return asking.kind == "delete"


@pytest.mark.parametrize("form", ["sync", "async"])
@pytest.mark.parametrize(
    ("approver", "status"),
    [
        (lambda asking: True, "approved"),
        (lambda asking: False, "rejected"),
        (lambda asking: Answer("rejected", "ada", "not today"), "rejected"),
        (yes, "approved"),
        (Book(Answer("approved", "ada")), "approved"),
        (AsyncBook(Answer("approved", "ada")), "approved"),
        (Book(Answer("expired")), "expired"),
    ],
)
async def test_a_clear_answer_is_taken(approver: Any, form: str, status: str) -> None:
    assert (await asked(approver, form, request())).status == status


@pytest.mark.parametrize("form", ["sync", "async"])
@pytest.mark.parametrize(
    "approver",
    [
        lambda asking: None,
        lambda asking: "yes",
        lambda asking: 1,
        lambda asking: 1 / 0,
        Book("approved"),
        Book(ConnectionResetError("gone")),
        Book(Answer("approved", request_id="apr_another")),
        Book(Answer("perhaps")),  # type: ignore[arg-type]
        AsyncBook(TimeoutError()),
    ],
)
async def test_everything_else_is_no_answer(approver: Any, form: str) -> None:
    with pytest.raises(ApproverLost):
        await asked(approver, form, request())


@pytest.mark.parametrize("form", ["sync", "async"])
async def test_a_yes_that_comes_too_late_is_none(form: str) -> None:
    late = ApprovalRequest(
        id="apr_1", sql="DELETE", kind="delete", expires_at=datetime.now(UTC) - timedelta(seconds=1)
    )
    assert (await asked(lambda asking: True, form, late)).status == "expired"


def test_the_request_counts_as_it_was_filed() -> None:
    told: list[str] = []
    filed, answer = ask(Book(Answer("approved")), request(), lambda asking: told.append(asking.id))
    assert (filed.id, answer.status, told) == ("apr_of_the_book", "approved", ["apr_of_the_book"])


def test_ctrl_c_withdraws_the_request() -> None:
    book = Book(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        ask(book, request())
    assert book.told == [("apr_of_the_book", "expired")]


async def test_a_cancelled_task_withdraws_the_request() -> None:
    book = AsyncBook(None)
    book.waiting = asyncio.Event()
    task = asyncio.create_task(ask_async(as_async_approver(book), request()))
    await book.waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert book.told == [("apr_of_the_book", "expired")]


async def test_the_event_loop_goes_on_while_a_sync_approver_is_asked() -> None:
    go = threading.Event()
    task = asyncio.create_task(asked(lambda asking: go.wait(), "async", request()))
    await asyncio.sleep(0)  # the loop runs this although somebody is being asked
    go.set()
    assert (await task).approved


async def test_an_async_callable_is_cancelled_when_time_is_up() -> None:
    soon = ApprovalRequest.make("DELETE", "delete", timeout_seconds=0.01)

    async def never(asking: ApprovalRequest) -> bool:
        await asyncio.Event().wait()
        return True

    assert (await asked(never, "async", soon)).status == "expired"


def test_what_is_no_approver_is_said_at_once() -> None:
    with pytest.raises(TypeError, match="submit, wait and report"):
        as_approver("ada")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="submit, wait and report"):
        as_async_approver(None)  # type: ignore[arg-type]


def test_an_approver_that_cannot_be_told_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Deaf(Book):
        def report(self, request: ApprovalRequest, status: Outcome) -> None:
            raise OSError("no route")

    report(Deaf(Answer("approved")), request(), "executed")
    assert "could not be told" in caplog.text


def test_both_forms_are_protocols() -> None:
    assert isinstance(as_async_approver(lambda asking: True), AsyncApprover)


def test_the_wire_shape_holds_everything() -> None:
    made = request(
        counted_rows=3,
        parameters=("7",),
        sample=(ChangedRow("public.orders", {"id": "7"}, {"id": "8"}),),
        findings=(Finding("warning", "missing_lock_timeout", "none is set"),),
        agent="reporter",
        policy="sales",
        policy_version="v1",
        catalog_version="c1",
    )
    wire = made.to_dict()
    assert wire["id"].startswith("apr_")
    assert wire["status"] == "pending"
    assert wire["requested_at"].endswith("Z")
    again = ApprovalRequest.from_dict(wire)
    assert again.to_dict() == wire
    assert again.rows == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "7"),
        ("id", None),
        ("sql", ""),
        ("kind", "drop"),
        ("tables", "orders"),
        ("tables", [1]),
        ("counted_rows", -1),
        ("counted_rows", True),
        ("requested_at", "yesterday"),
        ("requested_at", "2026-01-01T00:00:00"),
        ("expires_at", 5),
        ("sample", [1]),
        ("findings", [{"severity": "bad", "rule": "r", "message": "m"}]),
        ("findings", [1]),
    ],
)
def test_what_is_no_request_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"approval request|finding"):
        ApprovalRequest.from_dict({**request().to_dict(), field: value})


def test_ids_are_not_repeated() -> None:
    assert len({request().id for _ in range(1_000)}) == 1_000


# --- the terminal ---


@pytest.mark.parametrize(
    ("typed", "status"),
    [
        ("y\n", "approved"),
        ("YES\n", "approved"),
        ("n\n", "rejected"),
        ("\n", "rejected"),
        ("yep\n", "rejected"),
    ],
)
def test_only_a_yes_at_the_terminal_approves(typed: str, status: str) -> None:
    out = io.StringIO()
    _, answer = ask(TerminalApprover(io.StringIO(typed), out), request(counted_rows=3))
    assert answer.status == status
    assert "DELETE FROM orders" in out.getvalue()
    assert "public.orders" in out.getvalue()
    assert "3 (counted" in out.getvalue()


def test_a_closed_terminal_is_no_answer() -> None:
    with pytest.raises(ApproverLost):
        ask(TerminalApprover(io.StringIO(""), io.StringIO()), request())


@pytest.mark.parametrize(("typed", "status"), [(b"y\n", "approved"), (None, "expired")])
def test_a_real_terminal_is_asked_until_time_is_up(typed: bytes | None, status: str) -> None:
    ours, theirs = pty.openpty()
    with open(ours, "r+b", buffering=0) as person, open(theirs, encoding="utf-8") as reading:
        if typed is not None:
            person.write(typed)
        asking = ApprovalRequest.make("SELECT 1", "select", timeout_seconds=60 if typed is not None else 0.05)
        _, answer = ask(TerminalApprover(reading, io.StringIO()), asking)
    assert answer.status == status


def test_without_a_terminal_there_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_tty(path: str, *rest: Any, **more: Any) -> Any:
        raise OSError(6, os.strerror(6), path)

    monkeypatch.setattr("builtins.open", no_tty)
    with pytest.raises(ApproverLost, match="no terminal"):
        ask(TerminalApprover(), request())


def test_what_hides_or_turns_text_is_shown_as_an_escape() -> None:
    hidden = "DELETE FROM orders\n--\u202e\x1b[1A\x1b[2K\u200b\U000e0041\r\u2028 WHERE id = 1"
    made = ApprovalRequest.make(
        hidden,
        "delete",
        timeout_seconds=0,
        tables=('public."a\nb"',),
        parameters=("\x07",),
        agent="a\u202eb",
        findings=(Finding("error", "rule", "message\x1b[2J"),),
        sample=(ChangedRow("t", {"a": "1\u202e"}, {"a": None}), ChangedRow("t", None, {"a": "x"})),
    )
    text = shown(made)
    assert text.replace("\n", "").isprintable()
    for escape in (r"\u202e", r"\x1b[1A", r"\u200b", r"\U000e0041", r"\x0d", r"\u2028", r"\x07", r"a\x0ab"):
        assert escape in text


@pytest.mark.parametrize("text", ["SELECT 'é', '日本語', '🙂'", "a\n\tb"])
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert visible(text) == text


def test_a_long_statement_says_what_is_left_out() -> None:
    made: Callable[[int], ApprovalRequest] = lambda n: ApprovalRequest.make(  # noqa: E731
        "SELECT " + "1," * n, "select", timeout_seconds=0, parameters=("x" * 300,) * 60
    )
    text = shown(made(20_000))
    assert "more characters" in text
    assert "more parameters" in text
    assert "(300 characters)" in text
