"""Circuits, rates and places of a model, on a clock that the test moves."""

import threading

import pytest

from mtrouter_rl.pools.remote.breaker import CircuitBreakers
from mtrouter_rl.pools.remote.rates import RateLimit
from mtrouter_rl.pools.remote.settings import BreakerCard


class Clock:
    """A clock that stands still but for sleeping."""

    def __init__(self):
        self.now_s, self.slept = 100.0, []

    def __call__(self):
        return self.now_s

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now_s += seconds


def test_a_circuit_opens_after_failures_in_a_row_and_one_call_decides_after_its_pause():
    clock = Clock()
    circuits = CircuitBreakers(BreakerCard(failures=3, pause_s=10), ["a", "b"], clock=clock)
    circuits.failed("a")
    circuits.failed("a")
    circuits.succeeded("a")
    circuits.failed("a")
    circuits.failed("a")
    assert not circuits.is_open("a")
    circuits.failed("a")
    assert circuits.opened() == {"a": "circuit open after 3 failures, for another 10 s"}
    clock.now_s += 10
    assert not circuits.opened()
    circuits.failed("a")  # the call that was let through
    assert circuits.is_open("a")
    clock.now_s += 10
    circuits.succeeded("a")
    circuits.failed("a")
    assert not circuits.is_open("a")


def test_if_every_circuit_is_open_no_model_is_ruled_out():
    circuits = CircuitBreakers(BreakerCard(failures=1), ["a", "b"], clock=Clock())
    circuits.failed("a")
    circuits.failed("b")
    assert not circuits.opened()


def test_calls_come_at_their_rate_after_a_second_s_worth():
    clock = Clock()
    limit = RateLimit(per_minute=120, at_once=None, sleep=clock.sleep, clock=clock)
    for _ in range(5):
        with limit.turn(within_s=60) as is_free:
            assert is_free
    assert clock.slept == [0.5, 0.5, 0.5]


def test_a_turn_that_would_come_too_late_is_refused_without_waiting():
    clock = Clock()
    limit = RateLimit(per_minute=1, at_once=None, sleep=clock.sleep, clock=clock)
    with limit.turn(within_s=1) as is_free:
        assert is_free
    with limit.turn(within_s=1) as is_free:
        assert not is_free
    assert clock.slept == []
    with limit.turn(within_s=61) as is_free:
        assert is_free
    assert clock.slept == [60.0]


def test_places_are_held_while_a_call_is_made():
    limit = RateLimit(per_minute=None, at_once=1)
    found = []

    def second():
        with limit.turn(within_s=0.01) as is_free:
            found.append(is_free)

    with limit.turn(within_s=1) as is_free:
        other = threading.Thread(target=second)
        other.start()
        other.join()
        assert is_free
    assert found == [False]
    with pytest.raises(KeyError), limit.turn(within_s=1):
        raise KeyError
    second()
    assert found == [False, True]
