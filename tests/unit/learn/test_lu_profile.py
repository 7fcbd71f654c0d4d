"""Profiles for LU-KV: utilities are those of texts read in full, and what is learned serves requests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tiny
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.params import SamplingParams
from kvloom.errors import EvalError
from kvloom.eval.single import SingleSequence
from kvloom.eval.subject import Subject
from kvloom.learn.lu import SHARES_G, learn_profile
from kvloom.learn.texts import Passage
from kvloom.policy.compression import Compression, compression_of
from kvloom.policy.compression.base import Floats, LayerContext
from kvloom.policy.compression.controls import KeepAll
from kvloom.policy.compression.knorm import Knorm
from kvloom.policy.compression.needs import Attention, Cached, Last
from kvloom.policy.compression.profile import Profile, write_profile

CONTEXT = 70


def passage(seed: int) -> Passage:
    after = (tiny.random_prompt(9, seed + 100), tiny.random_prompt(12, seed + 200))
    return Passage(tuple(tiny.random_prompt(CONTEXT, seed)), tuple(map(tuple, after)))


PASSAGES = {64: [passage(0), passage(1)], 128: [passage(2)]}


def subject(windows: tuple[int | None, ...] = (None, None)) -> Subject:
    return Subject("tiny", tiny.CharTokenizer(), tiny.make_engine(windows))


@pytest.fixture(scope="module")
def learned() -> Profile:
    return learn_profile(subject(), Knorm(), PASSAGES)


class Seeing(KeepAll):
    """Attention of the last rows, by query head, with values and keys."""

    def __init__(self, rows: int) -> None:
        object.__setattr__(self, "needs", frozenset({Attention(Last(rows), "max", by_query_head=True), *Cached}))


def utilities(made: Passage) -> dict[int, Floats]:
    """The oracle: every text after the context read as part of one prompt, its attention times the norm of what is
    written, which is worked out entry by entry.
    """
    found: dict[int, Floats] = {}
    for after in made.after:
        compression, prompt = Compression(Seeing(len(after)), 0.0), [*made.context, *after]
        sequence = SingleSequence(tiny.make_engine(), len(prompt))
        sequence.watch(compression, prompt)
        sequence.append(prompt)
        for context in sequence.contexts(compression):
            norms_HS = _norms(context)
            assert context.measured.attention_KS is not None
            weighted_HS = context.measured.attention_KS[:, :CONTEXT] * norms_HS
            most_KS = weighted_HS.reshape(tiny.KV_HEADS, -1, CONTEXT).max(axis=1)
            found[context.layer] = np.maximum(found.get(context.layer, 0.0), most_KS)
    return found


def _norms(context: LayerContext) -> Floats:
    model = tiny.TinyModel()
    w_CHD = model.blocks[context.layer][3].numpy().reshape(tiny.WIDTH, tiny.HEADS, tiny.DIM)
    group = tiny.HEADS // tiny.KV_HEADS
    norms_HS = np.array(
        [
            [np.linalg.norm(w_CHD[:, head] @ context.v_SKD[s, head // group]) for s in range(CONTEXT)]
            for head in range(tiny.HEADS)
        ]
    )
    return norms_HS / norms_HS.sum()


def test_losses_are_the_utility_of_what_is_not_kept(learned: Profile) -> None:
    assert learned.lengths == (64, 128)
    assert learned.losses_BLKG.shape == (2, 2, tiny.KV_HEADS, len(SHARES_G))
    (made,) = PASSAGES[128]
    sequence = SingleSequence(tiny.make_engine(), CONTEXT)
    sequence.append(made.context)
    for context in sequence.contexts(Compression(Knorm(), 0.0)):
        useful_KS, order_KS = utilities(made)[context.layer], np.argsort(-Knorm().scores(context), kind="stable")
        for head in range(tiny.KV_HEADS):
            for share, loss in zip(SHARES_G, learned.losses_BLKG[1, context.layer, head], strict=True):
                if share * CONTEXT == round(share * CONTEXT):
                    gone = order_KS[head, round(share * CONTEXT) :]
                    assert loss == pytest.approx(useful_KS[head, gone].sum(), rel=1e-4, abs=1e-7)


def test_a_profile_serves_requests_to_the_model_and_the_scorer_it_was_made_for(
    learned: Profile, tmp_path: Path
) -> None:
    path = tmp_path / "lu.json"
    write_profile(learned, path)
    params = SamplingParams(max_tokens=3, ignore_eos=True)

    def ask(method: str, windows: tuple[int | None, ...] = (None, None)) -> tiny.Done:
        cache = CacheParams(compression=compression_of(method, 0.6, allocator="lukv", profile=path))
        return tiny.run(tiny.make_engine(windows), {"x": tiny.random_prompt(90, 7)}, params, cache=cache)["x"]

    assert len(ask("knorm").tokens[0]) == 3
    assert "the profile is for scorer 'knorm'" in str(ask("keydiff").updates[-1].error)
    assert "the profile is for weights" in str(ask("knorm", (24, None)).updates[-1].error)


def test_nothing_to_learn_from_is_said() -> None:
    with pytest.raises(EvalError, match="nothing to learn from"):
        learn_profile(subject(), Knorm(), {64: []})
