"""Waiting for somebody else than the server: an approver, a budget store far away.

psycopg's generators can wait for the server's socket only, and guarddb's steps are within them. A step that has to ask somebody
else yields a `Question`. The connection's `wait()` takes it out between two waits of psycopg's, answers it in its own way (a sync
connection by calling, an async one by awaiting, so that its event loop goes on), and lets the generator go on with the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg.abc import PQGen


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What has to be asked, in both forms. An exception of theirs is raised where the question was yielded."""

    call: Callable[[], Any]
    await_: Callable[[], Awaitable[Any]]


def ask_somebody_gen(question: Question) -> PQGen[Any]:
    """The answer to a question; for a generator that `wait()` drives as `Asking`."""
    answer: Any = yield question  # type: ignore[misc]
    return answer


def ask_in_a_thread_gen(call: Callable[[], Any]) -> PQGen[Any]:
    """What a call returns that may wait; an async connection makes it in a thread."""
    answer = yield from ask_somebody_gen(Question(call, partial(asyncio.to_thread, call)))
    return answer


class Asking:
    """A generator that may ask: driven a stretch at a time, each ending with a question or with its end."""

    __slots__ = ("_answer", "_error", "_gen", "question")

    def __init__(self, gen: PQGen[Any]) -> None:
        self._gen = gen
        #: what the stretch that has just ended wants to know; None when the generator is at its end
        self.question: Question | None = None
        self._answer: Any = None
        self._error: BaseException | None = None

    def answer(self, value: Any) -> None:
        """Let the next stretch begin with an answer."""
        self._answer = value

    def fail(self, error: BaseException) -> None:
        """Let it begin with an error."""
        self._error = error

    def stretch_gen(self) -> PQGen[Any]:
        """Go on until there is a question, or to the end; then this is the generator's own result."""
        gen = self._gen
        self.question = None
        error, self._error = self._error, None
        answer, self._answer = self._answer, None
        try:
            while True:
                asked: Any = gen.throw(error) if error is not None else gen.send(answer)
                error = None
                if type(asked) is Question:
                    self.question = asked
                    return None
                try:
                    answer = yield asked
                except BaseException as ex:
                    error = ex
        except StopIteration as end:
            return end.value
