"""Fusion: KV of documents that were computed alone, read where a prompt has them, and repaired where it matters.

base.py       what selectors see, and what they say
boundaries.py documents that nobody has marked
a3.py, cacheblend.py, epic.py, fusionrag.py, prophetkv.py, recompute.py    one way to choose each
fusion.py     ``Fusion``: one of them, or several, and how much is computed again
methods.py    all of them by name
ratio.py      how much, where it is not said in numbers: as loading allows, or for a target
profile.py    what was learned of a model, by which a target becomes a ratio
worth.py      whether it is faster than computing the prompt
"""

from __future__ import annotations

from kvloom.policy.fusion.base import Checked, Need, Scorer, View
from kvloom.policy.fusion.boundaries import found_by_content
from kvloom.policy.fusion.fusion import Fusion
from kvloom.policy.fusion.methods import fusion_of, parse_fusion, text_of
from kvloom.policy.fusion.worth import faster

__all__ = [
    "Checked",
    "Fusion",
    "Need",
    "Scorer",
    "View",
    "faster",
    "found_by_content",
    "fusion_of",
    "parse_fusion",
    "text_of",
]
