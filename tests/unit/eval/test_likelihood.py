"""Log-likelihoods against the definition, and the adapter against lm-evaluation-harness where that is installed."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import pytest
import torch

from bench.full_cache import full_logits
from kvloom.engine.params import SamplingParams
from kvloom.errors import EvalError
from kvloom.eval.drive import complete, run_one
from kvloom.eval.likelihood import likelihoods
from tiny import CharTokenizer, make_engine, random_prompt
from toy_tasks import tiny_subject


def reference(model, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    tokens = context + continuation
    logits = full_logits(model, tokens, [len(tokens)])[len(context) - 1 : -1].double()
    wanted = torch.tensor(continuation)
    logprob = torch.log_softmax(logits, -1).gather(1, wanted[:, None]).sum()
    return float(logprob), bool((logits.argmax(-1) == wanted).all())


@pytest.mark.parametrize("windows", [(None, None), (None, 24)])
@pytest.mark.parametrize("length", [1, 2, 40])
def test_likelihoods_are_those_of_the_definition(windows, length: int) -> None:
    engine, context = make_engine(windows), random_prompt(length, 1)
    greedy = run_one(engine, context, SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)).tokens[0]
    continuations = [[5], random_prompt(9, 2), greedy]
    for found, continuation in zip(likelihoods(engine, context, continuations), continuations, strict=True):
        logprob, is_greedy = reference(engine.model, context, continuation)
        assert found.logprob == pytest.approx(logprob, rel=1e-5)
        assert found.greedy == is_greedy
    assert likelihoods(engine, context, continuations)[2].greedy


def test_what_cannot_be_scored_is_refused() -> None:
    engine = make_engine()
    for context, continuations in (([], [[1]]), ([1], [[]]), ([1], [[1], []])):
        with pytest.raises(EvalError, match="at least one token"):
            likelihoods(engine, context, continuations)
    with pytest.raises(EvalError, match="513 tokens to score, but the model's context holds 512"):
        likelihoods(engine, [1] * 500, [[1] * 14])


def test_completions_do_not_depend_on_how_many_run_at_once() -> None:
    prompts = [random_prompt(20 + 7 * n, n) for n in range(5)]
    params = [SamplingParams(temperature=0.0, max_tokens=3 + n) for n in range(5)]
    one, many = (complete(make_engine(), prompts, params, in_flight) for in_flight in (1, 4))
    assert one == many
    assert len(one[4]) > 3


@dataclass
class Request:
    args: tuple


@pytest.fixture
def lm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("lm_eval")
        from kvloom.eval.lm_eval_adapter import KvloomLM
    return KvloomLM(tiny_subject())


def test_the_adapter_scores_pairs_in_their_order(lm) -> None:
    encode, model = CharTokenizer().encode, tiny_subject().engine.model
    pairs = [("a b c ", "yes"), ("other", " no"), ("a b c ", "not at all"), ("", "alone")]
    found = lm.loglikelihood([Request(pair) for pair in pairs])
    for (context, continuation), (logprob, greedy) in zip(pairs, found, strict=True):
        kept = context.rstrip(" ")
        ids = encode(kept) or [0]  # an end of text stands before an empty context
        want = reference(model, ids, encode(context[len(kept) :] + continuation))
        assert logprob == pytest.approx(want[0], rel=1e-5)
        assert greedy == want[1]


def test_nothing_odd_ends_a_run(lm) -> None:
    found = lm.loglikelihood([Request(pair) for pair in (("a", ""), ("", ""), ("   ", "b"), ("a", "b" * 700))])
    assert found[:2] == [(0.0, True)] * 2
    assert all(logprob < 0.0 for logprob, _ in found[2:])
    assert lm.generate_until([Request(("", {"until": ["", "\n"], "max_gen_toks": 2}))]) != [""]


def test_the_adapter_rolls_over_long_texts(lm) -> None:
    text = "".join(chr(32 + token) for token in random_prompt(1200, 3))
    (found,) = lm.loglikelihood_rolling([Request((text,))])
    tokens = [0, *CharTokenizer().encode(text)]
    model, total, limit = tiny_subject().engine.model, 0.0, 511
    for first in range(1, len(tokens), limit):
        window = tokens[first : first + limit]
        start = max(0, first + len(window) - limit - 1)
        total += reference(model, tokens[start:first], window)[0]
    assert found == pytest.approx(total, rel=1e-5)


def test_the_adapter_generates_until_a_stop(lm) -> None:
    (whole,) = lm.generate_until([Request(("some text", {"until": [], "max_gen_toks": 20}))])
    (cut,) = lm.generate_until([Request(("some text", {"until": [whole[5]], "max_gen_toks": 20}))])
    assert cut == whole[: whole.index(whole[5])]
    (long,) = lm.generate_until([Request(("x" * 700, {"max_gen_toks": 12}))])  # the beginning is lost
    assert 0 < len(long) <= 12


def test_the_harness_finds_and_drives_the_adapter(lm) -> None:
    from lm_eval.api.registry import get_model

    assert get_model("kvloom") is type(lm)
    assert lm.rank == 0
    assert lm.apply_chat_template([{"role": "user", "content": "hi"}]) == "user: hi "
