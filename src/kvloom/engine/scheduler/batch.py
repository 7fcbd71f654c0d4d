"""Form the batch: flatten chunks into the rows that the model computes."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvloom.attend.observe import Observers, Probe
from kvloom.attend.plan import Plan
from kvloom.engine.kv import SequenceKv, Watched
from kvloom.engine.planner import Planner
from kvloom.engine.scheduler.state import Chunk
from kvloom.model.base import Indices
from kvloom.segment import SpanSet


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The work of one step: the rows of all chunks, concatenated, in ``tokens_T`` and ``plan``.

    ``wanted_R``: rows whose logits are needed. Entries ``wanted_starts[c] : wanted_starts[c + 1]`` of it are those of
    chunk c: all of its rows if the request asks for prompt scores, otherwise its last row if the chunk is one of
    ``closing``: indices in ``chunks`` of those that complete their sequences, or a part after which a watch asks what
    the model says. ``observers``: the probes of observed chunks, by index. ``hidden``: who reads hidden states, of
    which positions, in which rows.
    """

    chunks: tuple[Chunk, ...]
    tokens_T: Indices
    plan: Plan
    wanted_R: Indices
    wanted_starts: tuple[int, ...]
    closing: tuple[int, ...]
    observers: Observers
    hidden: tuple[Watched, ...]


def form_batch(chunks: list[Chunk], planner: Planner) -> Batch:
    """Flatten the chunks."""
    rows: list[tuple[SequenceKv, SpanSet]] = []
    tokens, wanted = array("q"), array("q")
    wanted_starts, closing = [0], []
    observers: dict[int, Sequence[Probe]] = {}
    hidden: list[Watched] = []
    for n, chunk in enumerate(chunks):
        kv, first = chunk.kv, len(tokens)
        known = kv.tokens
        for span in chunk.spans:
            tokens.extend(known[span.start : span.stop])
        rows.append((kv, chunk.spans))
        watch = kv.watching
        if watch is not None:
            if probes := watch.probes:
                observers[n] = probes
            if watch.hidden is not None:
                hidden.append((watch, chunk.spans, slice(first, len(tokens))))
        closes = chunk.closes or chunk.asks
        if closes:
            closing.append(n)
        if chunk.wants_prompt_rows and not (kv.repeated and chunk.spans.spans[0].start >= kv.boundary):
            wanted.extend(range(first, len(tokens)))
        elif closes:
            wanted.append(len(tokens) - 1)
        wanted_starts.append(len(wanted))
    tokens_T, wanted_R = np.frombuffer(tokens, np.int64), np.frombuffer(wanted, np.int64)
    return Batch(
        chunks=tuple(chunks),
        tokens_T=tokens_T,
        plan=planner.plan(rows),
        wanted_R=wanted_R,
        wanted_starts=tuple(wanted_starts),
        closing=tuple(closing),
        observers=observers,
        hidden=tuple(hidden),
    )
