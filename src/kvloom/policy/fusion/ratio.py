"""How much is computed again, where a request does not say it in numbers: as loading allows, or as a target demands.

Both are rules of a ``Fusion`` and become a ratio before rows are chosen: a target when the model is known, by what was
learned of it (``profile.py``); loading when it is known how long that takes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from kvloom.errors import ParamsError

USUAL = 0.15
"""Unless told: the least at which CacheBlend found answers as good as those of a full prefill."""


@dataclass(frozen=True, slots=True)
class WhileLoading:
    """As much as takes no longer to compute than the documents take to load, and ``least`` of it in any case.

    Source: CacheBlend's controller (arXiv 2405.16444), which computes a layer while it loads the next one. We differ: a
    page has the KV of many layers, so repair begins when all is loaded. The time that passes is then at most twice that
    of loading, and what loads meanwhile are documents of others.
    Raises ParamsError on construction.
    """

    least: float = USUAL

    def __post_init__(self) -> None:
        if type(self.least) not in (int, float) or not 0 <= self.least <= 1:
            raise ParamsError(f"least must be a number from 0 to 1, got {self.least!r}", param="least")

    def ratio(self, loading_s: float, computing_s: float) -> float:
        """``computing_s``: what computing everything again would take.

        >>> WhileLoading().ratio(0.1, 0.4), WhileLoading().ratio(0.0, 0.4), WhileLoading().ratio(1.0, 0.4)
        (0.25, 0.15, 1.0)
        """
        return min(1.0, max(self.least, loading_s / computing_s)) if computing_s > 0 else self.least


@dataclass(frozen=True, slots=True)
class ForTarget:
    """As much as it takes for a mean KL divergence from a full prefill of at most ``kl`` nats for each token of an
    answer, by a profile: the file, or None, the one that ships for the model. Raises ParamsError on construction.
    """

    kl: float
    profile: Path | None = None

    def __post_init__(self) -> None:
        if type(self.kl) not in (int, float) or not 0 <= self.kl < math.inf:
            raise ParamsError(f"target must be a number of nats from 0 on, got {self.kl!r}", param="target")


Rule = WhileLoading | ForTarget
