"""Fidelity: nothing changes nothing, damage is seen by every figure, and the figures are the textbook's."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvloom.arrays import Floats
from kvloom.errors import ConfigError, EvalError
from kvloom.eval.fidelity import Passage, compare_logits, fidelity, fidelity_at, noise_floor, summarize
from kvloom.eval.policy import EXACT, parse_policy
from kvloom.eval.recall_texts import recall_passages
from tiny import random_prompt
from toy_tasks import tiny_subject

WINDOWS = {"dense": (None, None), "hybrid": (None, 24)}


@pytest.mark.parametrize("windows", WINDOWS.values(), ids=WINDOWS)
def test_the_exact_cache_against_itself_is_exactly_zero(windows) -> None:
    found = fidelity(tiny_subject(windows), EXACT, [random_prompt(120, 1), random_prompt(75, 2)])
    assert found.tokens == 59 + 36  # the first token after the context is given, not predicted
    assert found.kl.mean == found.max_kl == 0.0
    assert found.top1_agreement.mean == found.bytes_ratio == 1.0
    assert found.perplexity_exact == found.perplexity_other


@pytest.mark.parametrize("windows", WINDOWS.values(), ids=WINDOWS)
def test_the_floor_is_what_moving_everything_changes(windows) -> None:
    subject, texts = tiny_subject(windows), [random_prompt(120, 1), random_prompt(75, 2)]
    passages = [Passage(text, len(text) // 2) for text in texts]
    floor, whole = noise_floor(subject, passages), fidelity_at(subject, parse_policy("keep_all"), passages)
    assert (floor.tokens, floor.kl, floor.top1_agreement) == (whole.tokens, whole.kl, whole.top1_agreement)
    assert floor.kl.mean < 1e-6
    assert whole.bytes_ratio != 1.0  # it was really moved: labels cost, and a window is cut to what is seen


@pytest.mark.parametrize("windows", WINDOWS.values(), ids=WINDOWS)
def test_damage_is_seen_by_every_figure(windows) -> None:
    """On texts that the model itself writes: there the exact cache is better by construction."""
    subject = tiny_subject(windows)
    texts = [own_text(subject, seed) for seed in range(4)]
    mild, hard = (fidelity(subject, parse_policy(f"random:ratio={drop}"), texts, 0.7) for drop in (0.1, 0.5))
    assert 0 < mild.kl.mean < hard.kl.mean
    assert mild.kl.mean < mild.max_kl
    assert hard.kl.low > 0.005
    assert 1 > mild.top1_agreement.mean > hard.top1_agreement.mean
    assert hard.perplexity_other > hard.perplexity_exact
    assert 0.5 < hard.bytes_ratio < mild.bytes_ratio


def own_text(subject, seed: int) -> list[int]:
    from kvloom.engine.params import SamplingParams
    from kvloom.eval.drive import run_one

    prompt = random_prompt(130, seed)
    return (
        prompt
        + run_one(subject.engine, prompt, SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True)).tokens[0]
    )


rows = st.integers(1, 6)


@given(rows, st.integers(2, 9), st.integers(0, 10_000))
def test_figures_are_those_of_the_definition(count: int, vocab: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, count, vocab)) * 3
    targets = rng.integers(0, vocab, count).tolist()
    found = compare_logits(blocks(a, 2), blocks(b, 2), targets)
    for n in range(count):
        p, q = (np.exp(x[n]) / np.exp(x[n]).sum() for x in (a, b))
        assert found.kl[n] == pytest.approx(sum(p * np.log(p / q)), abs=1e-5)
        assert found.nll_exact[n] == pytest.approx(-math.log(p[targets[n]]), rel=1e-5)
        assert found.nll_other[n] == pytest.approx(-math.log(q[targets[n]]), rel=1e-5)
        assert found.agrees[n] == (p.argmax() == q.argmax())
    assert summarize([found]).perplexity_other == pytest.approx(math.exp(found.nll_other.mean()))


def distributions(sure: np.ndarray, targets: np.ndarray, rng: np.random.Generator, vocab: int = 20) -> np.ndarray:
    """Logits of a model that gives every target ``sure`` nats more than any other token, about."""
    logits = rng.normal(scale=0.05, size=(len(targets), vocab))
    logits[np.arange(len(targets)), targets] += sure
    return logits


def test_who_keeps_nothing_looks_good_on_all_tokens_and_bad_on_those_that_need_the_context() -> None:
    """A text as texts are: nine tokens of ten follow from what is near, the tenth from the context."""
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 20, 400)
    needs = np.arange(400) % 10 == 9
    exact = distributions(np.full(400, 6.0), targets, rng)
    blind = np.where(needs[:, None], rng.normal(scale=0.05, size=exact.shape), exact)
    hazy = distributions(np.full(400, 3.0), targets, rng)  # lost a little everywhere

    def found(other: np.ndarray):
        wanted = targets.tolist()
        return summarize([compare_logits(blocks(exact, 7), blocks(other, 7), wanted, blocks(blind, 64))])

    nothing, damaged, itself = found(blind), found(hazy), found(exact)
    assert nothing.kl.mean < damaged.kl.mean
    assert nothing.recall.tokens == damaged.recall.tokens == itself.recall.tokens == needs.sum()
    assert nothing.recall.kl.mean > 2 * damaged.recall.kl.mean
    assert nothing.recall.kept.mean == pytest.approx(0.0, abs=1e-6)
    assert itself.recall.kept.mean == 1.0
    assert 0.2 < damaged.recall.kept.low <= damaged.recall.kept.mean <= damaged.recall.kept.high < 0.9
    assert nothing.near.tokens == 32


def test_no_token_needs_the_context_where_it_changes_nothing() -> None:
    logits = np.random.default_rng(2).normal(size=(40, 9))
    scores = compare_logits(blocks(logits, 8), blocks(logits, 8), [1] * 40, blocks(logits, 8))
    assert summarize([scores]).recall is None
    assert summarize([compare_logits(blocks(logits, 8), blocks(logits, 8), [1] * 40)]).recall is None  # nobody looked


def test_made_texts_tell_every_fact_once_before_and_once_after_the_cut() -> None:
    subject = tiny_subject()
    for passage in recall_passages(subject, 2000, 3):
        assert 0.98 * 2000 <= len(passage.tokens) <= 2000
        text = subject.tokenizer.decode(passage.tokens)
        before, after = text[: passage.cut], text[passage.cut :]
        facts = re.split(r"(?<=\.) ", after.partition(": ")[2])
        assert len(facts) >= 3
        assert all(before.count(fact) == after.count(fact) == 1 for fact in facts)
        assert len(before.rpartition(facts[-1])[2]) > 0
        assert max(before.index(fact) + len(fact) for fact in facts) < passage.cut - 100  # prose behind the last
        assert [before.index(fact) for fact in facts] != sorted(before.index(fact) for fact in facts)
    first, again = (recall_passages(subject, 2000, 1, seed) for seed in (0, 0))
    assert first[0].tokens == again[0].tokens != recall_passages(subject, 2000, 1, 1)[0].tokens
    with pytest.raises(ConfigError, match="do not fit 200 tokens"):
        recall_passages(subject, 200, 1)


def blocks(values: np.ndarray, rows: int) -> list[Floats]:
    return [values[first : first + rows].astype(np.float32) for first in range(0, len(values), rows)]


def test_what_cannot_be_compared_is_refused() -> None:
    subject = tiny_subject()
    with pytest.raises(EvalError, match="2 tokens to score, but logits for 1"):
        compare_logits(blocks(np.zeros((1, 3)), 1), blocks(np.zeros((1, 3)), 1), [0, 1])
    for texts, fault in (([], "no text"), ([[1, 2]], "text 0 has 2 tokens"), ([[1] * 600], "text 0 has 600 tokens")):
        with pytest.raises(EvalError, match=fault):
            fidelity(subject, EXACT, texts)
    with pytest.raises(EvalError, match="between 0 and 1"):
        fidelity(subject, EXACT, [[1] * 20], 1.0)
