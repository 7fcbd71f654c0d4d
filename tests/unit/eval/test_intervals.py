"""Intervals and the paired test: they hold what they promise, by counting where one can, by simulation else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvloom.eval.clusters import Clusters, Observed, clusters_of
from kvloom.eval.paired import Paired, holm, paired
from kvloom.eval.share import share
from kvloom.eval.stats import Interval, bootstrap, student, wilson

SHARES = (0.02, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.98)
SIZES = (8, 12, 25, 50)
FLOOR = 0.92


def alone(values: Sequence[float]) -> list[Observed]:
    """Every sample about a document of its own."""
    return [(f"{n:04}", (float(value),)) for n, value in enumerate(values)]


def plain(values: Sequence[float]) -> Clusters:
    return clusters_of([alone(values)])


def grouped(values_DM: np.ndarray) -> Clusters:
    """M questions about each of D documents."""
    return clusters_of([[(f"{d:04}", (float(v),)) for d, row in enumerate(values_DM) for v in row]])


def holds(interval: Interval, truth: float) -> bool:
    return interval.low - 1e-9 <= truth <= interval.high + 1e-9


# -- scores --------------------------------------------------------------------------------------------------------


def test_wilson_is_newcombes_table() -> None:
    """Newcombe 1998, table I, method 4."""
    table = {
        (81, 263): (0.2535, 0.3682),
        (15, 148): (0.0598, 0.1644),
        (0, 20): (0.0, 0.2005),
        (1, 29): (0.0018, 0.1963),
    }
    for (hits, count), (low, high) in table.items():
        found = wilson(hits / count, count)
        assert (round(found.low, 4), round(found.high, 4)) == (low, high)


def test_student_is_the_table() -> None:
    table = {1: 12.706, 2: 4.303, 5: 2.571, 7: 2.365, 10: 2.228, 24: 2.064, 49: 2.010, 1000: 1.962}
    assert {n: student(n) for n in table} == pytest.approx(table, abs=2e-3)


@pytest.mark.parametrize("count", SIZES)
def test_scores_of_yes_or_no_are_covered(count: int) -> None:
    """No simulation: the chance of every number of successes is known."""
    intervals = [share(plain([1.0] * hits + [0.0] * (count - hits))) for hits in range(count + 1)]
    for truth in SHARES:
        chances = [math.comb(count, k) * truth**k * (1 - truth) ** (count - k) for k in range(count + 1)]
        assert sum(c for c, each in zip(chances, intervals, strict=True) if holds(each, truth)) >= FLOOR


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("alike", [0.0, 0.4, 1.0])
def test_scores_about_shared_documents_are_covered(count: int, alike: float) -> None:
    """Five questions on each document. ``alike``: how often a question shares its document's fate."""
    rng = np.random.default_rng(count)
    for truth in SHARES:
        held = sum(holds(share(grouped(fates(rng, truth, count, 5, alike))), truth) for _ in range(150))
        assert held / 150 >= FLOOR - 0.02  # two thirds of a standard deviation of the simulation


def fates(rng: np.random.Generator, truth: float, documents: int, questions: int, alike: float) -> np.ndarray:
    own = rng.random((documents, questions)) < truth
    shared = np.repeat(rng.random((documents, 1)) < truth, questions, axis=1)
    return np.where(rng.random((documents, questions)) < alike, shared, own).astype(np.float64)


