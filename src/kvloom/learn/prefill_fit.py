"""Fit what steps took: to our form of the cost of prefill, and for comparison to AsymCache's own.

Errors count by their ratio to the seconds, so that short steps count as much as long ones, and those that are far off
count little: something else ran then. Pure functions.

Legend: P steps, N coefficients.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvloom.engine.cost_profile import Quality
from kvloom.errors import EvalError
from kvloom.policy.cost import PrefillCost, position_sum
from kvloom.segment import SpanSet

Doubles = npt.NDArray[np.float64]

LEAST_STEPS = 8
"""To fit both forms to."""

_ROUNDS = 40
"""Of weighing steps anew by how far off they were: more change nothing that could be seen."""

_USUAL = 3.0
"""A step whose error is so many times the median counts half."""


@dataclass(frozen=True, slots=True)
class Step:
    """``seconds``: what computing the KV of ``spans`` took, of a context of which all that comes before is there."""

    spans: SpanSet
    seconds: float


@dataclass(frozen=True, slots=True)
class PaperCost:
    """AsymCache (arXiv 2606.02964), the fitted latency of a prefill: cached tokens ``l1`` and ``l2``, each with
    computed ones behind it, ``q1`` and ``q2``. ``k``: the coefficients of l1, q1, l2, q2, (l1 + q1) squared and
    q2 (l1 + q1 + l2 + q2), and the constant; of any sign, as nothing is said there.
    """

    k: tuple[float, ...]

    def step(self, spans: SpanSet) -> float:
        """Seconds of computing at most two spans."""
        return float(np.dot(_paper_features(spans), self.k))


def fit_prefill(steps: Sequence[Step]) -> PrefillCost:
    """Coefficients that are not negative: no token costs less for coming later, nor does a step for having more.

    Raises EvalError when there are too few steps.
    """
    features_PN = np.array([(1.0, len(step.spans), position_sum(step.spans)) for step in steps], np.float64)
    start_s, token_s, position_s = _fitted(features_PN, steps, _not_negative)
    return PrefillCost(float(start_s), float(token_s), float(position_s))


def fit_paper(steps: Sequence[Step]) -> PaperCost:
    """Raises EvalError when there are too few steps."""
    features_PN = np.array([_paper_features(step.spans) for step in steps], np.float64)
    return PaperCost(tuple(map(float, _fitted(features_PN, steps, _any_sign))))


def quality(seconds_of: Callable[[SpanSet], float], steps: Sequence[Step]) -> Quality:
    """How well ``seconds_of`` says what these steps took."""
    took_P = np.array([step.seconds for step in steps])
    off_P = np.array([seconds_of(step.spans) for step in steps]) - took_P
    variance = float(np.square(took_P - took_P.mean()).sum())
    explained = 1 - float(np.square(off_P).sum()) / variance if variance else 0.0
    return Quality(explained, float(np.median(np.abs(off_P) / took_P)))


def _paper_features(spans: SpanSet) -> tuple[float, ...]:
    first, *rest = spans.spans
    l1, q1 = first.start, len(first)
    l2, q2 = (rest[0].start - first.stop, len(rest[0])) if rest else (0, 0)
    return l1, q1, l2, q2, (l1 + q1) ** 2, q2 * (l1 + q1 + l2 + q2), 1.0


Solve = Callable[[Doubles, Doubles], Doubles]


def _fitted(features_PN: Doubles, steps: Sequence[Step], solve: Solve) -> Doubles:
    """(N,): least squares of relative errors, steps weighed anew each time by how far off they were (Cauchy)."""
    if len(steps) < LEAST_STEPS:
        raise EvalError(f"{len(steps)} steps are too few to fit costs to", hint=f"at least {LEAST_STEPS}")
    took_P = np.array([step.seconds for step in steps])
    largest_N = np.maximum(np.abs(features_PN).max(axis=0), 1e-12)
    features_PN = features_PN / largest_N
    expected_P, weights_P = took_P, np.ones(len(steps))
    for _ in range(_ROUNDS):
        scale_P = np.sqrt(weights_P) / expected_P
        found_N = solve(features_PN * scale_P[:, None], took_P * scale_P)
        said_P = features_PN @ found_N
        expected_P = np.maximum(said_P, took_P.min() / 10)  # a step for which the fit says nothing is no division by 0
        off_P = np.abs(took_P - said_P) / expected_P
        usual = max(_USUAL * float(np.median(off_P)), 1e-9)
        weights_P = 1 / (1 + np.square(off_P / usual))
    return np.asarray(found_N / largest_N, np.float64)


def _any_sign(rows_PN: Doubles, goal_P: Doubles) -> Doubles:
    return np.asarray(np.linalg.lstsq(rows_PN, goal_P, rcond=None)[0], np.float64)


def _not_negative(rows_PN: Doubles, goal_P: Doubles) -> Doubles:
    """The best is the best of some of the coefficients alone, the others 0: there are few, so all are tried."""
    columns = rows_PN.shape[1]
    best_N, least = np.zeros(columns), float("inf")
    for count in range(1, columns + 1):
        for some in map(list, itertools.combinations(range(columns), count)):
            found = _any_sign(rows_PN[:, some], goal_P)
            off = float(np.square(rows_PN[:, some] @ found - goal_P).sum())
            if off < least and (found >= 0).all():
                best_N, least = np.zeros(columns), off
                best_N[some] = found
    return best_N
