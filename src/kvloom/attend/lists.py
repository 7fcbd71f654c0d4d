"""What a sequence reads in one layer group in addition to its page table: plain data.

The builder (``attend.builder``) collects the lists of all sequences of a step into the parts of a plan. A ``shift``
says how far below their present positions the entries were stored: see ``plan.Rotations``.
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
