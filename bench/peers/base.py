"""What the table asks of an engine. One file per peer; each runs in a process of its own."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Stream:
    """Seconds, since the prompt was handed over, at which each token of an answer came."""

    token_times_s: list[float]

    @property
    def ttft_s(self) -> float:
        return self.token_times_s[0]

    @property
    def decode_tokens_per_s(self) -> float:
        """After the first token: prefill noise stays out."""
        return (len(self.token_times_s) - 1) / (self.token_times_s[-1] - self.token_times_s[0])


class Peer(Protocol):
    """An engine that is loaded. All decoding is greedy and runs to ``num_new`` tokens whatever they are.

    ``weight_bytes``: what one decode step must read of the weights. ``kv_token_bytes``: KV of one position.
    """

    @property
    def version(self) -> str: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def kv_token_bytes(self) -> int: ...

    def one(self, prompt: list[int], num_new: int) -> Stream:
        """One prompt alone, nothing of it cached."""
        ...

    def batch(self, prompts: list[list[int]], num_new: int) -> float:
        """Prompts of equal length together, nothing of them cached; seconds until all are done."""
        ...

    def shared(self, prefix: list[int], tails: list[list[int]], num_new: int) -> float:
        """Requests that begin with ``prefix``, which was seen once before, untimed. Seconds until all are done."""
        ...


PEERS = {
    "kvloom": "bench.peers.kvloom_peer",
    "transformers": "bench.peers.transformers_peer",
}


def open_peer(name: str, model: str, weights: Path, threads: int) -> Peer:
    """Load ``model`` (the GGUF file ``weights``): each peer's file has an ``open_peer`` like this, less the name."""
    peer: Peer = importlib.import_module(PEERS[name]).open_peer(model, weights, threads)
    return peer
