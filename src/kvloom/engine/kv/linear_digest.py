"""Linear maps of hidden states, by the model's own operators: a row has the same bits whatever rows come with it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from kvloom.arrays import Floats
from kvloom.model.ops import linear, rms_norm
from kvloom.model.weight import Weight
from kvloom.policy.compression.needs import Digest, LinearMaps

EPSILON = 1e-6
"""Added to the mean square of a hidden state."""


@lru_cache(maxsize=8)
def linear_digest(given: LinearMaps) -> Digest:
    """On one thread: a map has few outputs."""
    weights = {layer: Weight.pack(np.ascontiguousarray(x_NC), "F32", x_NC.shape) for layer, x_NC in given.maps.items()}
    ones_C = np.ones(next(iter(weights.values())).cols, np.float32)

    def digest(layer: int, x_RC: Floats) -> Floats:
        return linear(rms_norm(x_RC, ones_C, EPSILON, 1), weights[layer], given.offsets[layer], 1)

    return digest
