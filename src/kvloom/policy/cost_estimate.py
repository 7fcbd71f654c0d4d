"""The cost of prefill, corrected by what steps really take: recursive least squares that forget.

Everything is relative, to what a step was expected to take and to what a step of reference takes by the estimate of
the moment: a machine that is a thousand times as fast is learned as quickly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from operator import mul

from kvloom.policy.cost import PrefillCost

_NEW, _POSITIONS = 256, 256 * 512
"""The step of reference: tokens, and the sum of their positions."""

_FORGET = 0.97
"""Weight of a step as against the next one: what counts is the last thirty or so."""

_HELD = 0.3
"""Squares of features that every direction has at least: what no step told for long does not leap at the first one."""

_FITTED = 10.0
"""The same for a cost that was measured, to begin with."""

_SURPRISE = math.log(2)
"""Logarithm of the ratio of seconds to what was expected: what is beyond it counts as this."""

_LEAST = 1e-3
"""Part of the step of reference that its tokens cost at least, position aside."""

_ROUGHLY = PrefillCost(start_s=0.0, token_s=1.0, position_s=1 / 8192)
"""The shape of a cost of which nothing is known."""


@dataclass(slots=True)
class CostEstimate:
    """``cost``: the estimate; to begin with a measured one, or None. The first step then sets the speed, and the
    proportions are those of ``shape``.

    Pure arithmetic: no clock, and nothing that depends on the number of steps.
    """

    cost: PrefillCost | None = None
    shape: PrefillCost = _ROUGHLY
    steps: int = 0
    """That it has learned from."""
    _known: tuple[float, ...] = field(init=False)
    """Sums of products of features: the upper triangle of a symmetric matrix, by rows."""

    def __post_init__(self) -> None:
        held = _HELD if self.cost is None else _FITTED
        self._known = held, 0.0, 0.0, held, 0.0, held

    @property
    def proportions(self) -> PrefillCost:
        """The estimate, or where nothing is known of the speed, its shape."""
        return self.cost or self.shape

    def took(self, new: int, positions: int, seconds: float, beside_s: float = 0.0) -> None:
        """Learn from a step that computed ``new`` tokens, whose positions add up to ``positions``.

        ``beside_s``: what it was expected to take without them. The larger their part, the more is learned of it.
        """
        own_s = seconds - beside_s
        if new < 1 or not 0 < seconds < math.inf or (self.cost is None and own_s <= 0):
            return
        self.steps += 1
        if self.cost is None:
            scale = own_s / (self.shape.token_s * new + self.shape.position_s * positions)
            self.cost = PrefillCost(0.0, scale * self.shape.token_s, scale * self.shape.position_s)
            return
        cost, expected_s = self.cost, beside_s + self.cost.step(new, positions)
        reference_s = cost.step(_NEW, _POSITIONS)
        surprise = min(_SURPRISE, max(-_SURPRISE, math.log(seconds / expected_s)))
        features = [reference_s / expected_s * each for each in (1, new / _NEW, positions / _POSITIONS)]
        gains = self._gains(*features)
        by = surprise * reference_s
        corrected = PrefillCost(
            start_s=max(0.0, cost.start_s + by * gains[0]),
            token_s=max(_LEAST * reference_s / _NEW, cost.token_s + by * gains[1] / _NEW),
            position_s=max(0.0, cost.position_s + by * gains[2] / _POSITIONS),
        )
        learned = surprise * sum(map(mul, gains, features))
        if surprise * (beside_s + corrected.step(new, positions) - expected_s) >= 0:
            self.cost = corrected
        else:  # what should have become negative could not, and others had gone the other way in return
            scale = math.exp(learned)
            self.cost = PrefillCost(scale * cost.start_s, scale * cost.token_s, scale * cost.position_s)

    def _gains(self, u: float, v: float, w: float) -> tuple[float, float, float]:
        """Take the features of a step in; by how much of its surprise each coefficient moves."""
        held = (1 - _FORGET) * _HELD
        uu, uv, uw, vv, vw, ww = [_FORGET * known for known in self._known]
        uu, vv, ww = uu + held + u * u, vv + held + v * v, ww + held + w * w
        uv, uw, vw = uv + u * v, uw + u * w, vw + v * w
        self._known = uu, uv, uw, vv, vw, ww
        # the inverse of a symmetric matrix of three rows, times (u, v, w)
        a, b, c = vv * ww - vw * vw, uw * vw - uv * ww, uv * vw - uw * vv
        d, e, f = uu * ww - uw * uw, uv * uw - uu * vw, uu * vv - uv * uv
        size = uu * a + uv * b + uw * c
        return (a * u + b * v + c * w) / size, (b * u + d * v + e * w) / size, (c * u + e * v + f * w) / size
