"""Documents as texts of passages: whole paragraphs where they fit, else lines, sentences, words, characters."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from kvloom.errors import ConfigError

_ENDS = (
    re.compile(r"(?<!\s)[^\S\n]*\n[^\S\n]*\n\s*"),  # of paragraphs
    re.compile(r"(?<!\s)[^\S\n]*\n\s*"),
    re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*(?=\S)"),
    re.compile(r"\s+"),
)
"""Where a text may be cut, the best places first."""


def split(text: str, max_tokens: int, count: Callable[[str], int]) -> list[str]:
    """A document as passages of at most ``max_tokens``, in order: all of its text but white space between them.

    ``count``: tokens of a text. As many neighbours as fit make a passage, and none is cut as long as it fits alone.
    Raises ConfigError when a single character does not fit.
    """
    if max_tokens < 1:
        raise ConfigError(f"a passage has at least one token, not {max_tokens}")
    return [passage for passage in _split(text.strip(), 0, max_tokens, count) if passage]


def _split(text: str, level: int, limit: int, count: Callable[[str], int]) -> Iterator[str]:
    """``level``: pieces are cut at ``_ENDS[level]`` at best."""
    if not text or count(text) <= limit:
        yield text
        return
    pieces = _pieces(text, level)
    start = 0
    while start < len(pieces):
        stop = _most(text, pieces, start, lambda part: count(part) <= limit)
        if stop > start:
            yield text[pieces[start][0] : pieces[stop - 1][1]]
        else:
            first, last = pieces[start]
            if last - first <= 1:
                raise ConfigError(f"one character has more than {limit} tokens", hint="passages of more tokens")
            yield from _split(text[first:last], level + 1, limit, count)
            stop = start + 1
        start = stop


def _pieces(text: str, level: int) -> list[tuple[int, int]]:
    """(start, stop) of the pieces of a text, without what lies between them."""
    if level >= len(_ENDS):
        half = len(text) // 2
        return [(0, half), (half, len(text))]
    starts, stops = [0], []
    for match in _ENDS[level].finditer(text):
        stops.append(match.start())
        starts.append(match.end())
    return [piece for piece in zip(starts, [*stops, len(text)], strict=True) if piece[0] < piece[1]]


def _most(text: str, pieces: list[tuple[int, int]], start: int, fits: Callable[[str], bool]) -> int:
    """One after the last piece that fits together with those from ``start`` on: found by doubling, then halving."""
    low, step = start, 1
    while low + step <= len(pieces) and fits(text[pieces[start][0] : pieces[low + step - 1][1]]):
        low, step = low + step, 2 * step
    while step > 1:
        step //= 2
        if low + step <= len(pieces) and fits(text[pieces[start][0] : pieces[low + step - 1][1]]):
            low += step
    return low
