"""One sequence driven by hand, outside of the scheduler: for scores of every position, and for compacted contexts.

It computes what the engine computes, bit for bit: the same model, plans, page formats and kernels, over an arena of
its own. KV is accounted for by a ledger.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from kvloom.arrays import Floats
from kvloom.attend.builder import Rows, build_plan
from kvloom.attend.lists import HeadLists
from kvloom.engine.engine import Engine
from kvloom.errors import EvalError
from kvloom.eval.compact import Compactor, head_format
from kvloom.eval.policy import KeepPolicy
from kvloom.memory.arena import EXTENT_METADATA_BYTES, Arena, fitting_slab_bytes, page_stride, slab_cost
from kvloom.memory.format import PAGE_TOKENS, PageFormat
from kvloom.memory.index import Index
from kvloom.memory.ledger import Ledger
from kvloom.model.base import Logits
from kvloom.policy.retention.lru import LeastRecentlyUsed
from kvloom.segment import Span, SpanSet

_OWNER = "single"
_LOGIT_VALUES = 2**21
"""Logits are made so many values at a time: a row of a large vocabulary is a megabyte."""


class SingleSequence:
    """Append tokens, thin out what is there, go back to a mark.

    Parameters
    ----------
    engine:
        Whose model, layout and attend to use. Its memory is not touched.
    capacity:
        Tokens that the sequence may have.
    """

    def __init__(self, engine: Engine, capacity: int) -> None:
        self._model, self._layout = engine.model, engine.layout
        arena = _arena(engine, capacity)
        self._attend = engine.attend_factory(arena)
        self._ledger = Ledger(arena, Index(len(self._layout.formats), max_ghosts=1), LeastRecentlyUsed())
        self._tables = self._layout.new_tables()
        self._kept: tuple[tuple[HeadLists, ...], ...] = ()
        self._mark: int | None = None
        self._capacity = capacity
        self.length = 0
        self.peak_bytes = 0

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

    def mark(self) -> None:
        """Remember this length for ``rewind``."""
        self._mark = self.length

    def rewind(self) -> None:
        """Forget all tokens after the mark."""
        assert self._mark is not None, "there is no mark"
        last = -(-self._mark // PAGE_TOKENS)
        for table in self._tables:
            gone = [table.take(index) for index, _ in list(table.pages()) if index >= last]
            self._ledger.release(gone, _OWNER)
        self.length = self._mark

    def retain(self, policy: KeepPolicy) -> None:
        """Let a policy thin out all whole pages so far; the unfinished page at the end stays. Once per sequence."""
        if self._kept:
            raise EvalError("a context can be thinned out once only")
        self._trim(self.length)
        compactor, stop = Compactor(self._ledger, _OWNER), self.length // PAGE_TOKENS
        kept = []
        for table in self._tables:
            kept.append((compactor.compact(table, stop, policy),))
            self._note()  # for a moment both forms are there
            gone = [table.take(index) for index, _ in list(table.pages()) if index < stop]
            self._ledger.release(gone, _OWNER)
        self._kept = tuple(kept)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _forward(self, tokens: Sequence[int]) -> Iterator[Floats]:
        if not tokens or self.length + len(tokens) > self._capacity:
            raise EvalError(f"{len(tokens)} tokens after {self.length} do not fit a capacity of {self._capacity}")
        step = self._layout.step_tokens
        for start in range(0, len(tokens), step):
            chunk = list(tokens[start : start + step])
            span = Span(self.length, self.length + len(chunk))
            self._secure(span)
            plan = build_plan([Rows(SpanSet((span,)), self._tables, self._kept)], self._layout.layers)
            hidden_TC = self._model.forward(np.array(chunk, np.int64), plan, self._attend)
            for table in self._tables:
                table.mark(span)
            self.length = span.stop
            self._note()
            self._trim(self.length if self._mark is None else self._mark)
            yield hidden_TC

    def _secure(self, span: Span) -> None:
        for table in self._tables:
            for index in range(span.start // PAGE_TOKENS, -(-span.stop // PAGE_TOKENS)):
                if table.get(index) is None:
                    page = self._ledger.allocate(table.format, _OWNER)
                    assert page is not None, "the arena is made for the capacity"
                    table.put(index, page, filled=0, writable=True)

    def _trim(self, next_position: int) -> None:
        """Give back pages that no row from ``next_position`` on sees through a window, as the engine does."""
        for table in self._tables:
            if table.window is not None:
                low = max(0, next_position - table.window + 1) // PAGE_TOKENS
                gone = [table.take(index) for index, _ in list(table.pages()) if index < low]
                self._ledger.release(gone, _OWNER)

    def _note(self) -> None:
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)


def _arena(engine: Engine, capacity: int) -> Arena:
    """Room for all of a sequence twice: as dense pages, and as pages of single heads while it is compacted."""
    dense = engine.layout.formats
    pages = -(-capacity // PAGE_TOKENS) + 1
    wanted: list[tuple[PageFormat, int]] = [(fmt, pages) for fmt in dense]
    wanted += [(head_format(fmt), pages * fmt.heads * len(fmt.layers)) for fmt in dense]
    slab = fitting_slab_bytes([fmt for fmt, _ in wanted], engine.config.cache.slab_bytes)
    budget = len(dense) * EXTENT_METADATA_BYTES
    for fmt, count in wanted:
        budget += (-(-count // (slab // page_stride(fmt))) + 1) * slab_cost(fmt, slab)
    return Arena(budget, slab)
