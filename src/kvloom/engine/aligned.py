"""Which parts of a text an earlier one had, wherever they were: by content, from the longest common beginning on."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

ANCHOR = 16
"""So many tokens in a row show that a part of the earlier text goes on here."""


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens of a text: new ones, or those of an earlier text from ``start`` on."""

    tokens: tuple[int, ...]
    start: int | None

    def __getitem__(self, inside: slice) -> Part:
        """``inside``: from a number to a number of its tokens."""
        return Part(self.tokens[inside], None if self.start is None else self.start + inside.start)


def joined(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Neighbours that go on where the other ends are one part."""
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        if last is not None and part.start == (None if last.start is None else last.start + len(last.tokens)):
            found[-1] = Part(last.tokens + part.tokens, last.start)
        else:
            found.append(part)
    return tuple(found)


def aligned(earlier: Sequence[int], tokens: Sequence[int]) -> tuple[Part, ...]:
    """What ``tokens`` consists of. Parts that occur several times in the earlier text are taken in its order.

    >>> parts = aligned(range(100), [*range(30), 7, 7, *range(60, 100)])
    >>> [(part.start, len(part.tokens)) for part in parts]
    [(0, 30), (None, 2), (60, 40)]
    """
    return tuple(_parts(tuple(earlier), tuple(tokens)))


def _parts(earlier: tuple[int, ...], tokens: tuple[int, ...]) -> Iterator[Part]:
    first = common(earlier, 0, tokens, 0)
    if first:
        yield Part(tokens[:first], 0)
    places: dict[tuple[int, ...], list[int]] = {}
    for place in range(len(earlier) - ANCHOR + 1):
        places.setdefault(earlier[place : place + ANCHOR], []).append(place)
    at = new = reached = first
    while at < len(tokens):
        found = places.get(tokens[at : at + ANCHOR])
        if found is None:
            at += 1
            continue
        start = found[bisect_left(found, reached) % len(found)]
        count = common(earlier, start, tokens, at)
        if new < at:
            yield Part(tokens[new:at], None)
        yield Part(tokens[at : at + count], start)
        at += count
        new, reached = at, start + count
    if new < len(tokens):
        yield Part(tokens[new:], None)


def common(earlier: Sequence[int], start: int, tokens: Sequence[int], at: int) -> int:
    """How many tokens are the same from there on."""
    count, most = 0, min(len(earlier) - start, len(tokens) - at)
    while count < most and earlier[start + count] == tokens[at + count]:
        count += 1
    return count
