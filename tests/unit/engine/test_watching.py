"""What scorers see of a context: attention, queries and hidden states, whatever the steps and the cache are like."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pytest

import tiny
from kvloom.arrays import Floats
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.params import SamplingParams
from kvloom.errors import InternalError, ParamsError, RequestError
from kvloom.eval.single import SingleSequence
from kvloom.policy.compression import Compression
from kvloom.policy.compression.base import Entries, Kept, LayerContext
from kvloom.policy.compression.needs import (
    Attention,
    Cached,
    Every,
    Given,
    Hidden,
    Inside,
    Last,
    Need,
    Queries,
    Repeated,
    Said,
    Spread,
)

CONTEXT = 75
PROMPT = tiny.random_prompt(CONTEXT + 9, 4)
PARAMS = SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True)
MODELS = {"dense": (None, None), "hybrid": (24, None, 24), "windows-only": (20, 20), "itself": (1, None)}


@dataclass(frozen=True)
class Looking:
    """A scorer that remembers what it was shown, and keeps all entries alike."""

    needs: frozenset[Need]
    name: str = "looking"
    shown: list[LayerContext] = field(default_factory=list)

    def scores(self, context: LayerContext) -> Floats:
        self.shown.append(context)
        return np.zeros(context.shape, np.float32)


def streams(layer: int, x_RC: Floats) -> Floats:
    return x_RC[:, : 3 + layer]


def looking(
    rows: Inside, reduce: Literal["sum", "max"] = "sum", digest: Callable[[int, Floats], Floats] = streams
) -> Looking:
    return Looking(
        frozenset({Attention(rows, reduce), Queries(Spread(1000)), Hidden(lambda weights: digest), Cached.KEYS})
    )


def ask(engine: tiny.Engine, scorer: Looking, name: str = "x") -> tiny.Done:
    cache = CacheParams(compression=Compression(scorer, 0.5), compress_after=CONTEXT)
    return tiny.run(engine, {name: PROMPT}, PARAMS, cache=cache)[name]


def attention(seen: LayerContext, rows: Inside, reduce: str) -> Floats:
    """The oracle: a softmax in float64 of all queries over all keys of a layer that has no window."""
    assert seen.measured.q_RHD is not None
    heads, dim = seen.k_SKD.shape[1:]
    q_KGRD = seen.measured.q_RHD.astype(np.float64).reshape(CONTEXT, heads, -1, dim).transpose(1, 2, 0, 3)
    logits_KGRS = q_KGRD @ seen.k_SKD.astype(np.float64).transpose(1, 2, 0)[:, None] * dim**-0.5
    logits_KGRS[..., ~np.tri(CONTEXT, dtype=bool)] = -np.inf
    p_KGRS = np.exp(logits_KGRS - logits_KGRS.max(-1, keepdims=True))
    p_KGRS /= p_KGRS.sum(-1, keepdims=True)
    counted = [position for span in rows.of(CONTEXT) for position in span.positions()]
    p_KGRS = p_KGRS[:, :, counted]
    return (p_KGRS.sum((1, 2)) if reduce == "sum" else p_KGRS.max((1, 2))).astype(np.float32)


@pytest.mark.parametrize("reduce", ["sum", "max"])
@pytest.mark.parametrize("rows", [Every(), Last(1), Last(20), Spread(32, first=4)])
def test_attention_is_the_softmax_of_queries_over_keys(rows: Inside, reduce: Literal["sum", "max"]) -> None:
    scorer = looking(rows, reduce)
    ask(tiny.make_engine((24, None, 24), step_tokens=32), scorer)
    assert [seen.layer for seen in scorer.shown] == [1, 0, 2]
    full, *windowed = scorer.shown
    assert full.queries.group == tiny.HEADS // tiny.KV_HEADS
    assert full.measured.attention_KS is not None
    assert np.allclose(full.measured.attention_KS, attention(full, rows, reduce), atol=1e-5)
    for seen in windowed:
        assert seen.measured.attention_KS is not None
        assert seen.measured.attention_KS.shape == seen.shape == (tiny.KV_HEADS, 23)


@pytest.mark.parametrize("windows", MODELS.values(), ids=MODELS)
def test_steps_and_the_cache_change_nothing_that_is_seen(windows: tuple[int | None, ...]) -> None:
    wanted = looking(Last(30))
    sequence = SingleSequence(tiny.make_engine(windows), len(PROMPT))
    sequence.watch(Compression(wanted, 0.5), PROMPT[:CONTEXT])
    sequence.append(PROMPT[:CONTEXT])
    sequence.compress(Compression(wanted, 0.5))
    for step in (7, 16, 64):
        engine = tiny.make_engine(windows, step_tokens=step)
        tiny.run(engine, {"first": PROMPT}, PARAMS)
        for name in ("a", "b"):
            scorer = looking(Last(30))
            ask(engine, scorer, name)
            for seen, one in zip(scorer.shown, wanted.shown, strict=True):
                assert np.array_equal(seen.positions_S, one.positions_S)
                for mine, other in (
                    (seen.k_SKD, one.k_SKD),
                    (seen.measured.attention_KS, one.measured.attention_KS),
                    (seen.measured.q_RHD, one.measured.q_RHD),
                    (seen.measured.hidden_SN, one.measured.hidden_SN),
                ):
                    assert mine is not None
                    assert np.array_equal(mine, other)


def test_hidden_states_are_what_goes_into_the_layer() -> None:
    scorer, engine = looking(Last(1)), tiny.make_engine()
    ask(engine, scorer)
    embedded_TC = engine.model.embed(np.array(PROMPT[:CONTEXT]))
    first, second = (seen.measured.hidden_SN for seen in scorer.shown)
    assert first is not None
    assert second is not None
    assert np.array_equal(first, embedded_TC[:, :3])
    assert second.shape == (CONTEXT, 4)


def broken(layer: int, x_RC: Floats) -> Floats:
    raise ZeroDivisionError("a digest of the user's own")


def greedy(layer: int, x_RC: Floats) -> Floats:
    x_RC[:] = 0
    return x_RC


@pytest.mark.parametrize(
    ("digest", "kind", "fault"),
    [
        (broken, InternalError, "ZeroDivisionError: a digest of the user's own"),
        (greedy, InternalError, "read-only"),
        (lambda layer, x_RC: x_RC[:-1], RequestError, "must make a row of each"),
    ],
)
def test_a_digest_that_fails_ends_its_request_and_no_other(
    digest: Callable[[int, Floats], Floats], kind: type, fault: str
) -> None:
    engine, other = tiny.make_engine(), tiny.random_prompt(70, 2)
    compression = Compression(looking(Last(1), digest=digest), 0.5)
    engine.submit("bad", PROMPT, PARAMS, cache=CacheParams(compression=compression, compress_after=CONTEXT))
    engine.submit("good", other, PARAMS)
    done = tiny.drain(engine, ["bad", "good"])
    error = done["bad"].updates[-1].error
    assert isinstance(error, kind)
    assert fault in str(error)
    assert done["good"].tokens == tiny.run(tiny.make_engine(), {"x": other}, PARAMS)["x"].tokens


def test_the_output_projection_is_the_models_own() -> None:
    engine, scorer = tiny.make_engine((24, None, 24)), Looking(frozenset({Given.OUTPUT}))
    ask(engine, scorer)
    heads = np.random.default_rng(0).normal(size=(engine.model.query_heads, tiny.DIM))
    assert sorted(seen.layer for seen in scorer.shown) == [0, 1, 2]
    for seen in scorer.shown:
        assert seen.output_HDC is not None
        written = np.einsum("hd,hdc->c", heads, seen.output_HDC)
        assert np.allclose(written, engine.model.blocks[seen.layer][3].numpy() @ heads.reshape(-1), atol=1e-4)
    without = looking(Last(4))
    ask(engine, without, "y")
    assert all(seen.output_HDC is None for seen in without.shown)


@pytest.mark.parametrize("windows", MODELS.values(), ids=MODELS)
def test_structure_is_what_the_tokenizer_calls_punctuation(windows: tuple[int | None, ...]) -> None:
    """Where a layer has a window, what was there before is what was in the context."""
    engine, scorer = tiny.make_engine(windows), Looking(frozenset({Given.STRUCTURE}))
    ask(engine, scorer)
    symbols = " " + "".join(set(string.punctuation) - set("$+<=>^`|~"))
    text = "".join(map(engine.tokenizer.token_text, PROMPT[:CONTEXT]))
    again = [letter in symbols and letter in text[:n] for n, letter in enumerate(text)]
    assert 3 < sum(again) < CONTEXT / 2
    for seen in scorer.shown:
        assert seen.structure_S is not None
        assert seen.structure_S.tolist() == [again[n] for n in seen.positions_S]


def test_what_nobody_watched_is_refused() -> None:
    sequence = SingleSequence(tiny.make_engine(), 40)
    sequence.append(PROMPT[:20])
    with pytest.raises(InternalError, match="not all rows of layer 0 that a method needs were seen"):
        sequence.compress(Compression(looking(Last(1)), 0.5))


def test_one_need_of_a_kind() -> None:
    with pytest.raises(ParamsError, match="needs more than one Attention"):
        Compression(Looking(frozenset({Attention(), Attention(Last(1))})), 0.5)


@dataclass(frozen=True)
class Muting:
    """Stores all entries, and gives those at even positions no weight."""

    name: str = "muting"
    rest: str | None = None
    needs: frozenset[Need] = frozenset({Cached.KEYS, Cached.VALUES})

    def stored(self, context: LayerContext, kept: Sequence[Kept]) -> list[Entries]:
        bias_S = np.where(context.positions_S % 2 == 0, -200.0, 0.0).astype(np.float32)
        changed_S = np.ones(len(bias_S), np.bool_)
        heads = range(len(kept))
        return [Entries(context.k_SKD[:, head], context.v_SKD[:, head], bias_S, changed_S) for head in heads]


@dataclass(frozen=True)
class Odd(Looking):
    def scores(self, context: LayerContext) -> Floats:
        return np.broadcast_to(context.positions_S % 2, context.shape).astype(np.float32)


def test_what_a_compactor_stores_is_what_is_attended() -> None:
    """An entry without weight is as good as one that is gone."""
    params, found = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True, logprobs=0), []
    even = (CONTEXT + 1) // 2 / CONTEXT
    for compression in (Compression(looking(Last(1)), 0.0, compactor=Muting()), Compression(Odd(frozenset()), even)):
        cache = CacheParams(compression=compression, compress_after=CONTEXT)
        done = tiny.run(tiny.make_engine(), {"x": PROMPT}, params, cache=cache)["x"]
        scores = [score for update in done.updates for delta in update.deltas for score in delta.logprobs or ()]
        found.append([next(iter(each.values())).logprob for each in scores])
    assert len(found[0]) == 4
    assert found[0] == pytest.approx(found[1], abs=1e-4)


# -- a context that is repeated ------------------------------------------------------------------------------------


def repeating(chunk: int) -> Looking:
    return Looking(frozenset({Attention(Repeated(chunk), "max")}))


def test_a_repetition_is_seen_as_if_it_had_been_in_the_prompt() -> None:
    scorer, longer = repeating(CONTEXT), Looking(frozenset({Attention(Last(CONTEXT), "max")}))
    ask(tiny.make_engine(step_tokens=16), scorer)
    twice = [*PROMPT[:CONTEXT], *PROMPT[:CONTEXT]]
    cache = CacheParams(compression=Compression(longer, 0.5), compress_after=len(twice))
    tiny.run(tiny.make_engine(), {"x": [*twice, 1]}, PARAMS, cache=cache)
    for seen, one in zip(scorer.shown, longer.shown, strict=True):
        assert seen.measured.attention_KS is not None
        assert one.measured.attention_KS is not None
        assert np.array_equal(seen.measured.attention_KS, one.measured.attention_KS[:, :CONTEXT])


def test_what_is_repeated_leaves_no_trace() -> None:
    """All entries stay: tokens, scores of the prompt and continuations are those of anybody."""
    params = SamplingParams(n=3, seed=5, max_tokens=4, ignore_eos=True, logprobs=0, prompt_logprobs=0)
    engines = [tiny.make_engine(max_seqs=2), tiny.make_engine(max_seqs=2)]
    compression = Compression(repeating(30), 0.0)
    plain = tiny.run(engines[0], {"x": PROMPT}, params)["x"]
    moved = tiny.run(engines[1], {"x": PROMPT}, params, cache=CacheParams(compression=compression))["x"]
    assert moved.tokens == plain.tokens
    assert moved.updates[-1].prompt_logprobs == plain.updates[-1].prompt_logprobs
    assert moved.updates[-1].metrics.misses[-1].span.stop == len(PROMPT)


def test_no_room_to_repeat_is_said_at_once() -> None:
    engine = tiny.make_engine(max_model_len=len(PROMPT) + 2)
    with pytest.raises(RequestError, match="`looking` reads on after a context of 75 tokens; there is room for 11"):
        ask(engine, repeating(CONTEXT))
    assert not engine.has_work


# -- what the model goes on with by itself -------------------------------------------------------------------------

AHEAD = 6


def saying(count: int = AHEAD) -> Looking:
    return Looking(frozenset({Attention(Said(count))}))


@pytest.mark.parametrize("step", [16, 64])
@pytest.mark.parametrize("windows", MODELS.values(), ids=MODELS)
def test_what_the_model_says_is_seen_as_if_it_had_been_in_the_prompt(
    windows: tuple[int | None, ...], step: int
) -> None:
    scorer, longer = saying(), Looking(frozenset({Attention(Last(AHEAD))}))
    greedily = SamplingParams(temperature=0.0, max_tokens=AHEAD, ignore_eos=True)
    answer = tiny.run(tiny.make_engine(windows), {"x": PROMPT[:CONTEXT]}, greedily)["x"]
    engine = tiny.make_engine(windows, step_tokens=step)
    tiny.run(engine, {"first": PROMPT}, PARAMS)  # all but the last row of the context is cached
    ask(engine, scorer)
    told = [*PROMPT[:CONTEXT], *answer.tokens[0]]
    cache = CacheParams(compression=Compression(longer, 0.5), compress_after=len(told))
    tiny.run(tiny.make_engine(windows), {"x": [*told, 1]}, PARAMS, cache=cache)
    compared = 0
    for seen, one in zip(scorer.shown, longer.shown, strict=True):
        assert seen.measured.attention_KS is not None
        assert one.measured.attention_KS is not None
        by_position = dict(zip(one.positions_S.tolist(), one.measured.attention_KS.T.tolist(), strict=False))
        for position, found in zip(seen.positions_S.tolist(), seen.measured.attention_KS.T.tolist(), strict=False):
            if position in by_position:
                assert found == by_position[position]
                compared += 1
    assert compared > 10 or windows == (1, None)


@pytest.mark.parametrize("windows", MODELS.values(), ids=MODELS)
def test_a_sequence_by_itself_sees_what_the_engine_sees(windows: tuple[int | None, ...]) -> None:
    scorer, single = saying(), saying()
    ask(tiny.make_engine(windows), scorer)
    sequence = SingleSequence(tiny.make_engine(windows), len(PROMPT))
    sequence.watch(Compression(single, 0.5), PROMPT[:CONTEXT])
    sequence.append(PROMPT[:CONTEXT])
    sequence.compress(Compression(single, 0.5))
    assert len(scorer.shown) == len(single.shown) == len(windows)
    for seen, one in zip(scorer.shown, single.shown, strict=True):
        assert np.array_equal(seen.measured.attention_KS, one.measured.attention_KS)


def test_what_the_model_says_leaves_no_trace() -> None:
    """All entries stay: tokens, scores of the prompt and continuations are those of anybody. Beside others too."""
    params = SamplingParams(n=3, seed=5, max_tokens=4, ignore_eos=True, logprobs=0, prompt_logprobs=0)
    engines = [tiny.make_engine(max_seqs=2), tiny.make_engine(max_seqs=2)]
    cache = CacheParams(compression=Compression(saying(), 0.0), compress_after=CONTEXT)
    plain = tiny.run(engines[0], {"x": PROMPT}, params)["x"]
    moved = tiny.run(engines[1], {"x": PROMPT}, params, cache=cache)["x"]
    assert moved.tokens == plain.tokens
    assert moved.updates[-1].prompt_logprobs == plain.updates[-1].prompt_logprobs
    other = tiny.random_prompt(70, 2)
    engine = tiny.make_engine()
    for name in ("x", "y"):
        engine.submit(name, PROMPT, PARAMS, cache=cache)
    engine.submit("other", other, PARAMS)
    done = tiny.drain(engine, ["x", "y", "other"])
    assert done["x"].tokens == done["y"].tokens == tiny.run(tiny.make_engine(), {"x": PROMPT}, PARAMS)["x"].tokens
    assert done["other"].tokens == tiny.run(tiny.make_engine(), {"x": other}, PARAMS)["x"].tokens


def test_no_room_to_go_on_is_said_at_once() -> None:
    engine = tiny.make_engine(max_model_len=len(PROMPT) + 2)
    with pytest.raises(RequestError, match="`looking` reads on after a context of 75 tokens; there is room for 11"):
        ask(engine, saying(12))
    assert not engine.has_work
    ask(engine, saying(11))
