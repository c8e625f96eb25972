"""`Interrupts`: Ctrl-C and SIGTERM pass at once, and wait while code must not be interrupted."""

import signal
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from pl_onecycle.trial.interrupts import Interrupts

BOTH = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def handled() -> Iterator[list[int]]:
    """The signals that the handlers of the user have got."""
    got: list[int] = []
    users = {number: signal.signal(number, lambda number, frame: got.append(number)) for number in BOTH}
    yield got
    for number, handler in users.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", BOTH)
def test_a_signal_passes_at_once(number: signal.Signals, handled: list[int]) -> None:
    with Interrupts():
        signal.raise_signal(number)
        assert handled == [number]
    assert handled == [number]


def test_the_first_signal_that_waited_is_handled_once_at_the_end(handled: list[int]) -> None:
    with Interrupts() as interrupts:
        interrupts.hold = True
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(number)
        assert handled == []
    assert handled == [signal.SIGTERM]


def test_the_handlers_of_the_user_are_restored_also_after_an_exception(handled: list[int]) -> None:
    users = [signal.getsignal(number) for number in BOTH]
    inside = []
    with suppress(KeyError), Interrupts():
        inside = [signal.getsignal(number) for number in BOTH]
        raise KeyError
    assert set(inside).isdisjoint(users)
    assert [signal.getsignal(number) for number in BOTH] == users


def test_an_ignored_signal_stays_ignored(handled: list[int]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interrupts() as interrupts:
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        interrupts.hold = True
        signal.raise_signal(signal.SIGINT)
    assert handled == []
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_another_thread_leaves_the_handlers_alone(handled: list[int]) -> None:
    users, inside = [signal.getsignal(number) for number in BOTH], list[object]()

    def enter() -> None:
        with Interrupts():
            inside.extend(signal.getsignal(number) for number in BOTH)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert inside == users
