"""Everything goes: whatever still answers afterwards did not need the context."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kvloom.policy.compression.base import Floats, LayerContext, Need


@dataclass(frozen=True, slots=True)
class KeepNone:
    """With ratio 1."""

    name: ClassVar[str] = "keep_none"
    needs: ClassVar[frozenset[Need]] = frozenset()

    def scores(self, context: LayerContext) -> Floats:
        return np.zeros(context.shape, np.float32)
