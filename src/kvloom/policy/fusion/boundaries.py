"""Documents that nobody has marked: a prompt is cut where its own tokens say so, and what lies between two cuts is one.

                  0        first cut                              last cut       length
    cuts          [ prefix )[ document )[ document )[ document   )[ question    )

A cut is made before a token whose hash, of the ``WINDOW`` tokens up to it, is greater than all others within ``REACH``
positions on both sides: so whether there is one depends on these few tokens, and on nothing before or after them. A
passage has the same cuts wherever it stands, but for a neighbourhood of its ends. Cuts are more than ``REACH`` tokens
apart. Where two are further apart than ``LONGEST``, what lies between them is divided into equal parts; a token more or
less moves these alone.

Source: local maximum chunking (Bjorner, Blass, Gurevich: Content-dependent chunking for differential compression, the
local maximum approach, 2010). We differ: stretches without a cut are divided evenly, instead of at a bound counted from
the last cut, so that no document is short.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from kvloom.segment import Span

Hashes = npt.NDArray[np.uint64]

WINDOW = 8
REACH = 47
LONGEST = 256
SHORTEST = REACH + 1
"""In tokens. Documents have 96 on average."""

NEIGHBOURHOOD = REACH + WINDOW
"""Cuts so far from a change stay, but for those that divide a stretch in which there was one."""


def found_by_content(tokens: Sequence[int]) -> tuple[Span, ...]:
    """The documents of a prompt, one after another; none where it has fewer than two cuts.

    What comes before the first cut is the prefix, and what comes after the last one the question, which has at least
    ``REACH`` tokens.
    """
    cuts = _cuts(np.asarray(tokens, np.uint64))
    return tuple(part for start, stop in pairwise(cuts) for part in _parts(start, stop))


def _cuts(tokens_T: Hashes) -> list[int]:
    if len(tokens_T) < WINDOW + 2 * REACH:
        return []
    hashes_N = _hashes(tokens_T)  # that at n ends with token n + WINDOW - 1
    around_M2 = np.lib.stride_tricks.sliding_window_view(hashes_N, 2 * REACH + 1)
    middle_M = hashes_N[REACH:-REACH]
    greatest_M = (middle_M == around_M2.max(axis=1)) & ((around_M2 == middle_M[:, None]).sum(axis=1) == 1)
    cuts: list[int] = (np.flatnonzero(greatest_M) + REACH + WINDOW - 1).tolist()
    return cuts


def _hashes(tokens_T: Hashes) -> Hashes:
    """Of every ``WINDOW`` tokens in a row: a polynomial of the tokens' own hashes, modulo 2^64, mixed once more."""
    mixed_T, count = _mixed(tokens_T), len(tokens_T) - WINDOW + 1
    sums_N = np.zeros(count, np.uint64)
    for place in range(WINDOW):
        sums_N = sums_N * _FACTOR + mixed_T[place : place + count]
    return _mixed(sums_N)


_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def _mixed(values: Hashes) -> Hashes:
    """SplitMix64's finalizer (Steele, Lea, Flood 2014)."""
    values = values + _FACTOR
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _parts(start: int, stop: int) -> list[Span]:
    """As few equal parts as are not too long."""
    count = -(-(stop - start) // LONGEST)
    ends = [start + (stop - start) * n // count for n in range(count + 1)]
    return [Span(first, last) for first, last in pairwise(ends)]
