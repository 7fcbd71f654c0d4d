"""The first tokens, which attention falls back on, and the last ones.

Source: StreamingLLM (Xiao et al. 2024). Kept keys stay at their old positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kvloom.errors import ParamsError
from kvloom.policy.compression.base import REQUIRED, Floats, LayerContext
from kvloom.policy.compression.needs import Need


@dataclass(frozen=True, slots=True)
class SinkRecent:
    """``sinks``: how many tokens at the very beginning stay before any other."""

    name: ClassVar[str] = "sink_recent"
    needs: ClassVar[frozenset[Need]] = frozenset()
    sinks: int = 4

    def __post_init__(self) -> None:
        if self.sinks < 0:
            raise ParamsError(f"sinks must be a number of tokens, got {self.sinks}", param="sinks")

    def scores(self, context: LayerContext) -> Floats:
        order_S = context.positions_S.astype(np.float32)
        return np.broadcast_to(np.where(context.positions_S < self.sinks, REQUIRED, order_S), context.shape)
