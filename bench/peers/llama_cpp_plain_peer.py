"""llama.cpp without its flash attention."""

from __future__ import annotations

from bench.peers.base import Setup
from bench.peers.llama_cpp_peer import LlamaCpp
from bench.peers.llama_cpp_peer import open_peer as open_llama_cpp


def open_peer(setup: Setup) -> LlamaCpp:
    return open_llama_cpp(setup, flash=False)
