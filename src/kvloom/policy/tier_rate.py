"""How fast a tier really is: what was measured or assumed of it, corrected by what its loads take."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from kvloom.policy.tier_cost import TierCost

_WEIGHT = 0.3
"""Weight of the newest load in the running mean."""

_FADE = 0.98
"""What is believed of a tier that is not asked returns to what was assumed of it, so that it is asked again: after
some thirty requests that would have loaded from it."""

_MOST = 20.0
"""No tier is believed to be more times slower than was assumed: to forget that would take too many requests."""


@dataclass
class TierRate:
    """``assumed``: what is believed before anything was loaded. The latency is every page's own."""

    assumed: TierCost
    _slowdown: float = field(default=1.0)

    @property
    def cost(self) -> TierCost:
        """Of one page, as it is believed to be now."""
        slowdown = self._slowdown
        return replace(
            self.assumed,
            bytes_per_s=self.assumed.bytes_per_s / slowdown,
            latency_s=self.assumed.latency_s * slowdown,
        )

    def took(self, pages: int, num_bytes: int, seconds: float) -> None:
        """Learn from a load, one that was given up included: it took at least as long."""
        expected = pages * self.assumed.latency_s + num_bytes / self.assumed.bytes_per_s
        if expected > 0:
            self._slowdown = min(_MOST, self._slowdown + _WEIGHT * (seconds / expected - self._slowdown))

    def passed_over(self) -> None:
        """It holds what a request lacks, and computing that is believed to be faster."""
        self._slowdown = 1 + (self._slowdown - 1) * _FADE
