"""The typed description of where KV is: the only place where segments become addresses.

A plan is built once per step, on the host, and read by every layer. Legend of the shape suffixes: T query rows of the
step, B sequences, P pages, H query heads, K KV heads, D head dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvloom.memory.format import PageFormat

Ints = npt.NDArray[np.int32]
"""Arrays of a plan live on the host."""

NO_PAGE = -1
"""Marks, in the int32 arrays that kernels read, a row whose KV is not written or a page that is not there."""


@dataclass(frozen=True, slots=True, eq=False)
class DensePart:
    """Pages of one layer group, for every sequence of the step.

    Sequence b reads pages ``seq_pages_B1[b] : seq_pages_B1[b + 1]``, sorted by start. Page p holds the absolute
    positions ``page_starts_P[p] : page_starts_P[p] + format.tokens``; those above a row's own position are not
    visible to it, so a page's unwritten tail is never read as data.

    Row t writes its new KV to entry ``row_slots_T[t]`` of page ``row_pages_T[t]``, or nowhere when that is NO_PAGE.
    All arrays are int32 and contiguous.
    """

    format: PageFormat
    window: int | None
    page_ids_P: Ints
    page_starts_P: Ints
    seq_pages_B1: Ints
    row_pages_T: Ints
    row_slots_T: Ints


@dataclass(frozen=True, slots=True, eq=False)
class RaggedPart:
    """Pages that each hold one head of one layer, with stored positions and biases. Read only.

    Cell ``c = (layer_slot * B + b) * K + head`` reads pages ``cell_pages_C1[c] : cell_pages_C1[c + 1]``; the first
    ``page_counts_P[p]`` entries of page p are valid, in ascending order of position. All arrays are int32.
    """

    format: PageFormat
    window: int | None
    heads: int
    page_ids_P: Ints
    page_counts_P: Ints
    cell_pages_C1: Ints


Part = DensePart | RaggedPart


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """What one model layer reads: (index into ``Plan.parts``, layer slot in that part), merged by log-sum-exp.

    ``writes`` names the dense part that takes this layer's own new KV; None when another layer owns the KV.
    ``scale`` multiplies q.k before the bias.
    """

    reads: tuple[tuple[int, int], ...]
    writes: tuple[int, int] | None
    scale: float


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Everything attend needs to know about a step.

    Row t asks at absolute position ``positions_T[t]``; rows of sequence b are ``seq_rows_B1[b] : seq_rows_B1[b +
    1]``, in ascending order of position, not necessarily contiguous. A row sees entries at positions ``<= its own``,
    and with a window W only those ``> its own - W``. int32.
    """

    positions_T: Ints
    seq_rows_B1: Ints
    parts: tuple[Part, ...]
    layers: tuple[LayerPlan, ...]

    @property
    def num_rows(self) -> int:
        return self.positions_T.size

    @property
    def num_seqs(self) -> int:
        return self.seq_rows_B1.size - 1
