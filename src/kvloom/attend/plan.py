"""The typed description of where KV is: the only place where segments become addresses.

A plan is built once per step, on the host, and read by every layer. Nobody changes one, but its classes are not frozen:
frozen ones take five times as long to make, and a dozen are made per step.

Legend of the shape suffixes: T query rows of the step, B sequences, P pages of a part, L lists of a part, U rotations,
H query heads, K KV heads, D head dim.

    plan    rows            positions, by sequence
            group 0         a window; where new KV goes
              part 0        pages of one format, dealt out to lists, with entries of one kind
              part 1        ...
            group 1
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvloom.arrays import Floats
from kvloom.memory.format import PageFormat

Ints = npt.NDArray[np.int32]
"""Arrays of a plan live on the host, contiguous."""

Masks = npt.NDArray[np.uint16]
"""A word per page: bit s says that entry s is there."""

NO_PAGE = -1
"""Marks, in the int32 arrays that kernels read, a row whose KV is not written or a page that is not there."""


@dataclass(slots=True, eq=False)
class BySequence:
    """One list per sequence, for all layers and heads: list b is pages ``bounds_L1[b] : bounds_L1[b + 1]``."""

    bounds_L1: Ints


@dataclass(slots=True, eq=False)
class ByHead:
    """One list per sequence, layer slot and KV head: list ``(b * slots + slot) * heads + head``, bounds as above."""

    bounds_L1: Ints
    slots: int
    heads: int


@dataclass(slots=True, eq=False)
class Contiguous:
    """Page p holds the positions ``starts_P[p] : starts_P[p] + format.tokens``; a list is sorted by start."""

    starts_P: Ints


@dataclass(frozen=True, slots=True)
class Labelled:
    """Every cell of a page says at which position each of its entries stands, and what is added to its score."""


Lists = BySequence | ByHead
Entries = Contiguous | Labelled


@dataclass(slots=True, eq=False)
class Part:
    """Pages of one format: who reads them (``lists``), and where their entries stand (``entries``).

    Parameters
    ----------
    masks_P:
        Which entries of each page are there; None: all. What is not there may hold anything.
    turns_L:
        Which of the group's rotations each list has; None: nothing is turned.
    """

    format: PageFormat
    lists: Lists
    entries: Entries
    page_ids_P: Ints
    masks_P: Masks | None = None
    turns_L: Ints | None = None

    @property
    def heads(self) -> int:
        return self.lists.heads if isinstance(self.lists, ByHead) else self.format.heads

    @property
    def slots(self) -> int:
        """Layer slots that can be asked for."""
        return self.lists.slots if isinstance(self.lists, ByHead) else len(self.format.layers)

    def list_of(self, sequence: int, slot: int, head: int) -> int:
        """Index of the list that the rows of a sequence read in this layer slot and KV head."""
        if isinstance(self.lists, BySequence):
            return sequence
        return (sequence * self.lists.slots + slot) * self.lists.heads + head


@dataclass(slots=True, eq=False)
class Rotations:
    """Keys that were cached for other positions are read as they lie: rows come to meet them.

    The entries of a list with rotation u were stored at positions that lie ``shifts_U[u]`` below those where they
    stand now. Its rows therefore ask at ``position - shifts_U[u]``, visibility and window included, with queries turned
    to there: (a, b) = (q[i], q[i + R]) becomes (a cos - b sin, b cos + a sin), with cos and sin from ``cos_UR`` and
    ``sin_UR``, float32. A shift of 0 turns nothing.
    """

    shifts_U: Ints
    cos_UR: Floats
    sin_UR: Floats


@dataclass(slots=True, eq=False)
class Writes:
    """Row t writes its new KV to entry ``row_slots_T[t]`` of page ``row_pages_T[t]``, or nowhere: NO_PAGE."""

    format: PageFormat
    row_pages_T: Ints
    row_slots_T: Ints


@dataclass(slots=True, eq=False)
class Seam:
    """Part ``table`` continues part ``lists``: labelled lists by head, and pages of the same codec, heads and dims.

    The lists of sequence b hold entries below position ``stops_B[b]``, its table those from there on; 0: it has no
    lists. Both are read as one, with the sums of a dense table: lists that hold everything give its very bits.
    """

    lists: int
    table: int
    stops_B: Ints


@dataclass(slots=True, eq=False)
class Group:
    """One layer group: what its layers read, and where they write.

    Results over ``parts`` (at least one) are merged from the first to the last; a table that continues lists is read
    with them. Their order and ``seams`` must follow from what they are, never from who else is in the step: floats do
    not add up alike in every order. A list may be empty: its rows get the bits that they would get without the part.
    """

    window: int | None
    parts: tuple[Part, ...]
    writes: tuple[Writes, ...] = ()
    rotations: Rotations | None = None
    seams: tuple[Seam, ...] = ()


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """One model layer, the same in every plan of a model: its place in the pages of a layer group.

    ``owns``: it writes its own KV there. ``scale`` multiplies q.k before the bias.
    """

    group: int
    slot: int
    owns: bool
    scale: float


@dataclass(slots=True, eq=False)
class Plan:
    """Everything attend needs to know about a step.

    Row t asks at absolute position ``positions_T[t]``; rows of sequence b are ``seq_rows_B1[b] : seq_rows_B1[b +
    1]``, in ascending order of position, not necessarily contiguous. A row sees entries at positions ``<= its own``,
    and with a window W only those ``> its own - W``: so a page's unwritten tail is never read as data. int32.
    """

    positions_T: Ints
    seq_rows_B1: Ints
    groups: tuple[Group, ...]
    layers: tuple[LayerPlan, ...]

    @property
    def num_rows(self) -> int:
        return self.positions_T.size

    @property
    def num_seqs(self) -> int:
        return self.seq_rows_B1.size - 1
