"""Forward: run a batch through the model and fetch the logits that somebody wants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kvloom.arrays import Floats
from kvloom.attend.base import Attend
from kvloom.attend.observe import Observers
from kvloom.attend.plan import Plan
from kvloom.engine.kv import Watched
from kvloom.engine.layer_pass import LayerPass
from kvloom.engine.planner import Planner
from kvloom.engine.sampling import Logits, NextScores
from kvloom.engine.scheduler.batch import Batch
from kvloom.engine.scheduler.state import Chunk
from kvloom.model.base import Indices, Model, Scores

_LOGIT_ROWS = 128
"""Prompt logits are fetched so many rows at a time: a row of a large vocabulary is a megabyte."""


@dataclass(frozen=True, slots=True)
class Forward:
    """The model and the memory that it reads and writes."""

    model: Model
    attend: Attend

    def next_scores(self, batch: Batch) -> list[tuple[Chunk, NextScores]]:
        """For every chunk that leaves nothing missing of its sequence: the scores of its last row.

        The KV of all rows is written when this returns, and all that is watched has been seen.
        """
        if batch.hidden:
            return self.scores_after(batch, self.hidden(batch))
        scores = self.model.scores(batch.tokens_T, batch.plan, self.attend, batch.wanted_R, batch.observers)
        return _by_chunk([batch.chunks[n] for n in batch.closing], scores)

    def hidden(self, batch: Batch) -> Floats:
        """The same for a batch in which prompt scores are wanted: hidden states of the wanted rows, (R, width)."""
        if batch.hidden:
            return self.layer_by_layer(batch.tokens_T, batch.plan, batch.observers, batch.hidden)[batch.wanted_R]
        return self.model.forward(batch.tokens_T, batch.plan, self.attend, batch.wanted_R, batch.observers)

    def scores_after(self, batch: Batch, hidden_RC: Floats) -> list[tuple[Chunk, NextScores]]:
        """``next_scores`` from hidden states."""
        if not batch.closing:
            return []
        logits_RV = self.model.logits(hidden_RC[[batch.wanted_starts[n + 1] - 1 for n in batch.closing]])
        return _by_chunk([batch.chunks[n] for n in batch.closing], Scores.of(logits_RV))

    def layer_by_layer(self, tokens_T: Indices, plan: Plan, observers: Observers, watched: Sequence[Watched]) -> Floats:
        """As ``Model.forward``, for those who look at what goes into each layer."""
        x_TC = self.model.embed(tokens_T)
        for layer in range(len(plan.layers)):
            for watch, positions, rows in watched:
                watch.see(layer, positions, x_TC[rows])
            x_TC = self.model.run(x_TC, plan, self.attend, range(layer, layer + 1), None, observers)
        return x_TC

    def layer_pass(self, work: LayerPass, planner: Planner) -> Floats:
        """See ``LayerPass.run``."""
        return work.run(self.model, self.attend, planner)

    def scores_of(self, x_RC: Floats) -> list[NextScores]:
        """What comes after rows, from their hidden states as they come out of the last layer."""
        scores = Scores.of(self.model.logits(x_RC))
        return list(map(NextScores, scores.logits_RV, scores.argmax_R))

    def prompt_logits(self, batch: Batch, hidden_RC: Floats, n: int) -> Iterator[tuple[int, Logits]]:
        """(position, logits) of every row of chunk ``n``, a few rows in memory at a time."""
        first, last = batch.wanted_starts[n], batch.wanted_starts[n + 1]
        positions = [p for span in batch.chunks[n].spans for p in span.positions()]
        for start in range(first, last, _LOGIT_ROWS):
            rows = self.model.logits(hidden_RC[start : min(last, start + _LOGIT_ROWS)])
            yield from zip(positions[start - first :], rows, strict=False)

    def prompt_states(self, batch: Batch, hidden_RC: Floats, n: int) -> tuple[int, Floats]:
        """The first position of chunk ``n``, and the hidden states of all its rows after the final norm."""
        first, last = batch.wanted_starts[n], batch.wanted_starts[n + 1]
        return batch.chunks[n].spans.spans[0].start, self.model.normed(hidden_RC[first:last])


def _by_chunk(chunks: list[Chunk], scores: Scores) -> list[tuple[Chunk, NextScores]]:
    return list(zip(chunks, map(NextScores, scores.logits_RV, scores.argmax_R), strict=True))
