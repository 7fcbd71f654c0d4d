"""All KV of a sequence behind one interface: where it is, what is missing or pending, and what others may find.

names.py      keys and content hashes of its pages
holder.py     the individual pages that it holds in the ledger
extents.py    the pages of its lists, which share one lifetime
carried.py    hidden states that wait between two layers
document.py   what fusion asks of a document of a prompt (fused.py: read where the prompt has it)
documents.py  those of a prompt, until they are there
passage.py    a document computed alone
compressed.py what a compression leaves of a passage
earlier.py    a document that is part of an earlier context
sharing.py    what is published and promised to others
sequence.py   ``SequenceKv``: the operations
watch.py      what is seen of its context while it is computed (learned_digest.py: of hidden states)
seen.py       what was seen of it before, for many methods
stored.py     what its pages hold, to be read
replacement.py  what a method of compression does to it, carried out
results.py    what that has left, kept for others
"""

from __future__ import annotations

from kvloom.engine.kv.carried import Carried
from kvloom.engine.kv.compressed import CompressedKv
from kvloom.engine.kv.document import DocumentKv
from kvloom.engine.kv.documents import Documents
from kvloom.engine.kv.earlier import EarlierKv
from kvloom.engine.kv.names import PageNames
from kvloom.engine.kv.passage import PassageKv
from kvloom.engine.kv.replacement import Replacement
from kvloom.engine.kv.results import Result, Results
from kvloom.engine.kv.seen import Seen, together
from kvloom.engine.kv.sequence import SequenceKv
from kvloom.engine.kv.stored import Stored
from kvloom.engine.kv.watch import Watch, Watched

__all__ = [
    "Carried",
    "CompressedKv",
    "DocumentKv",
    "Documents",
    "EarlierKv",
    "PageNames",
    "PassageKv",
    "Replacement",
    "Result",
    "Results",
    "Seen",
    "SequenceKv",
    "Stored",
    "Watch",
    "Watched",
    "together",
]
