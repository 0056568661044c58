"""The thread that works ahead: order, bounds, errors both ways, no leaks."""

from __future__ import annotations

import threading
import time

import pytest

from models.ahead import Abandoned, Ahead, Send


def wanted() -> None:
    """Always."""


def test_items_come_in_order() -> None:
    def work(send: Send[int]) -> None:
        for number in range(5):
            send(number, bulky=number % 2 == 0)

    with Ahead[int](work) as ahead:
        assert list(ahead.items(wanted)) == [0, 1, 2, 3, 4]


def test_at_most_one_bulky_item_lies_unread() -> None:
    sent: list[int] = []

    def work(send: Send[int]) -> None:
        for number in range(4):
            send(number, bulky=True)
            sent.append(number)

    with Ahead[int](work) as ahead:
        items = ahead.items(wanted)
        for read in range(4):
            assert next(items) == read
            time.sleep(0.02)
            assert len(sent) <= read + 2, "one more than was read, and no further"


def test_an_error_arrives_after_what_was_sent_before_it() -> None:
    def work(send: Send[int]) -> None:
        send(1)
        raise KeyError("broken")

    with Ahead[int](work) as ahead:
        items = ahead.items(wanted)
        assert next(items) == 1
        with pytest.raises(KeyError, match="broken"):
            next(items)


def test_leaving_stops_the_work_even_while_it_waits() -> None:
    ended: list[str] = []

    def work(send: Send[int]) -> None:
        try:
            while True:
                send(0, bulky=True)
        except Abandoned:
            ended.append("abandoned")
            raise

    with Ahead[int](work) as ahead:
        next(ahead.items(wanted))
    assert ended == ["abandoned"]
    assert not ahead._thread.is_alive()


def test_a_waiting_caller_still_asks_whether_it_is_wanted() -> None:
    release = threading.Event()
    asked: list[int] = []

    def unwanted() -> None:
        asked.append(1)
        if len(asked) == 3:
            release.set()
            raise InterruptedError

    with pytest.raises(InterruptedError), Ahead[int](lambda send: release.wait() and None) as ahead:
        list(ahead.items(unwanted))
    assert len(asked) == 3
