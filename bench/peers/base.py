"""An engine beside others: what its file gives, and where it runs. Imported in every engine's own environment."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kvloom.bench.target import Target


@dataclass(frozen=True, slots=True)
class Setup:
    """What every engine gets alike.

    gguf: the weights; directory: the same dequantized to float32, as transformers stores models (present where
    ``Entry.wants_directory``); kv_tokens: positions whose KV the engine must be able to hold.
    """

    model: str
    gguf: Path
    directory: Path
    threads: int
    kv_tokens: int


@dataclass(frozen=True, slots=True)
class Facts:
    """weight_bytes: what one decode step must read of the weights; kv_token_bytes: KV of one position."""

    version: str
    settings: str
    weight_bytes: int
    kv_token_bytes: int


class Peer(Target, Protocol):
    """A loaded engine. Answers are greedy and run to their full length, whatever the tokens are."""

    @property
    def facts(self) -> Facts: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a peer lives: its file (with ``open_peer(setup)``) and its environment, as ``bench/peers.sh`` names it.

    only: the groups of cells that it takes part in; None: all, but where it ``wants_directory`` only those of small
    models: in float32 a model of a billion weights takes 5 GB.
    """

    module: str
    environment: str | None
    wants_directory: bool = False
    only: frozenset[str] | None = None

    def takes_part(self, group: str) -> bool:
        if self.only is None:
            return not self.wants_directory or group not in _LARGE
        return group in self.only


_LARGE_STREAMS = frozenset({"streams-1b", "streams-1b-q4_0", "streams-3b"})
_LARGE = _LARGE_STREAMS | {"together-1b", "together-1b-q4_0", "together-3b", "streams-8b"}


PEERS = {
    "kvloom": Entry("bench.peers.kvloom_peer", None),
    "openvino": Entry("bench.peers.openvino_peer", "openvino"),
    "vllm": Entry("bench.peers.vllm_peer", "vllm", wants_directory=True),
    "transformers": Entry("bench.peers.transformers_peer", "transformers", wants_directory=True),
    "llama.cpp": Entry("bench.peers.llama_cpp_peer", "llama-cpp"),
    "llama.cpp-plain": Entry("bench.peers.llama_cpp_plain_peer", "llama-cpp", only=_LARGE_STREAMS | {"streams"}),
}
"""Those that are likely to be quick come first: the others are stopped when they fall far behind. llama.cpp is two
peers: with its flash attention, as by default, and without it, which prefills more slowly and decodes sooner after long
prompts."""


def open_peer(name: str, setup: Setup) -> Peer:
    """Load the model. Call it in the peer's environment."""
    peer: Peer = importlib.import_module(PEERS[name].module).open_peer(setup)
    return peer
