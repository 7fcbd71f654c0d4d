"""Statistics of attention in the engine on real weights, against dense attention in torch over the KV that it holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from bench.drive import ModelEngines
from in_torch import met_queries
from kvloom.attend.observe import Observation, Probe, QueryRecord, Reduce, Tally
from kvloom.engine.engine import Engine
from kvloom.engine.params import SamplingParams
from kvloom.engine.sampling import NextScores
from kvloom.engine.scheduler.batch import Batch
from kvloom.engine.scheduler.state import Chunk
from kvloom.engine.step import Forward
from kvloom.memory.cells import decoded
from kvloom.model.decoder import Decoder
from kvloom.segment import Span, SpanSet

LENGTH, WINDOW = 1200, 32
TOLERANCE = 1e-5
PARAMS = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)


@dataclass(frozen=True, slots=True)
class Watching(Forward):
    """Has the probes of some requests told, whatever else is in a step."""

    probes: dict[str, list[Probe]]
    after_each: Callable[[], None]
    """Called while all that a step has read is still there."""

    def next_scores(self, batch: Batch) -> list[tuple[Chunk, NextScores]]:
        asked = {n: self.probes.get(chunk.sequence.request.id, []) for n, chunk in enumerate(batch.chunks)}
        scores = Forward.next_scores(self, dataclasses.replace(batch, observers=asked))
        self.after_each()
        return scores


def answers(engine: Engine, prompts: dict[str, list[int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {name: [] for name in prompts}
    for name, prompt in prompts.items():
        engine.submit(name, prompt, PARAMS)
    while engine.has_work:
        for update in engine.step():
            for delta in update.deltas:
                found[update.request_id] += delta.token_ids
    return found


def stored_keys(engine: Engine, request_id: str, layer: int) -> torch.Tensor:
    """Keys (S, K, D) of a layer, as pages hold them; NaN where there are none (any more)."""
    plan = engine.layout.layers[layer]
    table = engine.requests[request_id].sequences[0].kv.tables[plan.group]
    fmt = table.format
    keys_SKD = torch.full((LENGTH, fmt.heads, fmt.k_dim), torch.nan)
    for index, page in table.pages():
        for head in range(fmt.heads):
            k_SD, _ = decoded(engine.ledger.arena.memory, fmt, page, plan.slot, head)
            first = index * fmt.tokens
            keys_SKD[first : first + fmt.tokens, head] = torch.from_numpy(k_SD)[: LENGTH - first]
    return keys_SKD


def dense_sums(engine: Engine, request_id: str, layer: int, q_RHD: torch.Tensor) -> torch.Tensor:
    """What the last rows give to all columns, by KV head (K, S): plain softmax in float64."""
    kv = engine.model.kv_map.layers[layer]
    keys_SKD = stored_keys(engine, request_id, layer).double()
    q_RHD = met_queries(engine.layout.formats[engine.layout.layers[layer].group], q_RHD).double()
    at, stands = torch.arange(LENGTH - WINDOW, LENGTH)[:, None], torch.arange(LENGTH)
    visible_RS = stands <= at
    if kv.window is not None:
        visible_RS &= stands > at - kv.window
    keys_SHD = keys_SKD.repeat_interleave(q_RHD.shape[1] // kv.heads, dim=1)
    scores_RHS = torch.einsum("rhd,shd->rhs", q_RHD, keys_SHD.nan_to_num(nan=0.0)) * kv.scale
    p_RHS = torch.softmax(scores_RHS.masked_fill(~visible_RS[:, None], -torch.inf), dim=-1)
    return p_RHS.sum(0).unflatten(0, (kv.heads, -1)).sum(1)


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_window_queries_in_the_engine_equal_dense_attention(name: str, request: pytest.FixtureRequest) -> None:
    """A prompt in several chunks, beside another request; the answers are those of an engine where nobody asks."""
    models: ModelEngines = request.getfixturevalue(name)
    random, engine = np.random.default_rng(5), models.make("128MiB")
    model = engine.model
    assert isinstance(model, Decoder)
    heads, kv_heads, layers = model.spec.heads, model.spec.kv_heads, range(len(model.blocks))
    last, columns = SpanSet((Span(LENGTH - WINDOW, LENGTH),)), Span(0, LENGTH)
    window = Tally.of(Observation(last, columns, Reduce.SUM), layers, kv_heads)
    queries = QueryRecord.of(last, layers, heads, model.spec.head_dim)
    all_rows = Tally.of(Observation(SpanSet.full(LENGTH), columns, Reduce.SUM), layers, kv_heads)
    compared: list[int] = []

    def compare() -> None:
        if compared or (window.counted_L < WINDOW).any():
            return
        for layer in layers:
            wanted_KS = dense_sums(engine, "watched", layer, torch.from_numpy(queries.queries_LRHD[layer]))
            found_KS = torch.from_numpy(window.result()[layer]).double()
            torch.testing.assert_close(found_KS, wanted_KS, atol=TOLERANCE, rtol=TOLERANCE)
            compared.append(layer)

    forward = engine.forward
    engine.forward = Watching(forward.model, forward.attend, {"watched": [window, queries, all_rows]}, compare)
    prompts = {"watched": random.integers(100, 5000, LENGTH).tolist(), "other": random.integers(100, 5000, 90).tolist()}
    assert answers(engine, prompts) == answers(models.make("128MiB"), prompts)
    assert compared == list(layers)
    assert all_rows.counted_L.tolist() == [LENGTH] * len(layers)
    np.testing.assert_allclose(all_rows.result().sum(axis=-1), LENGTH * heads // kv_heads, rtol=TOLERANCE)
