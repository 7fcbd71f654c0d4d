"""What stays is moved together, what goes is gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kvloom.policy.compression.base import Gather, Kept, LayerContext


@dataclass(frozen=True, slots=True)
class Gathering:
    def action(self, context: LayerContext, kept: Sequence[Kept]) -> Gather:
        return Gather(context.layer, tuple(kept))
