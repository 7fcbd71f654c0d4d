"""Nothing goes, but everything moves: what is left of the difference to exact KV is the noise floor of all methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kvloom.policy.compression.base import Floats, LayerContext, Need


@dataclass(frozen=True, slots=True)
class KeepAll:
    """With ratio 0."""

    name: ClassVar[str] = "keep_all"
    needs: ClassVar[frozenset[Need]] = frozenset()

    def scores(self, context: LayerContext) -> Floats:
        return np.zeros(context.shape, np.float32)
