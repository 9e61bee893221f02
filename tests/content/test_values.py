"""Every text in a value, however it is wrapped."""

from __future__ import annotations

import datetime as dt
import enum
from collections import namedtuple
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range

from guarddb.content.scan import texts

Point = namedtuple("Point", "x label")


class Colour(enum.Enum):
    RED = "red"


class Slotted:
    __slots__ = ("label",)

    def __init__(self, label: str) -> None:
        self.label = label


@pytest.mark.parametrize(
    ("value", "inside"),
    [
        ("x", {"x"}),
        (["x", ["y", None]], {"x", "y"}),
        ({"k": {"l": ["v", 1, None, True]}}, {"k", "l", "v"}),
        (("a", 1), {"a"}),
        (Point(1, "p"), {"p"}),
        (Range("a", "b"), {"a", "b"}),
        (Multirange([Range("a", "b"), Range("c", None)]), {"a", "b", "c"}),
        (Slotted("s"), {"s"}),
        ({"s"}, {"s"}),
    ],
)
def test_every_text_is_found(value: Any, inside: set[str]) -> None:
    assert inside <= {text for text in texts(value) if text is not None}


def test_an_enums_member_is_looked_at() -> None:
    assert "red" in set(texts(Colour.RED))


@pytest.mark.parametrize(
    "value", [None, 1, 1.5, True, b"x", Decimal(1), uuid4(), dt.datetime.now(), dt.date.today()]
)
def test_what_holds_no_text(value: Any) -> None:
    assert list(texts(value)) == []


def test_what_nests_too_deeply_is_said_so() -> None:
    deep: Any = "x"
    for _ in range(1000):
        deep = [deep]
    assert list(texts(deep)) == [None]


def test_a_value_that_holds_itself_ends() -> None:
    loop: list[Any] = ["x"]
    loop.append(loop)
    assert list(texts(loop)) == ["x"]
