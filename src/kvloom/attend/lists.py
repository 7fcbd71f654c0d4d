"""What a sequence reads in one layer group beside its page table: plain data, from whoever made those pages.

The builder (``attend.builder``) puts what all sequences of a step have into the parts of a plan. A ``shift`` says that
the entries were stored at positions that lie so far below those where they stand now: see ``plan.Rotations``.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvloom.attend.plan import Entries, Ints, Masks
from kvloom.memory.format import PageFormat


@dataclass(frozen=True, slots=True, eq=False)
class SequenceList:
    """Whole pages of the layer group, which all layers and heads read. The other fields are as in ``plan.Part``."""

    format: PageFormat
    entries: Entries
    page_ids_P: Ints
    masks_P: Masks | None = None
    shift: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class HeadLists:
    """A list for every layer slot and KV head: number ``slot * heads + head``, cut out of the pages by ``bounds_L1``.

    Pages may hold one head of one layer, or all of a layer group: then each list says which of them its head reads.

    ``stop``: all entries come before this position, at which the sequence's table continues (see ``plan.Seam``); 0:
    they may be anywhere.
    """

    format: PageFormat
    entries: Entries
    slots: int
    heads: int
    page_ids_P: Ints
    bounds_L1: Ints
    masks_P: Masks | None = None
    shift: int = 0
    stop: int = 0


MoreLists = SequenceList | HeadLists
