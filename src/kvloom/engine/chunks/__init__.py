"""Chunks: passages computed alone, whose KV prompts can have at any position.

passage.py       texts or token ids as passages
stored.py        where their KV is
splitting.py     documents as texts of passages
computing.py     passages as requests
chunks.py        ``Chunks``: adding, finding, exporting, importing, for who drives an engine
async_chunks.py  ``AsyncChunks``: the same beside serving
exchange.py      pages to kvchunk files and back: paging.py the codecs, turning.py RoPE
"""

from __future__ import annotations

from kvloom.engine.chunks.async_chunks import AsyncChunks
from kvloom.engine.chunks.chunks import Chunks, Imported
from kvloom.engine.chunks.computing import Added, computed_alone
from kvloom.engine.chunks.passage import Passage, passage_of
from kvloom.engine.chunks.splitting import split
from kvloom.engine.chunks.stored import StoredChunk, find

__all__ = [
    "Added",
    "AsyncChunks",
    "Chunks",
    "Imported",
    "Passage",
    "StoredChunk",
    "computed_alone",
    "find",
    "passage_of",
    "split",
]
