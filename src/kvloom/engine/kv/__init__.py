"""All KV of a sequence, behind one door: where it is, what is missing or on its way, and what others may find of it.

names.py      what its pages are called
holder.py     the pages that it holds in the ledger, one by one
extents.py    the pages of its lists, which live and die together
sharing.py    what others may find, and are promised
sequence.py   ``SequenceKv``: the verbs
"""

from __future__ import annotations

from kvloom.engine.kv.names import PageNames
from kvloom.engine.kv.sequence import SequenceKv

__all__ = ["PageNames", "SequenceKv"]
