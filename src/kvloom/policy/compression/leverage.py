"""Entries stay whose keys lie where few others do: statistical leverage, how much a key can say that others cannot.

Source: Compactor (Chari and Van Durme 2025, arXiv 2507.08143), its part that looks at keys alone, as in kvpress: keys
before rotation, minus their mean, through a Gaussian sketch, then diag(X (X^T X + 0.01 I)^-1 X^T). ``compactor``
(``blended_leverage.py``) has its second part too, attention within chunks.
We differ: leverages are not turned into z-scores, which changes no order within a layer; the sketch is drawn from the
seed and the layer; where it would have as many dimensions as a key or more, there is none, and leverage is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kvloom.errors import ParamsError
from kvloom.policy.compression.algebra import Doubles, products, solved
from kvloom.policy.compression.base import Floats, LayerContext
from kvloom.policy.compression.needs import Cached, Need
from kvloom.policy.compression.rotation import rotate

_RIDGE = 1e-2


@dataclass(frozen=True, slots=True)
class Leverage:
    """``sketch``: to how many dimensions keys are reduced."""

    name: ClassVar[str] = "leverage"
    needs: ClassVar[frozenset[Need]] = frozenset({Cached.KEYS})
    sketch: int = 48
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sketch < 1:
            raise ParamsError(f"sketch must be a number of dimensions, got {self.sketch}", param="sketch")
        if self.seed < 0:
            raise ParamsError(f"seed must not be negative, got {self.seed}", param="seed")

    def scores(self, context: LayerContext) -> Floats:
        if not len(context.k_SKD):
            return np.zeros(context.shape, np.float32)
        k_SKD = rotate(context.k_SKD.astype(np.float64), -context.positions_S, context.queries.turn_F)
        k_KSD = k_SKD.transpose(1, 0, 2)
        heads, _, dim = k_KSD.shape
        x_KSD = k_KSD - k_KSD.mean(axis=1, keepdims=True)
        if self.sketch < dim:
            rng = np.random.default_rng((self.seed, context.layer))
            sketch_KDE = rng.normal(size=(heads, dim, self.sketch)) / np.sqrt(self.sketch)
            x_KSD = products(x_KSD, sketch_KDE, context.threads)
        return leverages(x_KSD, context.threads).astype(np.float32)


def leverages(x_KSD: Doubles, threads: int = 1) -> Doubles:
    """(K, S), 0 to 1; of a head they add up to its effective number of dimensions."""
    one_DD = np.eye(x_KSD.shape[-1])
    gram_KDD = products(x_KSD.transpose(0, 2, 1), x_KSD, threads) + _RIDGE * one_DD
    inverse_KDD = solved(gram_KDD, np.broadcast_to(one_DD, gram_KDD.shape), threads)
    found_KS: Doubles = np.einsum("ksd,ksd->ks", products(x_KSD, inverse_KDD, threads), x_KSD)
    return np.clip(found_KS, 0, 1)
