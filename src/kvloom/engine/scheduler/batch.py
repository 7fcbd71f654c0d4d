"""Form the batch: from chunks to the flat rows that the model runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kvloom.attend.builder import Rows, build_plan
from kvloom.attend.plan import LayerPlan, Plan
from kvloom.engine.scheduler.state import Chunk
from kvloom.model.base import Indices


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One step's work: rows of all chunks, one after another, in ``tokens_T`` and ``plan``.

    Somebody wants the logits of rows ``wanted_R``; those of chunk c are ``wanted_starts[c] : wanted_starts[c + 1]`` of
    them: its last row when it closes its sequence's gaps, all of its rows when the prompt's scores are asked for.
    """

    chunks: tuple[Chunk, ...]
    tokens_T: Indices
    plan: Plan
    wanted_R: Indices
    wanted_starts: tuple[int, ...]


def form_batch(chunks: list[Chunk], layers: tuple[LayerPlan, ...]) -> Batch:
    """Flatten the chunks; ``layers`` says what each model layer reads."""
    rows: list[Rows] = []
    tokens: list[int] = []
    wanted: list[int] = []
    wanted_starts = [0]
    for chunk in chunks:
        known, first = chunk.sequence.tokens, len(tokens)
        for span in chunk.spans:
            tokens += known[span.start : span.stop]
        rows.append(Rows(chunk.spans, chunk.sequence.tables))
        if chunk.sequence.wants_prompt_scores:
            wanted += range(first, len(tokens))
        elif chunk.closes:
            wanted.append(len(tokens) - 1)
        wanted_starts.append(len(wanted))
    tokens_T, wanted_R = np.array(tokens, np.int64), np.array(wanted, np.int64)
    return Batch(tuple(chunks), tokens_T, build_plan(rows, layers), wanted_R, tuple(wanted_starts))
