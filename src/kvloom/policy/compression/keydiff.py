"""Entries stay whose keys are unlike the others: keys that are alike are found by the same queries.

Source: KeyDiff (Park et al. 2025, arXiv 2504.15364): minus the cosine between a key and the mean of all unit keys of
its KV head, of keys as they are cached, after rotation; the same as in kvpress. A key of zeros has cosine 0. The paper
evicts block by block as the prompt comes; we see all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kvloom.policy.compression.base import Floats, LayerContext
from kvloom.policy.compression.needs import Cached, Need


@dataclass(frozen=True, slots=True)
class KeyDiff:
    name: ClassVar[str] = "keydiff"
    needs: ClassVar[frozenset[Need]] = frozenset({Cached.KEYS})

    def scores(self, context: LayerContext) -> Floats:
        if not len(context.k_SKD):
            return np.zeros(context.shape, np.float32)
        unit_SKD = _unit(context.k_SKD)
        anchor_KD = _unit(unit_SKD.mean(axis=0, dtype=np.float64).astype(np.float32))
        cosines_KS: Floats = np.einsum("skd,kd->ks", unit_SKD, anchor_KD)
        return -cosines_KS


def _unit(x_XD: Floats) -> Floats:
    norm_X1 = np.linalg.norm(x_XD, axis=-1, keepdims=True)
    unit_XD: Floats = (x_XD / np.where(norm_X1 > 0, norm_X1, 1)).astype(np.float32, copy=False)
    return unit_XD
