"""The circuit breaker, against a clock that the test sets."""

from __future__ import annotations

from dataclasses import dataclass

from kvloom.memory.tier.breaker import Breaker


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(faults=3, rest_seconds=10.0, clock=clock)
    for _ in range(3):
        assert breaker.admit()
        breaker.went_wrong()
    return breaker


def test_it_opens_after_faults_in_a_row() -> None:
    breaker = Breaker(faults=3, rest_seconds=10.0, clock=Clock())
    for went in "xx.xx.xx":
        assert breaker.admit()
        assert not breaker.is_open
        (breaker.went_well if went == "." else breaker.went_wrong)()
    breaker.went_wrong()
    assert breaker.is_open
    assert not breaker.admit()


def test_after_the_rest_one_call_tries() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now = 9.9
    assert not breaker.admit()
    clock.now = 10.0
    assert not breaker.is_open
    assert breaker.admit()
    assert breaker.is_open
    assert not breaker.admit()


def test_a_try_that_goes_well_closes_it() -> None:
    clock = Clock(10.0)
    breaker = opened(clock)
    clock.now = 20.0
    assert breaker.admit()
    breaker.went_well()
    assert [breaker.admit() for _ in range(5)] == [True] * 5


def test_a_try_that_goes_wrong_starts_another_rest() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now = 10.0
    assert breaker.admit()
    clock.now = 13.0
    breaker.went_wrong()
    clock.now = 22.9
    assert not breaker.admit()
    clock.now = 23.0
    assert breaker.admit()


def test_a_try_whose_outcome_nobody_tells_does_not_close_it_for_ever() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now = 10.0
    assert breaker.admit()
    clock.now = 20.0
    assert breaker.admit()
