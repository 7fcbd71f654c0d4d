"""Entries by lot: what every better method has to beat, and what every metric must notice."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kvloom.policy.compression.base import Floats, LayerContext
from kvloom.policy.compression.needs import Need


@dataclass(frozen=True, slots=True)
class Random:
    """Draws by seed, layer, and what the context says: one pattern over all contexts would be one observation."""

    name: ClassVar[str] = "random"
    needs: ClassVar[frozenset[Need]] = frozenset()
    seed: int = 0

    def scores(self, context: LayerContext) -> Floats:
        text = zlib.crc32(context.tokens_S.astype("<i8").tobytes())
        return np.random.default_rng((self.seed, context.layer, text)).random(context.shape, np.float32)
