"""kvchunk: the open format in which the KV of a passage is kept and exchanged, version 1. See ``docs/kvchunk.md``."""

from kvloom.memory.kvchunk.chunk import Identity, KvChunk, Slice, Turn, joined, sliced
from kvloom.memory.kvchunk.library import SUFFIX, Library, touch
from kvloom.memory.kvchunk.metadata import Described
from kvloom.memory.kvchunk.reading import describe_file, read_chunk, verify_file
from kvloom.memory.kvchunk.refusal import ChunkRefused, Refusal

__all__ = [
    "SUFFIX",
    "ChunkRefused",
    "Described",
    "Identity",
    "KvChunk",
    "Library",
    "Refusal",
    "Slice",
    "Turn",
    "describe_file",
    "joined",
    "read_chunk",
    "sliced",
    "touch",
    "verify_file",
]
