"""A method of compression in three parts, behind three small interfaces: what, how many, and what is done.

    scorer      of one layer's entries: how much each is worth, by KV head
    allocator   how many entries each (layer, KV head) keeps
    compactor   what is to be done so that these, and only these, are left

Any scorer works with any allocator. They see plain data and change nothing; ``engine.kv`` carries out what they say.

Legend of the shape suffixes: S entries, K KV heads, D head dim.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Kept = npt.NDArray[np.int64]
"""Ascending indices of the entries that one (layer, KV head) keeps."""

REQUIRED = np.float32(np.inf)
"""The score of an entry that goes last, before any that has a finite one: a sink, a recent token, what is protected."""


class Need(enum.Enum):
    """What a scorer looks at beside positions and tokens: only this is read for it."""

    KEYS = "keys"
    VALUES = "values"


@dataclass(frozen=True, slots=True, eq=False)
class LayerContext:
    """What there is of a context in one layer that owns KV.

    ``positions_S``: ascending, absolute. ``tokens_S``: the tokens there. ``k_SKD`` (rotated) and ``v_SKD``: what the
    cache holds of them, float32; without a dimension, (S, K, 0), when the scorer does not need them.
    """

    layer: int
    positions_S: npt.NDArray[np.int64]
    tokens_S: npt.NDArray[np.int64]
    k_SKD: Floats
    v_SKD: Floats

    @property
    def shape(self) -> tuple[int, int]:
        """(K, S), that of the scores."""
        return self.k_SKD.shape[1], self.k_SKD.shape[0]

    def without_kv(self) -> LayerContext:
        """The same without keys and values, which are large."""
        return replace(self, k_SKD=self.k_SKD[..., :0].copy(), v_SKD=self.v_SKD[..., :0].copy())


class Scorer(Protocol):
    """Says what an entry is worth. A frozen dataclass whose fields, all with defaults, are the method's parameters."""

    @property
    def name(self) -> str: ...
    @property
    def needs(self) -> frozenset[Need]: ...

    def scores(self, context: LayerContext) -> Floats:
        """(K, S): who has more stays. Of equals the earlier stays. ``REQUIRED`` entries go last."""
        ...


class Allocator(Protocol):
    """Says how many entries stay."""

    def kept(self, ratio: float, scores: Sequence[Floats]) -> list[npt.NDArray[np.int64]]:
        """By layer, (K,): how many each KV head keeps when the share ``ratio`` of all entries is removed.

        ``scores``: those of every layer, (K, S). At least one entry stays of what there is, unless the ratio is 1.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Gather:
    """Copy these entries of a layer, as they are stored, and let go of all others. ``kept``: by KV head."""

    layer: int
    kept: tuple[Kept, ...]


class Compactor(Protocol):
    """Says what is done with what stays and what goes."""

    def action(self, context: LayerContext, kept: Sequence[Kept]) -> Gather: ...