@pytest.mark.parametrize("count", SIZES)
def test_partial_scores_and_composites_are_covered(count: int) -> None:
    rng = np.random.default_rng(count)
    makers: tuple[tuple[float, Callable[[], Clusters]], ...] = (
        (0.9, lambda: plain(rng.binomial(4, 0.9, count) / 4)),
        (0.05, lambda: plain(rng.binomial(4, 0.05, count) / 4)),
        (0.2, lambda: plain(rng.beta(0.2, 0.8, count))),
        (0.73, lambda: clusters_of([alone(rng.random(count) < p) for p in (0.98, 0.95, 0.9, 0.5, 0.32)])),
        (0.98, lambda: clusters_of([alone(rng.random(count) < 0.98) for _ in range(10)])),
    )
    for truth, make in makers:
        assert sum(holds(share(make()), truth) for _ in range(200)) >= 200 * (FLOOR - 0.02)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_an_interval_of_scores_has_width_holds_its_mean_and_stays_in_bounds(values: list[float]) -> None:
    found = share(plain(values))
    assert 0 <= found.low <= found.mean + 1e-9
    assert found.mean - 1e-9 <= found.high <= 1
    assert found.high - found.low > 0.02
    assert str(found) == str(share(plain(values)))


def test_asking_the_same_document_again_narrows_nothing() -> None:
    once = share(grouped(np.array([[1.0], [0.0]] * 6)))
    often = share(grouped(np.repeat(np.array([[1.0], [0.0]] * 6), 7, axis=1)))
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    apart = share(plain([1.0, 0.0] * 42))
    assert apart.half_width < once.half_width / 2


# -- differences ---------------------------------------------------------------------------------------------------


@cache
def verdict(count: int, won: int, lost: int) -> Paired:
    return paired(plain([1.0] * won + [-1.0] * lost + [0.0] * (count - won - lost)))


def outcomes(count: int, win: float, lose: float) -> Iterator[tuple[float, Paired]]:
    """Every pair of numbers of won and lost that is not rarer than one in a million, with its chance."""
    for won in range(count + 1):
        for lost in range(count + 1 - won):
            ways = math.comb(count, won) * math.comb(count - won, lost)
            chance = ways * win**won * lose**lost * (1 - win - lose) ** (count - won - lost)
            if chance > 1e-6:
                yield chance, verdict(count, won, lost)


LOSSES = ((0.0, 0.02), (0.0, 0.05), (0.0, 0.2), (0.02, 0.02), (0.01, 0.1), (0.1, 0.1), (0.05, 0.3), (0.0, 0.95))


@pytest.mark.parametrize("count", [8, 12, 25])
def test_differences_are_covered_and_chance_is_rarely_taken_for_a_loss(count: int) -> None:
    """No simulation: every outcome counts with its chance."""
    for win, lose in LOSSES:
        found = list(outcomes(count, win, lose))
        assert sum(chance for chance, each in found if holds(each.difference, win - lose)) >= FLOOR
        if win == lose:
            assert sum(chance for chance, each in found if each.p <= 0.05) <= 0.05


def test_differences_are_covered_with_many_samples() -> None:
    rng = np.random.default_rng(2)
    for win, lose in LOSSES:
        draws = rng.multinomial(50, (win, lose, 1 - win - lose), 200)
        assert sum(holds(verdict(50, won, lost).difference, win - lose) for won, lost, _ in draws) >= 200 * (
            FLOOR - 0.01
        )


@pytest.mark.parametrize(("documents", "lose"), [(8, 0.05), (12, 0.3), (25, 0.1), (40, 0.02)])
def test_differences_about_shared_documents_are_covered(documents: int, lose: float) -> None:
    rng = np.random.default_rng(documents)
    held, false = 0, 0
    for _ in range(120):
        held += holds(paired(grouped(-fates(rng, lose, documents, 4, 0.7))).difference, -lose)
        equal = fates(rng, 0.3, documents, 4, 0.7) * rng.choice((-1.0, 1.0), (documents, 1))
        false += paired(grouped(equal)).p <= 0.05
    assert held >= 120 * (FLOOR - 0.02)
    assert false <= 120 * 0.05 + 5  # a standard deviation of the simulation is 2.4


