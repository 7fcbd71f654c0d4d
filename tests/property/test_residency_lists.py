"""Lists by head in a sequence of the engine itself, beside ordinary ones: they hold all that the pages held."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from kvloom.engine.kv import SequenceKv
from kvloom.engine.outputs import RequestUpdate
from kvloom.engine.params import SamplingParams
from kvloom.eval.compact import Compactor
from kvloom.eval.policy import Kept, LayerContext, Params
from kvloom.memory.format import PAGE_TOKENS
from subjects import SUBJECTS, Subject

GREEDY = SamplingParams(temperature=0.0, max_tokens=16, ignore_eos=True, logprobs=1)
MODELS = {"dense": (None, None), "hybrid": (24, None, 24)}
OLDER, LATER = "moved", "ordinary"


class KeepAll:
    name = "all"

    @property
    def params(self) -> Params:
        return {}

    def keep(self, context: LayerContext) -> Sequence[Kept]:
        return [np.arange(len(context.positions_S))] * context.k_SKD.shape[1]


def move(kv: SequenceKv) -> int:
    """All whole pages, in every group, go to pages of single heads. Returns how many."""
    stop = kv.accepted // PAGE_TOKENS
    for group in range(len(kv.tables)):
        lists, extents = Compactor(kv).compact(group, stop, KeepAll())
        kv.replace(group, stop, [lists], extents)
    return stop


def told(updates: list[RequestUpdate], request: str) -> list[tuple[int, float]]:
    """The tokens of a request, and their scores."""
    deltas = [delta for update in updates if update.request_id == request for delta in update.deltas]
    return [
        (token, scores[token].logprob)
        for delta in deltas
        for token, scores in zip(delta.token_ids, delta.logprobs or (), strict=True)
    ]


@pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS)
@settings(max_examples=12, deadline=None)
@given(
    name=st.sampled_from(sorted(MODELS)),
    length=st.integers(40, 110) | st.integers(250, 300),
    seed=st.integers(0, 10**6),
    after=st.integers(1, 8),
)
def test_moving_all_to_lists_changes_nothing(subject: Subject, name: str, length: int, seed: int, after: int) -> None:
    """Not one bit, where all that is not moved stays in the table."""
    one_table = subject is not SUBJECTS["whole step, default KV, lists by head"]
    windows, prompt, other = MODELS[name], tiny.random_prompt(length, seed), tiny.random_prompt(length, seed + 1)
    expected = {
        request: tiny.run(subject.make_engine(windows), {request: tokens}, GREEDY)[request]
        for request, tokens in ((OLDER, prompt), (LATER, other))
    }
    engine, updates, pages = subject.make_engine(windows), [], 0
    engine.submit(OLDER, prompt, GREEDY)
    engine.submit(LATER, other, GREEDY)
    while engine.has_work:
        updates += engine.step()
        engine.check()
        if len(told(updates, OLDER)) == after and not pages:
            pages = move(engine.requests[OLDER].sequences[0].kv)
            engine.check()
    assert pages >= 2, "nothing was moved"
    assert engine.stats().cache.held_pages == 0
    assert told(updates, LATER) == told(expected[LATER].updates, LATER), "company changes no bit"
    moved, stayed = told(updates, OLDER), told(expected[OLDER].updates, OLDER)
    if one_table:
        assert moved == stayed
    assert len(moved) == len(stayed) == GREEDY.max_tokens
    for (token, score), (other_token, other_score) in zip(moved, stayed, strict=True):  # another order of sums
        assert score == pytest.approx(other_score, abs=0.1)
        if token != other_token:
            break  # two were as likely as each other; what follows is another text
    again = tiny.run(engine, {"again": prompt}, GREEDY)["again"]
    assert again.tokens == expected[OLDER].tokens
    assert again.updates[-1].metrics.cached_tokens > 0
