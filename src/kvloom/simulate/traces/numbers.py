"""Contents get numbers, and other lengths of block than those that they were recorded in."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from itertools import count


class Numbers:
    """A number for every content after every other: what a key is to a page.

    >>> numbers = Numbers()
    >>> numbers.chain(["a", "b"]), numbers.chain(["a", "c"]), numbers.chain(["c", "b"])
    ((0, 1), (0, 2), (3, 4))
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int | None, Hashable], int] = {}

    def chain(self, contents: Iterable[Hashable], after: int | None = None) -> tuple[int, ...]:
        """Of blocks that follow one another, the first of them the block numbered ``after``."""
        numbers = []
        for content in contents:
            after = self._known.setdefault((after, content), len(self._known))
            numbers.append(after)
        return tuple(numbers)


class Once:
    """Contents that occur nowhere else.

    >>> once = Once()
    >>> once() == once()
    False
    """

    def __init__(self) -> None:
        self._count = count()

    def __call__(self) -> Hashable:
        return "once", next(self._count)


_ROUNDING = 1e-6
"""A border between two recorded contents is not to be missed for the last bit of a quotient."""


def regrouped(contents: Sequence[Hashable], recorded_tokens: float, blocks: int, block_tokens: int) -> list[Hashable]:
    """Contents of so many blocks of ``block_tokens``, each being all recorded ones that it touches.

    ``recorded_tokens``: how many tokens one of ``contents`` stands for; a fraction where lengths are scaled down.
    There are at least ``num_recorded`` of them.

    >>> regrouped(["a", "b", "c", "d"], recorded_tokens=6, blocks=3, block_tokens=8)
    [(0, ('a', 'b')), (1, ('b', 'c')), (2, ('c', 'd'))]
    """
    assert len(contents) >= num_recorded(recorded_tokens, blocks, block_tokens)
    found: list[Hashable] = []
    for index in range(blocks):
        first = math.floor(index * block_tokens / recorded_tokens + _ROUNDING)
        last = _last(index, recorded_tokens, block_tokens)
        found.append((index, tuple(contents[first : last + 1])))
    return found


def num_recorded(recorded_tokens: float, blocks: int, block_tokens: int) -> int:
    """How many recorded contents these blocks touch.

    >>> num_recorded(recorded_tokens=6, blocks=3, block_tokens=8)
    4
    """
    return _last(blocks - 1, recorded_tokens, block_tokens) + 1


def _last(index: int, recorded_tokens: float, block_tokens: int) -> int:
    return math.ceil((index + 1) * block_tokens / recorded_tokens - _ROUNDING) - 1
