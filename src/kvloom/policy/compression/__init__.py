"""Methods that keep some entries of a context's KV, per layer and KV head, and let the others go.

base.py         the interfaces: ``Scorer``, ``Allocator``, ``Compactor``, and what they see
needs.py        what a scorer looks at
compression.py  ``Compression``: a method, its parameters and a ratio, as a request asks for it
methods.py      the scorers by name, and how a method is made of words (words.py)
identity.py     a method as bytes: what its results are kept under
asked.py        a method as text, and ``exact``: what clients and operators write
allocators.py   the allocators by name, and what each asks of scores
compactors.py   the compactors by name; reference_queries.py, merging.py: what some of them share
protect.py      what stays whatever its score
demote.py       what is scored down whatever its score
critical.py     what is chosen by scores and values, when it is known how many stay
profile.py      what LU-KV has learned beforehand; utility.py: of what; hull.py, lukv.py: what it does with it
predictor.py    what kvzap has learned beforehand
*.py            each scorer, allocator and compactor
"""

from __future__ import annotations

from kvloom.policy.compression.asked import EXACT, asked_for, parse_compression, text_of
from kvloom.policy.compression.compression import Compression
from kvloom.policy.compression.methods import METHODS, compression_of

__all__ = ["EXACT", "METHODS", "Compression", "asked_for", "compression_of", "parse_compression", "text_of"]
