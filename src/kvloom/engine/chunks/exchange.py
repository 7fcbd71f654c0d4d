"""Chunks out of pages and into pages. On the engine's thread, between two steps.

What leaves is as exact as its pages. Keys are turned back to position 0 in float32, values keep their format. What
comes in goes to ordinary pages, found by content. Where a file says that its keys become the very bits that computing
gives in pages of this layout, it is kept as if it had been computed; otherwise under keys of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from kvloom.engine.cache_params import CacheParams, KeptAs
from kvloom.engine.chunks.paging import ByLayer, cells_of, decoded, encoded, same_entries
from kvloom.engine.chunks.passage import Passage, PassageTokenizer
from kvloom.engine.chunks.turning import turned, turned_back
from kvloom.engine.engine import Engine
from kvloom.engine.kv import PageNames, SequenceKv
from kvloom.engine.kv.passage import entries_in_ram
from kvloom.errors import RequestError
from kvloom.memory.cells import page_cells
from kvloom.memory.format import PageFormat
from kvloom.memory.index import Entry
from kvloom.memory.keys import namespace_of
from kvloom.memory.kvchunk import ChunkRefused, Identity, KvChunk, Refusal, Slice, Turn
from kvloom.memory.kvchunk.numbers import EXACT, rounded
from kvloom.model.base import Model
from kvloom.segment import PageId, SpanSet


@dataclass(frozen=True, slots=True)
class Exchange:
    """Between one engine and files."""

    engine: Engine
    tokenizer: PassageTokenizer

    def identity(self, passage: Passage, salt: str | None) -> Identity:
        """What a file of this passage is named by, if this engine writes it."""
        return Identity(
            model=self.engine.model.weights_id,
            tokenizer=self.tokenizer.identity,
            namespace=namespace_of(salt),
            tokens=passage.tokens,
            lead=passage.lead,
        )

    def take_out(self, passage: Passage, salt: str | None) -> KvChunk | None:
        """What was computed of a passage, as a chunk; None when it is not in RAM, all of it."""
        engine = self.engine
        root = engine.intake.root(CacheParams(salt=salt, kept_as="chunk"))
        found = entries_in_ram(engine.ledger.index, root, passage.tokens)
        entries = [entry for entry in found if entry is not None]
        if len(entries) < len(found):
            return None
        n, turns = len(passage.tokens), turns_of(engine.model)
        keys: dict[int, np.ndarray] = {}
        values: dict[int, np.ndarray] = {}
        same = True
        for group, fmt in enumerate(engine.layout.formats):
            cells = cells_of(engine.ledger.arena.memory, fmt, _pages(entries, group))
            k, v = decoded(fmt, cells, n)
            k = {layer: turned_back(x, _angles(turns, layer)) for layer, x in k.items()}
            same = same and same_entries(fmt, cells, encoded(fmt, _turned(turns, k), v), n)
            keys |= k
            values |= v
        v_dtype = EXACT.get(engine.config.cache.kv_dtype, "F32")
        exact = all(np.array_equal(rounded(x, v_dtype), x) for x in values.values())
        return KvChunk(
            identity=self.identity(passage, salt),
            turns=turns,
            keys=keys,
            values=values,
            k_dtype="F32",
            v_dtype=v_dtype if exact else "F32",
            same_bits=engine.layout.identity if same else "",
            created_by=_program(),
        )

    def put_in(self, chunk: KvChunk, salt: str | None) -> KeptAs:
        """Put a chunk into pages that nobody holds. Returns as what.

        Raises ChunkRefused for one that is not of this model or does not fit, RequestError when there is no room.
        """
        engine = self.engine
        self.check(chunk, salt)
        kept_as: KeptAs = "chunk" if chunk.same_bits == engine.layout.identity else "imported"
        cache = CacheParams(salt=salt, kept_as=kept_as)
        tokens = list(chunk.identity.tokens)
        names = PageNames(engine.intake.root(cache), tokens)
        owner = f"import/{chunk.identity.key}"
        kv = SequenceKv(engine.ledger, owner, names, engine.layout.new_tables(), cache)
        everything = SpanSet.full(len(tokens))
        try:
            if not kv.reserve(everything):
                raise RequestError(
                    f"no room for a chunk of {len(tokens)} tokens: {engine.layout.peak_bytes(len(tokens))} bytes of KV "
                    f"memory, of {engine.ledger.arena.budget_bytes}",
                    hint="raise kv_bytes",
                )
            self._fill(kv, chunk)
            kv.written(everything)
            kv.publish(len(tokens))
            kv.release()
        except BaseException:
            kv.abandon()
            raise
        engine.wake()
        return kept_as

    def check(self, chunk: KvChunk, salt: str | None) -> None:
        """Raises ChunkRefused when the chunk is not what this engine would have computed."""
        it, engine = chunk.identity, self.engine
        mine = self.identity(Passage(it.tokens, it.lead), salt)
        if it.model != mine.model or chunk.turns != turns_of(engine.model):
            raise ChunkRefused(Refusal.MODEL, f"KV of model {it.model[:12]}, this is {mine.model[:12]}")
        if it.tokenizer != mine.tokenizer:
            raise ChunkRefused(Refusal.TOKENIZER, "the passage was made tokens by another tokenizer")
        if it.namespace != mine.namespace:
            raise ChunkRefused(Refusal.NAMESPACE, "KV of another salt")
        if it.slice != Slice():
            raise ChunkRefused(Refusal.SLICE, f"part {it.slice.rank} of {it.slice.world} of the KV heads")
        lead = self.tokenizer.lead
        if it.lead != len(lead) or it.tokens[: it.lead] != lead or len(it.tokens) == it.lead:
            raise ChunkRefused(Refusal.TOKENS, "the passage begins with other start tokens than this model's texts")
        if max(it.tokens) >= engine.model.vocab_size or min(it.tokens) < 0 or len(it.tokens) > engine.max_len:
            raise ChunkRefused(Refusal.TOKENS, f"{len(it.tokens)} tokens, not all of which this engine could compute")
        if _shapes(chunk) != _shapes_of(engine.layout.formats, len(it.tokens)):
            raise ChunkRefused(Refusal.SHAPE, "layers, heads or dimensions are not this model's")
        if not all(np.isfinite(x).all() for of_layers in (chunk.keys, chunk.values) for x in of_layers.values()):
            raise ChunkRefused(Refusal.MALFORMED, "not all of its numbers are finite")

    def _fill(self, kv: SequenceKv, chunk: KvChunk) -> None:
        memory, turns = self.engine.ledger.arena.memory, chunk.turns
        for table in kv.tables:
            fmt = table.format
            keys = _turned(turns, {layer: chunk.keys[layer] for layer in fmt.layers})
            cells_PCB = encoded(fmt, keys, chunk.values)
            for (_, page), cells_CB in zip(table.pages(), cells_PCB, strict=True):
                page_cells(memory, fmt, page)[:] = cells_CB


def _program() -> str:
    return f"kvloom {version('kvloom')}"


def turns_of(model: Model) -> tuple[Turn, ...]:
    """How a model turns the keys of the layers that own KV, those that do it alike together."""
    alike: dict[tuple[float, ...], list[int]] = {}
    for layer, kv in enumerate(model.kv_map.layers):
        if kv.owner == layer:
            alike.setdefault(tuple(model.turn(layer).tolist()), []).append(layer)
    return tuple(Turn(tuple(layers), angles) for angles, layers in alike.items())


def _angles(turns: tuple[Turn, ...], layer: int) -> tuple[float, ...]:
    return next(turn.angles for turn in turns if layer in turn.layers)


def _turned(turns: tuple[Turn, ...], keys: ByLayer) -> ByLayer:
    return {layer: turned(k, _angles(turns, layer)) for layer, k in keys.items()}


def _pages(entries: list[Entry], group: int) -> list[PageId]:
    return [page for entry in entries if (page := entry.pages[group]) is not None]


def _shapes(chunk: KvChunk) -> dict[int, tuple[tuple[int, ...], tuple[int, ...]]]:
    return {layer: (k.shape, chunk.values[layer].shape) for layer, k in chunk.keys.items()}


def _shapes_of(formats: tuple[PageFormat, ...], n: int) -> dict[int, tuple[tuple[int, ...], tuple[int, ...]]]:
    return {layer: ((fmt.heads, n, fmt.k_dim), (fmt.heads, n, fmt.v_dim)) for fmt in formats for layer in fmt.layers}