@given(st.lists(st.sampled_from((-1.0, -0.5, 0.0, 0.25, 1.0)), min_size=1, max_size=20))
def test_the_test_agrees_with_its_interval_and_neither_prefers_a_side(values: list[float]) -> None:
    found, mirrored = paired(plain(values)), paired(plain([-value for value in values]))
    low, high = found.difference.low, found.difference.high
    assert (found.p <= 0.05) == (not low <= 0 <= high)
    assert low <= found.difference.mean + 1e-9 <= high + 2e-9
    assert high - low > 0.02
    assert (mirrored.p, mirrored.detectable) == (found.p, found.detectable)
    assert (-mirrored.difference.high, -mirrored.difference.low) == pytest.approx((low, high))


@pytest.mark.parametrize(("won", "lost"), [(0, 5), (0, 6), (2, 10), (3, 9), (7, 7)])
def test_for_yes_or_no_it_is_mcnemars_test(won: int, lost: int) -> None:
    both = won + lost
    exact = min(1.0, 2 * sum(math.comb(both, k) for k in range(min(won, lost) + 1)) / 2**both)
    assert verdict(14, won, lost).p == pytest.approx(exact)
    assert verdict(40, won, lost).p == pytest.approx(exact, abs=0.008)  # a sample of all ways


def test_numbers_may_come_from_anywhere() -> None:
    values = np.array([1.0] * 60 + [-1.0] * 10, np.float32)
    assert paired(plain(values)).p == pytest.approx(1 / 2**14 * 2)  # nothing overflows, and no p is 0


def test_what_could_have_been_shown_is_shown_in_four_of_five_cases() -> None:
    for count in (12, 25):
        least = verdict(count, 0, 0).detectable
        assert least is not None
        power = sum(chance for chance, each in outcomes(count, 0.0, least) if each.p <= 0.05)
        assert 0.74 <= power <= 0.9
    assert verdict(5, 0, 0).detectable is None
    assert verdict(5, 0, 5).p > 0.05


def test_noise_hides_losses() -> None:
    quiet, noisy = verdict(25, 0, 0).detectable, verdict(25, 5, 5).detectable
    assert quiet is not None
    assert noisy is not None
    assert noisy > quiet + 0.1


def test_seeds_that_disagree_widen_the_interval() -> None:
    """What a seed does to all samples alike does not average out over samples, and is covered all the same."""
    rng = np.random.default_rng(4)
    held = {False: 0, True: 0}
    for _ in range(100):
        shift_K = rng.normal(0, 0.15, 3)
        values_NK = np.clip(-0.3 + shift_K + rng.normal(0, 0.1, (40, 3)), -1, 1)
        known = clusters_of([[(f"{n:04}", tuple(row)) for n, row in enumerate(values_NK)]])
        blind = clusters_of([alone(values_NK.mean(axis=1))])
        held[True] += holds(paired(known).difference, -0.3)
        held[False] += holds(paired(blind).difference, -0.3)
    assert held[True] >= 100 * (FLOOR - 0.03)
    assert held[False] < 100 * 0.8


def test_seeds_that_agree_narrow_it() -> None:
    rng = np.random.default_rng(4)
    one, three = [], []
    for _ in range(40):
        values_NK = (rng.random((25, 3)) < 0.4).astype(np.float64)
        one.append(share(plain(values_NK[:, 0])).half_width)
        three.append(share(clusters_of([[(f"{n:04}", tuple(row)) for n, row in enumerate(values_NK)]])).half_width)
    assert np.median(three) < np.median(one)


def test_holm_is_the_papers_recipe() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


# -- without bounds ------------------------------------------------------------------------------------------------


def test_the_bootstrap_covers_skewed_values() -> None:
    rng = np.random.default_rng(6)
    held = sum(holds(bootstrap(rng.exponential(size=40).tolist()), 1.0) for _ in range(200))
    assert held >= 200 * 0.9


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_a_bootstrap_holds_its_mean_and_does_not_change(values: list[float]) -> None:
    found = bootstrap(values)
    assert found == bootstrap(values)
    assert found.low - 1e-9 <= np.mean(values) <= found.high + 1e-9


def test_a_bootstrap_needs_values() -> None:
    with pytest.raises(ValueError, match="no values"):
        bootstrap([])
