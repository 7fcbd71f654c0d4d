"""Form the batch: from chunks to the flat rows that the model runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from kvloom.attend.builder import Rows, build_plan
from kvloom.attend.plan import LayerPlan, Plan
from kvloom.engine.scheduler.state import Chunk


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One step's work. Chunk c's rows are ``row_starts[c] : row_starts[c + 1]`` of ``tokens_T`` and ``plan``."""

    chunks: tuple[Chunk, ...]
    tokens_T: torch.Tensor
    plan: Plan
    row_starts: tuple[int, ...]


def form_batch(chunks: list[Chunk], layers: tuple[LayerPlan, ...]) -> Batch:
    """Flatten the chunks; ``layers`` says what each model layer reads."""
    rows, tokens, starts = [], [], [0]
    for chunk in chunks:
        known = chunk.sequence.tokens
        positions = np.concatenate([np.arange(span.start, span.stop, dtype=np.int32) for span in chunk.spans])
        tokens.append(np.concatenate([np.array(known[span.start : span.stop], np.int64) for span in chunk.spans]))
        rows.append(Rows(positions, chunk.sequence.tables))
        starts.append(starts[-1] + len(positions))
    return Batch(tuple(chunks), torch.from_numpy(np.concatenate(tokens)), build_plan(rows, layers), tuple(starts))
