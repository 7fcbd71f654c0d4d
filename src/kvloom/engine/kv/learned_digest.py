"""Learned maps of hidden states, by the model's own operators: a row has the same bits whatever rows come with it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from kvloom.arrays import Floats
from kvloom.model.ops import linear, rms_norm
from kvloom.model.weight import Weight
from kvloom.policy.compression.needs import Digest, LearnedMaps

EPSILON = 1e-6
"""Added to the mean square of a hidden state."""


@lru_cache(maxsize=8)
def learned_digest(given: LearnedMaps) -> Digest:
    """On one thread: a map has few outputs."""
    maps, onto = ({layer: _packed(x) for layer, x in those.items()} for those in (given.maps, given.onto))
    ones_C = np.ones(next(iter(maps.values())).cols, np.float32)

    def digest(layer: int, x_RC: Floats) -> Floats:
        y_RN = linear(rms_norm(x_RC, ones_C, EPSILON, 1), maps[layer], given.offsets[layer], 1)
        if layer not in onto:
            return y_RN
        count = onto[layer].rows
        above_RM = np.maximum(y_RN[:, count:], np.float32(0))
        return y_RN[:, :count] + linear(above_RM, onto[layer], None, 1)

    return digest


def _packed(x_NC: Floats) -> Weight:
    return Weight.pack(np.ascontiguousarray(x_NC), "F32", x_NC.shape)
