"""A cache without limits: what it would have of every prompt is what no policy can exceed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class EndlessCache:
    """All that requests have stored so far, as a trace has it: by the numbers of blocks, each of which stands for all
    that comes before it as well.

    >>> cache = EndlessCache(block_tokens=16)
    >>> cache.store([0, 1], 20)
    >>> cache.known([0, 1, 2], 48), cache.known([0, 3], 32)
    (20, 16)
    """

    block_tokens: int
    _filled: dict[int, int] = field(default_factory=dict)

    def known(self, blocks: Sequence[int], tokens: int) -> int:
        """How many of the first ``tokens`` of ``blocks`` it has: a beginning, as nothing is ever missing in between."""
        reached = 0
        for number in blocks:
            wanted = min(self.block_tokens, tokens - reached)
            found = min(wanted, self._filled.get(number, 0))
            reached += max(found, 0)
            if found < self.block_tokens:
                break
        return reached

    def store(self, blocks: Sequence[int], tokens: int) -> None:
        """The first ``tokens`` of ``blocks``."""
        for start, number in zip(range(0, tokens, self.block_tokens), blocks, strict=False):
            filled = min(self.block_tokens, tokens - start)
            self._filled[number] = max(filled, self._filled.get(number, 0))

    @property
    def blocks(self) -> int:
        """That are different."""
        return len(self._filled)
