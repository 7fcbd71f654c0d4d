"""One sequence driven by hand, outside of the scheduler: for scores of every position, and for compressed contexts.

It computes what the engine computes, bit for bit: the same model, plans, page formats and kernels. Its KV has the home
that every sequence's has (``engine.kv``), over an arena of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from kvloom.arrays import Floats
from kvloom.attend.builder import Rows, build_plan
from kvloom.config import default_threads
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.engine import Engine
from kvloom.engine.kv import PageNames, Replacement, SequenceKv, Stored, Watch, together
from kvloom.engine.step import Forward
from kvloom.errors import EvalError
from kvloom.memory.arena import EXTENT_METADATA_BYTES, Arena, fitting_slab_bytes, page_stride, slab_cost
from kvloom.memory.format import PAGE_TOKENS, PageFormat, head_format
from kvloom.memory.index import Index
from kvloom.memory.keys import root_key
from kvloom.memory.ledger import Ledger
from kvloom.model.base import Indices, Logits
from kvloom.policy.compression import Compression
from kvloom.policy.compression.base import LayerContext
from kvloom.policy.compression.needs import After, Attention
from kvloom.policy.retention.lru import LeastRecentlyUsed
from kvloom.segment import SpanSet

_LOGIT_VALUES = 2**21
"""Logits are made so many values at a time: a row of a large vocabulary is a megabyte."""


class SingleSequence:
    """Append tokens, compress what is there, go back to a mark.

    Parameters
    ----------
    engine:
        Whose model, layout and attend to use. Its memory is not touched.
    capacity:
        Tokens that the sequence may have.
    """

    def __init__(self, engine: Engine, capacity: int) -> None:
        self._model, self._layout, self._text_of = engine.model, engine.layout, engine.tokenizer.token_text
        self._threads = engine.config.threads or default_threads()
        arena = _arena(engine, capacity)
        self._attend = engine.attend_factory(arena)
        self._ledger = Ledger(arena, Index(len(self._layout.formats), max_ghosts=1), LeastRecentlyUsed())
        names = PageNames(root_key(weights=engine.model.weights_id, formats=self._layout.identity), [])
        cache = CacheParams(read=False, write=False)
        self._kv = SequenceKv(self._ledger, "single", names, self._layout.new_tables(), cache)
        self._mark: int | None = None
        self._repeated: Watch | None = None
        self._last_1C: Floats | None = None
        self._capacity = capacity
        self.peak_bytes = 0

    @property
    def length(self) -> int:
        return len(self._kv.tokens)

    @property
    def held_bytes(self) -> int:
        """Bytes of KV pages held right now, as the ledger counts them."""
        return self._ledger.held_bytes

    def append(self, tokens: Sequence[int]) -> Logits:
        """Compute tokens; logits (vocab_size,) after the last of them, float32."""
        for hidden_TC in self._forward(tokens):
            last_1C = hidden_TC[-1:]
        logits_V: Logits = self._model.logits(last_1C)[0]
        return logits_V

    def score(self, tokens: Sequence[int]) -> Iterator[Logits]:
        """Compute tokens, teacher-forced; logits (R, vocab_size) after each of them, in blocks of rows.

        How the blocks are cut depends on the number of tokens and on the model only.
        """
        rows = max(1, _LOGIT_VALUES // self._model.vocab_size)
        for hidden_TC in self._forward(tokens):
            for first in range(0, len(hidden_TC), rows):
                yield self._model.logits(hidden_TC[first : first + rows])

    def compute_again(self, spans: SpanSet) -> None:
        """Compute the KV of these positions once more, wherever they are, as a step would that lacks them."""
        kv = self._kv
        assert kv.reserve(spans), "the arena is made for the capacity"
        tokens = [token for span in spans for token in kv.tokens[span.start : span.stop]]
        self._run(np.array(tokens, np.int64), Rows(spans, kv.tables, kv.lists))

    def mark(self) -> None:
        """Remember this length for ``rewind``: what comes after it is never accepted."""
        self._mark = self.length

    def rewind(self) -> None:
        """Forget all tokens after the mark."""
        assert self._mark is not None, "there is no mark"
        self._kv.truncate(self._mark)

    def watch(self, compression: Compression, context: Sequence[int]) -> None:
        """See what a method needs to see of the first tokens while they are computed: to be called before they are."""
        room = self._capacity - len(context)
        self._kv.watch = Watch.of(self._model, compression, context, room, self._text_of)

    def watch_for(self, compressions: Sequence[Compression], context: Sequence[int]) -> Watch:
        """Compute a context in one pass that sees what these methods need to see, as far as ``together`` says."""
        needs = together([each.needs for each in compressions])
        after = next(
            (need.rows for need in needs if isinstance(need, Attention) and isinstance(need.rows, After)), None
        )
        room = self._capacity - len(context)
        repeats = None if after is None else after.texts(context, room)
        watch = Watch(self._model, needs, len(context), tuple(map(tuple, repeats or ())), text_of=self._text_of)
        self._kv.watch = watch
        self.append(context)
        self._repeat(watch)
        return watch

    def compress(self, compression: Compression) -> None:
        """Do to all tokens so far what the engine does to a request's context. Once per sequence.

        They must have been watched, unless what is stored is all that the method needs.
        """
        self._see(compression)
        replacement = Replacement(self._kv, self.length, compression, threads=self._threads)
        if not (replacement.decide() and replacement.carry_out()):
            raise EvalError("no room for compressed KV")

    def contexts(self, compression: Compression) -> Iterator[LayerContext]:
        """What a method sees of all tokens so far, layer by layer."""
        watch = self._see(compression)
        for group in range(len(self._kv.tables)):
            yield from Stored.below(self._kv, group, self.length).contexts(watch, compression.needs_to_choose)

    def check(self) -> None:
        """Audit the ledger against what the sequence holds. Raises InternalError."""
        self._ledger.check(list(self._kv.holdings()))

    # -- inside ----------------------------------------------------------------------------------------------------

    def _forward(self, tokens: Sequence[int]) -> Iterator[Floats]:
        if not tokens or self.length + len(tokens) > self._capacity:
            raise EvalError(f"{len(tokens)} tokens after {self.length} do not fit a capacity of {self._capacity}")
        kv, step = self._kv, self._layout.step_tokens
        for start in range(0, len(tokens), step):
            kv.append(*tokens[start : start + step])
            rows = Rows(kv.missing, kv.tables, kv.lists)
            assert kv.reserve(rows.spans), "the arena is made for the capacity"
            chunk_T = np.array(tokens[start : start + step], np.int64)
            hidden_TC = self._run(chunk_T, rows)
            kv.written(rows.spans)
            self._note()
            kv.publish(self.length if self._mark is None else self._mark)
            self._last_1C = hidden_TC[-1:]
            yield hidden_TC

    def _see(self, compression: Compression) -> Watch:
        if self._kv.replaced:
            raise EvalError("a context can be compressed only once")
        self._kv.publish(self.length)
        if self._kv.watch is None:
            self.watch(compression, self._kv.tokens)
        watch = self._kv.watch
        assert watch is not None
        self._repeat(watch)
        return watch

    def _repeat(self, watch: Watch) -> None:
        """Once: what is seen twice counts twice."""
        if self._repeated is watch:
            return
        self._repeated = watch
        for repeated in watch.repeats:
            self.mark()
            self.append(repeated)
            self.rewind()
        if watch.says:
            assert self._last_1C is not None, "a context is not empty"
            self._continue(watch.says, self._model.logits(self._last_1C)[0])

    def _continue(self, count: int, logits_V: Logits) -> None:
        """Go on with the likeliest tokens, and forget them."""
        self.mark()
        for _ in range(count):
            logits_V = self.append([int(logits_V.argmax())])
        self.rewind()

    def _run(self, tokens_T: Indices, rows: Rows) -> Floats:
        plan, watch = build_plan([rows], self._layout.layers), self._kv.watching
        if watch is None:
            return self._model.forward(tokens_T, plan, self._attend)
        observers = {0: watch.probes}
        if watch.hidden is None:
            return self._model.forward(tokens_T, plan, self._attend, observers=observers)
        watched = watch, rows.spans, slice(len(tokens_T))
        return Forward(self._model, self._attend).layer_by_layer(tokens_T, plan, observers, [watched])

    def _note(self) -> None:
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)


def _arena(engine: Engine, capacity: int) -> Arena:
    """Room for all of a sequence twice: as dense pages, and as pages of single heads while it is compressed."""
    dense = engine.layout.formats
    pages = -(-capacity // PAGE_TOKENS) + 1
    wanted: list[tuple[PageFormat, int]] = [(fmt, pages) for fmt in dense]
    wanted += [(head_format(fmt), pages * fmt.heads * len(fmt.layers)) for fmt in dense]
    slab = fitting_slab_bytes([fmt for fmt, _ in wanted], engine.config.cache.slab_bytes)
    budget = len(dense) * EXTENT_METADATA_BYTES
    for fmt, count in wanted:
        budget += (-(-count // (slab // page_stride(fmt))) + 1) * slab_cost(fmt, slab)
    return Arena(budget, slab)
