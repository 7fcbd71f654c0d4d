"""What moving KV to or from a tier takes."""

from __future__ import annotations

import math
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


def layers_that_stay(prefill_s: float, layer_s: float, layers: int) -> int:
    """How many of a prompt's layers must have room while it is computed, if the KV of the others is to be written to a
    tier meanwhile without delaying it: x of LayerKV (arXiv 2410.00428), from its abstract's description.

    ``prefill_s``: seconds of computing it; ``layer_s``: of writing one layer's KV of it.

    >>> layers_that_stay(prefill_s=1.0, layer_s=0.05, layers=24)
    4
    """
    if layers * layer_s <= prefill_s:
        return 0
    return max(0, layers - math.floor(prefill_s / layer_s))


@dataclass(frozen=True, slots=True)
class TierCosts:
    """``copy``: from RAM to RAM, by one thread. ``write``: to disk, until it is safe there. ``read``: from disk."""

    copy: TierCost
    write: TierCost
    read: TierCost
