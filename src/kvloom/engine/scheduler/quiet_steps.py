"""Quiet steps: what a step takes that goes on with answers and computes no prompts."""

from __future__ import annotations

from dataclasses import dataclass, field

_WEIGHT = 0.25
"""Of the newest step in the mean, as against the one right before it."""

_DUE = 64
"""After so many steps with prompts the mean is out of date: contexts grow, and machines become slower."""

_LEAP = 2.0
"""No step moves the mean by more than this factor."""


@dataclass
class QuietSteps:
    """Means by the number of streams, in powers of two."""

    _seconds: dict[int, float] = field(default_factory=dict)
    _others: int = _DUE
    """Steps with prompts since the last quiet one, or since one was asked for."""
    _age: int = 0
    """Steps with prompts since the last quiet one."""

    def due(self) -> bool:
        """Whether the next step should be a quiet one, for the sake of the mean. Asked for once only."""
        if self._others < _DUE:
            return False
        self._others = 0
        return True

    def took(self, streams: int, seconds: float) -> None:
        """Learn from a quiet step. The longer ago the last one was, the more it counts."""
        size, weight = streams.bit_length(), 1 - (1 - _WEIGHT) ** (1 + self._age)
        mean = self._seconds.get(size)
        if mean is None:
            self._seconds[size] = seconds
        else:
            self._seconds[size] = mean + weight * (min(_LEAP * mean, max(mean / _LEAP, seconds)) - mean)
        self._others = self._age = 0

    def passed(self) -> None:
        """A step with prompts went by."""
        self._others += 1
        self._age += 1

    def expected(self, streams: int) -> float | None:
        """Seconds of a quiet step, or of one with the nearest known number of streams; None: nothing is known."""
        size = streams.bit_length()
        nearest = min(self._seconds, key=lambda known: abs(known - size), default=None)
        return None if nearest is None else self._seconds[nearest]
