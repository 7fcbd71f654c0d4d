"""Seconds of one piece of work."""

from __future__ import annotations

from collections.abc import Callable

Clock = Callable[[], float]
"""Seconds, from any moment on."""

_LEAST_S = 1e-9
"""What takes no time by the clock counts as this."""


def seconds_of(work: Callable[[], object], clock: Clock) -> float:
    """That it takes; never 0."""
    began_s = clock()
    work()
    return max(clock() - began_s, _LEAST_S)
