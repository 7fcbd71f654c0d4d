"""A part of what each KV head keeps is chosen by what entries would write: score times the norm of the projected value.

Source: CriticalKV (Feng et al. 2025, arXiv 2502.03805) as in kvpress: when it is known how many entries a head keeps,
the first part are its best by score alone, the others the best of what is left by score plus 1e-4, times the mean over
the group's query heads of the L1 norm of output projection times value. Budgets are those of the scores alone, so any
allocator goes with it: with ``adakv`` it is CriticalAdaKV.
We differ: what is ``REQUIRED`` is chosen before all else in the second part too; scores that may be negative, of which
the paper knows none, count from the lowest of their head on; of equals the one with the higher score stays. A scorer
that weighs values already (``expected_attention``, ``compactor``) weighs them twice.

Legend: S entries, K KV heads, H query heads, G query heads of a KV head, D head dim, C width of the model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from kvloom.errors import ParamsError
from kvloom.policy.compression.base import Candidates, Floats, Kept
from kvloom.policy.compression.needs import Cached, Given, Need

_EPSILON = 1e-4
_BLOCK_VALUES = 2**18
"""Of what is written of values at a time: it stays in the processor's cache."""


@dataclass(frozen=True, slots=True)
class Critical:
    """``critical``: the share of what a KV head keeps that is chosen so, 0 to 1; 0.5 in the paper."""

    critical: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.critical <= 1:
            raise ParamsError(f"critical must be a share from 0 to 1, got {self.critical!r}", param="critical")

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Cached.VALUES, Given.OUTPUT}) if self.critical else frozenset()

    def weighed(self, each: Candidates, values: Sequence[Floats], output_HDC: Floats) -> Candidates:
        """The same with the norms of what entries write. ``values``: theirs, by KV head (S, D)."""
        return replace(each, norms=projected_norms(values, output_HDC)) if self.critical else each

    def best(self, order_S: npt.NDArray[np.intp], scores_S: Floats, norms_S: Floats, count: int) -> Kept:
        """The ``count`` entries that a head keeps, of all entries from the best by score to the worst."""
        first = count - math.ceil(self.critical * count)
        rest_R = order_S[first:]
        weighed_R = _weighed(scores_S, norms_S)[rest_R]
        return np.concatenate([order_S[:first], rest_R[np.argsort(-weighed_R, kind="stable")[: count - first]]])


def projected_norms(values: Sequence[Floats], output_HDC: Floats) -> tuple[Floats, ...]:
    """By KV head (S,): the mean over a group's query heads of the L1 norm of what a value is in the residual stream."""
    group, (_, dim, width) = len(output_HDC) // len(values), output_HDC.shape
    maps_KDN = output_HDC.reshape(-1, group, dim, width).transpose(0, 2, 1, 3).reshape(-1, dim, group * width)
    return tuple(_norms(v_SD, map_DN) / np.float32(group) for v_SD, map_DN in zip(values, maps_KDN, strict=True))


def _norms(v_SD: Floats, map_DN: Floats) -> Floats:
    norms_S, block = np.zeros(len(v_SD), np.float32), max(1, _BLOCK_VALUES // map_DN.shape[1])
    for start in range(0, len(v_SD), block):
        written_SN = v_SD[start : start + block] @ map_DN
        norms_S[start : start + block] = np.abs(written_SN, out=written_SN).sum(axis=1)
    return norms_S


def _weighed(scores_S: Floats, norms_S: Floats) -> Floats:
    """An entry that is ``REQUIRED`` remains so."""
    finite_S = np.isfinite(scores_S)
    least = min(0.0, float(scores_S[finite_S].min(initial=0.0)))
    weighed_S: Floats = scores_S.copy()
    weighed_S[finite_S] = (scores_S[finite_S] - np.float32(least) + _EPSILON) * norms_S[finite_S]
    return weighed_S
