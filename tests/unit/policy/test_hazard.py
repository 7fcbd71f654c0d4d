"""The life table against its definition, step by step."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvloom.policy.retention.hazard import ENDS_S, LifeTable, rates

STARTS_S = (0.0, *ENDS_S[:-1])


def bucket_of(age_s: float) -> int:
    return next(number for number, end_s in enumerate(ENDS_S) if age_s < end_s)


def tell(table: LifeTable, row: int, age_s: float, used: bool) -> None:
    """A block was watched until this age."""
    for bucket in range(bucket_of(age_s)):
        table.outlived(row, bucket, 1)
    (table.used if used else table.lost)(row, bucket_of(age_s))


@given(chance=st.lists(st.floats(0.0, 1.0), min_size=len(ENDS_S), max_size=len(ENDS_S)))
def test_rates_are_the_most_uses_per_second_of_keeping(chance: list[float]) -> None:
    found = rates(np.array([chance]))[0]
    widths = [*(end - start for start, end in zip(STARTS_S, ENDS_S[:-1], strict=False)), STARTS_S[-1]]
    for first in range(len(chance)):
        left, kept_s, best = 1.0, 0.0, 0.0
        for each, width_s in zip(chance[first:], widths[first:], strict=True):
            each = min(max(each, 1e-9), 1 - 1e-6)
            kept_s += width_s * (left + left * (1 - each)) / 2
            left *= 1 - each
            best = max(best, (1 - left) / kept_s)
        assert found[first] == pytest.approx(best, rel=1e-5)


def test_nothing_known_falls_with_age() -> None:
    table = LifeTable()
    row = table.row("any", "family")
    known = [table.rate(row, bucket) for bucket in range(len(ENDS_S))]
    assert known == sorted(known, reverse=True)
    assert known[-1] > 0


def test_a_constant_hazard_is_found_whatever_is_censored() -> None:
    """Exponential times of 20 seconds, of which a half are watched for 10 seconds only: these must not bias it."""
    chance, table = random.Random(3), LifeTable()
    row = table.row("any", "family")
    for number in range(40_000):
        age_s = chance.expovariate(1 / 20)
        tell(table, row, min(age_s, 10.0) if number % 2 else age_s, used=age_s < 10.0 or number % 2 == 0)
    table.learn()
    for age_s in (0.1, 3.0, 12.0, 40.0):
        assert table.rate(row, bucket_of(age_s)) == pytest.approx(1 / 20, rel=0.2)


def test_what_is_about_to_be_used_is_worth_more_than_what_was_just_used() -> None:
    table = LifeTable()
    row = table.row("any", "family")
    for _ in range(500):
        tell(table, row, 100.0, used=True)
    table.learn()
    by_age = {age_s: table.rate(row, bucket_of(age_s)) for age_s in (0.1, 20.0, 70.0, 200.0)}
    assert by_age[0.1] < by_age[20.0] < by_age[70.0]
    assert by_age[200.0] < by_age[0.1] / 2


def test_kinds_lean_on_their_family_and_on_all() -> None:
    table = LifeTable()
    often, never = table.row("often", "a"), table.row("never", "b")
    for _ in range(2000):
        tell(table, often, 1.5, used=True)
        tell(table, never, 5000.0, used=False)
    cousin, stranger, other = table.row("cousin", "a"), table.row("stranger", "c"), table.row("other", "b")
    table.learn()
    now = [table.rate(row, 0) for row in (often, cousin, stranger, other, never)]
    assert now == sorted(now, reverse=True)
    assert now[0] == pytest.approx(now[1], rel=0.1)
    assert table.row("later", "a") == 5
    assert table.rate(5, 0) == pytest.approx(now[2]), "until the next time it is as all are"


def test_long_ago_counts_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvloom.policy.retention.hazard._MEMORY", 1000)
    table = LifeTable()
    row = table.row("any", "family")
    for pause_s in (1.5, 5000.0):
        for _ in range(20):
            for _ in range(200):
                tell(table, row, pause_s, used=True)
            table.learn()
        if pause_s < 2:
            assert table.rate(row, 0) > 1 / 3
    assert table.rate(row, 0) < 1 / 100
