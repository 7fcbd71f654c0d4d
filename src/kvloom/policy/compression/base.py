"""A method of compression in three parts, behind three small interfaces: what, how many, and what is done.

    scorer      of one layer's entries: how much each is worth, by KV head
    allocator   how many entries each (layer, KV head) keeps
    compactor   what is to be done so that these, and only these, are left

Any scorer works with any allocator. They see plain data and change nothing; ``engine.kv`` carries out what they say.

Legend of the shape suffixes: S entries, K KV heads, D head dim.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kvloom.policy.compression.needs import Need

Floats = npt.NDArray[np.float32]
Kept = npt.NDArray[np.int64]
"""Ascending indices of the entries that one (layer, KV head) keeps."""

Counts = npt.NDArray[np.int64]
"""How many entries each KV head keeps."""

LayerScores = Floats | Sequence[Floats]
"""By KV head, (S,): heads that were compressed before may have different numbers of entries."""

REQUIRED = np.float32(np.inf)
"""The score of an entry that goes last, before any that has a finite one: a sink, a recent token, what is protected."""


class Scale(enum.IntEnum):
    """What scores can be compared with. Each says all that the ones before it say."""

    HEAD = 1
    """With others of the same KV head: only their order there means something."""
    LAYER = 2
    """With those of the other KV heads of the layer."""
    SHARES = 3
    """With those of other layers: they are not negative, and sums and shares of them mean something."""


@dataclass(frozen=True, slots=True, eq=False)
class QueryShape:
    """``group``: query heads of all layers that read an entry, by KV head. ``turn_F``: the angle by position, in
    radians, by which rotary embedding turns each pair (n, n + F) of dimensions of queries and keys; empty without it.
    ``scale``: of the products of queries and keys.
    """

    group: int = 1
    turn_F: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    scale: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What was seen of a layer while the context was computed: each of it as far as the scorer needs it (``needs``).

    ``attention_KS``: see ``Attention``; (H, S) by query head. ``q_RHD``: queries as attention gets them, rotated, and
    ``positions_R`` theirs. ``hidden_SN``: what the digest made of every entry's hidden state.
    """

    attention_KS: Floats | None = None
    q_RHD: Floats | None = None
    positions_R: npt.NDArray[np.int64] | None = None
    hidden_SN: Floats | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LayerContext:
    """What there is of a context in one layer that owns KV.

    ``positions_S``: ascending, absolute. ``tokens_S``: the tokens there. ``k_SKD`` (rotated) and ``v_SKD``: what the
    cache holds of them, float32; without a dimension, (S, K, 0), when the scorer does not need them. ``entry_bytes``:
    of one entry of one KV head, key and value; 1 where those of all layers are alike. ``queries``: what
    the layer's queries are like. ``measured``: what was seen while the context was computed. ``output_HDC``: what each
    query head's output becomes in the residual stream. ``structure_S``: which tokens are punctuation or white space
    that was there before. ``threads``: how many cores to use at most; nothing else may depend on it.
    """

    layer: int
    positions_S: npt.NDArray[np.int64]
    tokens_S: npt.NDArray[np.int64]
    k_SKD: Floats
    v_SKD: Floats
    entry_bytes: int = 1
    queries: QueryShape = QueryShape()
    measured: Measured = Measured()
    output_HDC: Floats | None = None
    structure_S: npt.NDArray[np.bool_] | None = None
    threads: int = 1

    @property
    def shape(self) -> tuple[int, int]:
        """(K, S), that of the scores."""
        return self.k_SKD.shape[1], self.k_SKD.shape[0]

    def candidates(self, scores_KS: Floats) -> Candidates:
        """All of its entries."""
        heads, count = self.shape
        return Candidates(self.layer, self.entry_bytes, count, (self.positions_S,) * heads, tuple(scores_KS))


@dataclass(frozen=True, slots=True)
class Origin:
    """What the scores are of that an allocator sees, layer by layer in their order.

    ``layers``: index in the model. ``entry_bytes``: of one entry of one KV head. ``scorer`` and ``params``: whose they
    are. ``weights``: what the model's weights are called where something is stored about them; None if nobody says.
    ``whole``: how many entries a KV head would have from which none had been removed; empty: as many as there are.
    """

    layers: tuple[int, ...]
    entry_bytes: tuple[int, ...]
    scorer: str = ""
    params: Mapping[str, int | float | str] = field(default_factory=dict)
    weights: str | None = None
    whole: tuple[int, ...] = ()


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
    """Says how many entries stay. A frozen dataclass like a scorer."""

    @property
    def name(self) -> str: ...

    def kept(self, ratio: float, scores: Sequence[LayerScores], origin: Origin) -> list[Counts]:
        """By layer, (K,): how many each KV head keeps when the share ``ratio`` of all entries is removed.

        ``scores``: those of every layer. In total as many as ``Uniform`` keeps. Of each KV head at least one,
        unless the ratio is 1; and of what is ``REQUIRED`` as many as ``Uniform``. Raises ParamsError when it cannot.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The entries of a layer among which some stay: by KV head ascending ``positions``, and ``scores``.

    ``entry_bytes``, ``whole``: see ``Origin``. ``norms``: see ``Critical``; empty where nobody asks for them. The last
    position, of those that a layer still sees, is there in every KV head.
    """

    layer: int
    entry_bytes: int
    whole: int
    positions: tuple[npt.NDArray[np.int64], ...]
    scores: tuple[Floats, ...]
    norms: tuple[Floats, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """The entries of a layer that stay, by KV head, as indices of its candidates; all others go."""

    layer: int
    kept: tuple[Kept, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """What is stored in place of the entries that stay in one KV head: ``k_SD`` (rotated), ``v_SD``, and ``bias_S``,
    which is added to the logarithm of what each of them weighs, float32. ``changed_S``: which have another key or value
    than before; the others are copied.
    """

    k_SD: Floats
    v_SD: Floats
    bias_S: Floats
    changed_S: npt.NDArray[np.bool_]


class Compactor(Protocol):
    """Says what is stored for what stays. A frozen dataclass like a scorer.

    ``rest``: the codec in which what does not stay is stored instead, and attended to; None: it is gone.
    """

    @property
    def name(self) -> str: ...
    @property
    def needs(self) -> frozenset[Need]: ...
    @property
    def rest(self) -> str | None: ...

    def stored(self, context: LayerContext, kept: Sequence[Kept]) -> Sequence[Entries | None]:
        """By KV head; None: they are copied as they are. ``kept``: by KV head, as long as what is returned."""
        ...
