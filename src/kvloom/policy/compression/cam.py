"""Values of what goes are added to the next entries that stay, by lot: the more likely, the more attention they got.

Source: CaM (Zhang et al. 2024, ICML), as in kvpress: an entry that goes is merged with a probability, its attention by
the mean of that of the next ``neighbours`` entries that stay, at most 1; then each of these gets an equal part of its
value. Keys stay as they are.
We differ: the paper and kvpress do this while an answer is generated, where each step lets one entry go, and merge as
many as there were steps; here all that goes from a context does so at once, and all of it may be merged. What is next
is so in each KV head. Attention is that of the last ``reference`` queries, as it would be of the last steps. Draws are
by layer and by what the context says.

Legend: S entries, P those that stay, K KV heads, D head dim.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kvloom.errors import ParamsError
from kvloom.policy.compression.base import Entries, Floats, Kept, LayerContext
from kvloom.policy.compression.merging import Doubles, as_stored, gone_of
from kvloom.policy.compression.needs import Attention, Cached, Last, Need


@dataclass(frozen=True, slots=True)
class Cam:
    """``neighbours``: into how many entries one is merged. ``reference``: how many last queries are asked for it."""

    name: ClassVar[str] = "cam"
    rest: ClassVar[str | None] = None
    neighbours: int = 32
    reference: int = 32

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise ParamsError(f"neighbours must be a number of entries, got {self.neighbours}", param="neighbours")
        if not 1 <= self.reference <= 1024:
            raise ParamsError(f"reference must be from 1 to 1024 queries, got {self.reference}", param="reference")

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Cached.KEYS, Cached.VALUES, Attention(Last(self.reference))})

    def stored(self, context: LayerContext, kept: Sequence[Kept]) -> list[Entries | None]:
        attention_KS = context.measured.attention_KS
        assert attention_KS is not None
        text = zlib.crc32(context.tokens_S.astype("<i8").tobytes())
        lot_KS = np.random.default_rng((context.layer, text)).random(context.shape)
        return [
            self._merged(context.k_SKD[:, head], context.v_SKD[:, head], attention_KS[head], lot_KS[head], stays_P)
            for head, stays_P in enumerate(kept)
        ]

    def _merged(self, k_SD: Floats, v_SD: Floats, attention_S: Floats, lot_S: Doubles, stays_P: Kept) -> Entries | None:
        gone = gone_of(len(k_SD), stays_P)
        first = np.searchsorted(stays_P, gone)
        stop = np.minimum(first + self.neighbours, len(stays_P))
        merges = lot_S[gone] < _chances(attention_S[gone], attention_S[stays_P], first, stop)
        gone, first, stop = gone[merges], first[merges], stop[merges]
        if not len(gone):
            return None
        parts_SD = v_SD[gone].astype(np.float64) / (stop - first)[:, None]
        v_PD = v_SD[stays_P] + _spread(parts_SD, first, stop, len(stays_P))
        changed_P = _spread(np.ones(len(gone)), first, stop, len(stays_P)) > 0
        return Entries(k_SD[stays_P], as_stored(v_PD), np.zeros(len(stays_P), np.float32), changed_P)


def _chances(
    own_S: Floats, others_P: Floats, first: npt.NDArray[np.int64], stop: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Of what nothing follows that stays, none; of what is followed by what gets nothing, all."""
    until_P1 = np.concatenate([[0.0], np.cumsum(others_P, dtype=np.float64)])
    mean_S = (until_P1[stop] - until_P1[first]) / np.maximum(stop - first, 1)
    chances_S = np.where(mean_S > 0, own_S / np.where(mean_S > 0, mean_S, 1.0), own_S > 0)
    return np.where(stop > first, np.minimum(chances_S, 1.0), 0.0)


def _spread(x: Doubles, first: npt.NDArray[np.int64], stop: npt.NDArray[np.int64], count: int) -> Doubles:
    """Each of ``x`` added to all of ``count`` places from its first to its stop."""
    steps = np.zeros((count + 1, *x.shape[1:]))
    np.add.at(steps, first, x)
    np.subtract.at(steps, stop, x)
    return np.cumsum(steps, axis=0)[:-1]
