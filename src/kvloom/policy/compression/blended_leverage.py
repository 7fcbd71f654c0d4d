"""Entries stay whose keys lie where few others do, or to which the queries around them attend, later ones included.

Source: Compactor (Chari and Van Durme 2025, arXiv 2507.08143) as in kvpress: the leverage of keys (``leverage.py``)
times ``blend``, plus attention within chunks that no mask makes causal, of products that are not scaled, added up over
queries and averaged over the group, times the norm of the value, averaged over each entry and its two neighbours (zero
outside). Both are z-scores over all KV heads of a layer. The first and the last few entries are no part of it and stay.
We differ: kvpress's ``blend`` is the ratio, which a scorer does not know, or who removes more would not keep a part of
what who removes less keeps; the default is the one that kvpress has beside it. What pads a last chunk takes no part in
it; in kvpress 0.5.5 it does. In a context of more than ``sampled`` tokens, queries are some that are spread over it:
sums are scaled up to those of whole chunks, and the nearest queries stand for a chunk in which there are none.

Legend: S entries, R queries, K KV heads, H query heads, G query heads of a KV head, C entries of a chunk, D head dim.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kvloom.errors import ParamsError
from kvloom.policy.compression.base import REQUIRED, Floats, LayerContext
from kvloom.policy.compression.leverage import Leverage
from kvloom.policy.compression.needs import Cached, Need, Queries, Spread

Doubles = npt.NDArray[np.float64]
_RANGES = {"blend": (0.0, 1e6), "chunk": (1, 4096), "sampled": (16, 1024), "sinks": (0, 2**20), "recent": (0, 2**20)}
_NEAREST = 16


@dataclass(frozen=True, slots=True)
class BlendedLeverage:
    """``blend``: what leverage counts, attention counts 1. ``chunk``: how many entries attend to each other.
    ``sampled``: about how many queries of the context are looked at, 16 to 1024. ``sinks``, ``recent``: how many first
    and last tokens stay. ``sketch``, ``seed``: of leverage.
    """

    name: ClassVar[str] = "compactor"
    blend: float = 0.35
    chunk: int = 256
    sampled: int = 1024
    sinks: int = 8
    recent: int = 4
    sketch: int = 48
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            if not least <= getattr(self, name) <= most:
                raise ParamsError(f"{name} must be from {least} to {most}, got {getattr(self, name)}", param=name)
        _ = self._leverage

    @property
    def _leverage(self) -> Leverage:
        return Leverage(self.sketch, self.seed)

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Cached.KEYS, Cached.VALUES, Queries(Spread(self.sampled, self.sinks))})

    def scores(self, context: LayerContext) -> Floats:
        positions_S, count = context.positions_S, len(context.positions_S)
        inner_S = (positions_S >= self.sinks) & (np.arange(count) < count - self.recent)
        scores_KS = np.full(context.shape, REQUIRED, np.float32)
        if inner_S.any():
            scores_KS[:, inner_S] = self._blended(
                replace(
                    context,
                    positions_S=positions_S[inner_S],
                    tokens_S=context.tokens_S[inner_S],
                    k_SKD=context.k_SKD[inner_S],
                    v_SKD=context.v_SKD[inner_S],
                )
            )
        return scores_KS

    def _blended(self, inner: LayerContext) -> Doubles:
        q_RHD, positions_R = inner.measured.q_RHD, inner.measured.positions_R
        assert q_RHD is not None
        assert positions_R is not None
        within_R = (positions_R >= inner.positions_S[0]) & (positions_R <= inner.positions_S[-1])
        seen_KS = (
            chunk_attention(q_RHD[within_R], positions_R[within_R], inner.k_SKD, inner.positions_S, self.chunk)
            * np.linalg.norm(inner.v_SKD.astype(np.float64), axis=-1).T
        )
        padded_KS = np.pad(seen_KS, ((0, 0), (1, 1)))
        pooled_KS = (padded_KS[:, :-2] + padded_KS[:, 1:-1] + padded_KS[:, 2:]) / 3
        return self.blend * _standard(self._leverage.scores(inner).astype(np.float64)) + _standard(pooled_KS)


def chunk_attention(
    q_RHD: Floats,
    positions_R: npt.NDArray[np.int64],
    k_SKD: Floats,
    positions_S: npt.NDArray[np.int64],
    chunk: int,
) -> Doubles:
    """(K, S): what each entry gets of the queries at the positions of its chunk, in which everything sees everything.

    Zero without queries.
    """
    count, heads, dim = k_SKD.shape
    group = q_RHD.shape[1] // heads
    got_KS = np.zeros((heads, count))
    for start in range(0, count if len(q_RHD) else 0, chunk):
        k_KDC = k_SKD[start : start + chunk].transpose(1, 2, 0)
        rows = _rows(positions_R, positions_S[start : start + chunk])
        q_KND = q_RHD[rows].reshape(len(rows), heads, group, dim).transpose(1, 0, 2, 3).reshape(heads, -1, dim)
        weights_KNC = q_KND @ k_KDC
        weights_KNC -= weights_KNC.max(axis=-1, keepdims=True)
        np.exp(weights_KNC, out=weights_KNC)
        parts_K1N = 1 / weights_KNC.sum(axis=-1)[:, None]
        got_KS[:, start : start + chunk] = (parts_K1N @ weights_KNC)[:, 0] * (k_KDC.shape[2] / q_KND.shape[1])
    return got_KS


def _rows(positions_R: npt.NDArray[np.int64], positions_C: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
    """Queries at the positions of a chunk; where there are none, a few that are nearest."""
    first, last = int(positions_C[0]), int(positions_C[-1])
    inside = np.flatnonzero((positions_R >= first) & (positions_R <= last))
    if len(inside):
        return inside
    return np.argsort(np.abs(positions_R - (first + last) / 2), kind="stable")[:_NEAREST]


def _standard(x_KS: Doubles) -> Doubles:
    """z-scores over all heads and entries."""
    deviation = float(x_KS.std(ddof=1)) if x_KS.size > 1 else 0.0
    standard_KS: Doubles = (x_KS - x_KS.mean()) / max(deviation, 1e-6)
    return standard_KS
