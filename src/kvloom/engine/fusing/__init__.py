"""Fusing a prompt over documents that were computed elsewhere.

fusing.py     ``Fusing``: the phases, one after another
passes.py     what it computes in a step
stored.py     keys and values of a fused prompt, as selectors see them
"""

from __future__ import annotations

from kvloom.engine.fusing.fusing import Fusing, Phase

__all__ = ["Fusing", "Phase"]
