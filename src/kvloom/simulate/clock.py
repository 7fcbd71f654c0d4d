"""Time that passes only when somebody says so."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class SimulatedClock:
    """Seconds since the start: call it to read it."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let so much time pass. Raises ValueError when it is negative: time never goes back."""
        if not seconds >= 0:
            raise ValueError(f"time cannot advance by {seconds} s")
        self.now += seconds
