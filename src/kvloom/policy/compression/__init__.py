"""Methods that keep some entries of a context's KV, per layer and KV head, and let the others go.

base.py         the interfaces: ``Scorer``, ``Allocator``, ``Compactor``
compression.py  ``Compression``: a method, its parameters and a ratio, as a request asks for it
methods.py      the methods by name
*.py            each method, allocator and compactor
"""

from __future__ import annotations

from kvloom.policy.compression.compression import Compression
from kvloom.policy.compression.methods import METHODS, compression_of

__all__ = ["METHODS", "Compression", "compression_of"]
