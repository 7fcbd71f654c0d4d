"""The workloads of the table: random prompt tokens, greedy answers, fixed lengths. Each returns one figure."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from bench.peers.base import Peer

VOCAB = 49152
_SPECIAL = 100
"""Ids below are special tokens in the models that we measure."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of one run. ``higher``: more is better."""

    workload: str
    value: float
    unit: str
    higher: bool = True


@dataclass(frozen=True, slots=True)
class Sizes:
    """Lengths in tokens. ``contexts``: prompts for prefill and for decode after them."""

    contexts: tuple[int, ...] = (512, 2048, 4096)
    decode_tokens: int = 65
    batch: int = 16
    batch_prompt: int = 512
    batch_new: int = 64
    sharers: int = 8
    shared_prefix: int = 2048
    shared_tail: int = 64
    shared_new: int = 32


FULL = Sizes()
QUICK = Sizes(
    (128, 256), 9, batch=4, batch_prompt=64, batch_new=8, sharers=4, shared_prefix=256, shared_tail=16, shared_new=8
)


def run(peer: Peer, sizes: Sizes, seed: int) -> Iterator[Figure]:
    """All workloads, once each, after a short warm-up. The same seed gives every peer the same tokens."""
    rng = random.Random(seed)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(_SPECIAL, VOCAB) for _ in range(count)]

    peer.one(tokens(64), 4)
    for length in sizes.contexts:
        stream = peer.one(tokens(length), sizes.decode_tokens)
        yield Figure(f"prefill {length}", length / stream.ttft_s, "tok/s")
        yield Figure(f"decode after {length}", stream.decode_tokens_per_s, "tok/s")
    prompts = [tokens(sizes.batch_prompt) for _ in range(sizes.batch)]
    seconds = peer.batch(prompts, sizes.batch_new)
    name = f"{sizes.batch} x ({sizes.batch_prompt} in + {sizes.batch_new} out)"
    yield Figure(name, sizes.batch * sizes.batch_new / seconds, "out tok/s")
    tails = [tokens(sizes.shared_tail) for _ in range(sizes.sharers)]
    seconds = peer.shared(tokens(sizes.shared_prefix), tails, sizes.shared_new)
    name = f"{sizes.sharers} x ({sizes.shared_tail} new + {sizes.shared_new} out) on a shared {sizes.shared_prefix}"
    yield Figure(name, seconds, "s", higher=False)
