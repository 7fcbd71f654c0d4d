"""What moving KV to or from a tier takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TierCost:
    """``bytes_per_s``: bandwidth of a large transfer. ``latency_s``: seconds of a small one.

    >>> TierCost(bytes_per_s=2e9, latency_s=1e-3).seconds(10**9)
    0.501
    """

    bytes_per_s: float
    latency_s: float

    def seconds(self, num_bytes: int) -> float:
        """Of one transfer."""
        return self.latency_s + num_bytes / self.bytes_per_s


@dataclass(frozen=True, slots=True)
class TierCosts:
    """``copy``: from RAM to RAM, by one thread. ``write``: to disk, until it is safe there. ``read``: from disk."""

    copy: TierCost
    write: TierCost
    read: TierCost
