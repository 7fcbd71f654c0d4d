"""Entries whose keys are short stay: attention to long keys is low.

Source: Devoto et al. 2024, "A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression". Rotation does not
change a norm, so keys count as they are cached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kvloom.policy.compression.base import Floats, LayerContext
from kvloom.policy.compression.needs import Cached, Need


@dataclass(frozen=True, slots=True)
class Knorm:
    name: ClassVar[str] = "knorm"
    needs: ClassVar[frozenset[Need]] = frozenset({Cached.KEYS})

    def scores(self, context: LayerContext) -> Floats:
        return -np.ascontiguousarray(np.linalg.norm(context.k_SKD, axis=-1).T)
