"""Lists by head in a sequence of the engine itself, beside ordinary ones: they hold all that its pages held."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from kvloom.engine.kv import Replacement, SequenceKv, Watch
from kvloom.engine.outputs import RequestUpdate
from kvloom.engine.params import SamplingParams
from kvloom.policy.compression import compression_of
from subjects import SUBJECTS, Subject

GREEDY = SamplingParams(temperature=0.0, max_tokens=16, ignore_eos=True, logprobs=1)
MODELS = {"dense": (None, None), "hybrid": (24, None, 24)}
OLDER, LATER = "moved", "ordinary"


def move(engine: tiny.Engine, kv: SequenceKv) -> int:
    """All, but without windows the last entry, goes to pages of single heads. Returns how many positions."""
    stop = kv.accepted - all(table.window is None for table in kv.tables)
    compression = compression_of("keep_all")
    kv.watch = Watch(engine.model, compression.scorer.needs, stop)
    replacement = Replacement(kv, stop, compression)
    assert replacement.decide()
    assert replacement.carry_out()
    return kv.replaced


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
    engine, updates, moved_to = subject.make_engine(windows), [], 0
    engine.submit(OLDER, prompt, GREEDY)
    engine.submit(LATER, other, GREEDY)
    while engine.has_work:
        updates += engine.step()
        engine.check()
        if len(told(updates, OLDER)) == after and not moved_to:
            moved_to = move(engine, engine.requests[OLDER].sequences[0].kv)
            engine.check()
    assert moved_to >= 39, "nothing was moved"
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
