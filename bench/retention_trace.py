"""Requests as the blocks that they use, and a generator of conversations that begin with the same text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BLOCK_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Turn:
    """A request at ``now`` for a context of ``blocks``: contents by number, the n-th at position 16 n."""

    now: float
    blocks: tuple[int, ...]


def conversations(
    seed: int,
    count: int = 60,
    shared_tokens: int = 320,
    lengths: tuple[int, int] = (2048, 8192),
    turns: tuple[int, int] = (4, 9),
    arrival_s: float = 20.0,
    think_s: float = 60.0,
) -> list[Turn]:
    """In order of time. Starts follow one another by Gamma times with a variation of 0.25, turns by Gamma times with a
    variation of 1; every turn adds an equal part of its conversation's length, which is uniform, as is their number.
    """
    rng, made, now, next_block = np.random.default_rng(seed), [], 0.0, shared_tokens // BLOCK_TOKENS
    shared = tuple(range(next_block))
    for _ in range(count):
        now += rng.gamma(16.0, arrival_s / 16.0)
        length, rounds = int(rng.integers(*lengths)), int(rng.integers(*turns))
        own = tuple(range(next_block, next_block + length // BLOCK_TOKENS))
        next_block += len(own)
        times = now + np.cumsum(rng.gamma(1.0, think_s, size=rounds))
        for number, at in enumerate(times.tolist(), start=1):
            made.append(Turn(at, shared + own[: len(own) * number // rounds]))
    return sorted(made, key=lambda turn: turn.now)


@dataclass(frozen=True, slots=True)
class Gap:
    """Between two uses of a block one after the other, by the numbers of their turns: keeping it spares the second."""

    block: int
    index: int
    start: int
    stop: int


def gaps(turns: Sequence[Turn]) -> list[Gap]:
    last: dict[int, int] = {}
    found = []
    for number, turn in enumerate(turns):
        for index, block in enumerate(turn.blocks):
            if block in last:
                found.append(Gap(block, index, last[block], number))
            last[block] = number
    return found


def live_blocks(turns: Sequence[Turn]) -> list[int]:
    """At every turn, the blocks that it uses and those used before and after it: what an endless cache would need."""
    change = np.zeros(len(turns) + 1, dtype=np.int64)
    for gap in gaps(turns):
        change[gap.start + 1] += 1
        change[gap.stop] -= 1
    between = np.cumsum(change)[: len(turns)]
    return [len(turn.blocks) + int(count) for turn, count in zip(turns, between, strict=True)]
