"""Which sessions have come before: only these have a share, and not one-off requests that each have a name."""

from __future__ import annotations

from dataclasses import dataclass, field

_MOST = 4096
"""Names that are remembered: those heard of last."""


@dataclass(slots=True)
class Returning:
    """Gives sessions numbers in the order of their first requests."""

    count: int = 0
    _numbers: dict[str, int] = field(default_factory=dict)

    def number(self, name: str) -> int | None:
        """Of a session that has come before; None of one that comes for the first time, or after long."""
        known = self._numbers.pop(name, None)
        if known is None:
            self.count += 1
        self._numbers[name] = self.count if known is None else known
        if len(self._numbers) > _MOST:
            del self._numbers[next(iter(self._numbers))]
        return known
