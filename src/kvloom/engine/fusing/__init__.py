"""Fusing a prompt over documents that were computed elsewhere.

fusing.py     ``Fusing``: the phases, one after another
passes.py     what it computes in a step
sight.py      what the selector sees of the prompt (stored.py: keys and values)
"""

from __future__ import annotations

from kvloom.engine.fusing.fusing import Fusing, Phase

__all__ = ["Fusing", "Phase"]
