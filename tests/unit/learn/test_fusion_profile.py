"""Profiles for fusion: what is measured is what fused requests say, and it serves requests with a target."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import tiny
import tiny_decoder
from kvloom.cli import backend
from kvloom.cli.app import app
from kvloom.config import EngineConfig
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.params import SamplingParams
from kvloom.errors import EvalError, ParamsError
from kvloom.eval.dictated import exact_answer, heard
from kvloom.eval.subject import Subject
from kvloom.learn.fusion import RATIOS, learn_fusion, shuffled
from kvloom.learn.texts import Passage
from kvloom.policy.fusion import fusion_of, parse_fusion
from kvloom.policy.fusion.profile import Profile, read_profile, write_profile

SIZE = 30


def engine() -> tiny.Engine:
    return tiny.make_engine(model=tiny_decoder.decoder((None,) * 3), kv_bytes="16MiB")


def passage(seed: int) -> Passage:
    return Passage(tuple(tiny.random_prompt(100, seed)), (tuple(tiny.random_prompt(24, seed + 50)),))


@pytest.fixture(scope="module")
def learned() -> Profile:
    fusions = [parse_fusion("a3"), parse_fusion("epic:tokens=4")]
    return learn_fusion(engine(), fusions, [passage(0), passage(1)], SIZE)


def test_curves_fall_to_a_full_prefill(learned: Profile) -> None:
    assert set(learned.curves) == {"a3:check_layer=1", "epic:tokens=4"}
    for curve in learned.curves.values():
        assert curve.ratios == RATIOS
        assert (np.diff(curve.kl) <= 0).all()
    assert learned.curves["a3:check_layer=1"].kl[0] > 1e-3
    assert learned.curves["a3:check_layer=1"].kl[-1] < 1e-3


def test_it_is_what_requests_say(learned: Profile) -> None:
    """Without anything computed again, so that no chance is smoothed."""
    kls = []
    for seed in (0, 1):
        it, made = engine(), passage(seed)
        it.intake.worth = lambda cache, prompt_tokens: True
        tokens, documents = shuffled(made.context, SIZE, (), random.Random(f"fusion/{seed}"))
        after = made.after[0]
        prompt, words = [*tokens, *after[:16]], after[16:]
        params = SamplingParams(temperature=0.0, max_tokens=len(words), ignore_eos=True)
        way = CacheParams(fusion=replace(fusion_of("a3"), ratio=0.0), documents=documents)
        kls.append(heard(it, prompt, params, [way], exact_answer(it, prompt, params, words))[0].kl)
    assert learned.curves["a3:check_layer=1"].kl[0] == pytest.approx(float(np.mean(kls)))


def test_pieces_are_in_another_order_and_all_there() -> None:
    context = list(range(100))
    tokens, documents = shuffled(context, SIZE, (0, 1, 2, 3, 4), random.Random(1))
    assert shuffled(context[5:], SIZE, (0, 1, 2, 3, 4), random.Random(1)) == (tokens, documents)
    assert tokens[:5] == context[:5]
    assert sorted(tokens) == context
    assert tokens != context
    assert documents[0][0] == 5
    assert documents[-1][1] == 100
    for start, stop in documents:
        piece = tokens[start:stop]
        assert piece == list(range(piece[0], piece[0] + len(piece)))


def test_a_request_with_a_target_computes_what_the_profile_says(learned: Profile, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    write_profile(learned, path)
    curve = learned.curves["a3:check_layer=1"]
    target = (curve.kl[0] + curve.kl[-1]) / 2
    it = engine()
    it.intake.worth = lambda cache, prompt_tokens: True
    fusion = fusion_of("a3", target=target, profile=path)
    params = SamplingParams(temperature=0.0, max_tokens=2, ignore_eos=True)
    prompt, documents = tiny.random_prompt(100, 3), ((0, 40), (40, 90))
    done = tiny.run(it, {"it": prompt}, params, cache=CacheParams(fusion=fusion, documents=documents))["it"]
    told = done.updates[-1].metrics.fused
    assert told is not None
    assert told.selector == f"a3:ratio={curve.ratio_for(target):g},check_layer=1"
    assert told.repaired == int(90 * curve.ratio_for(target))


def test_without_a_profile_a_target_is_refused() -> None:
    it = engine()
    cache = CacheParams(fusion=fusion_of("a3", target=0.1), documents=((0, 40),))
    with pytest.raises(ParamsError, match="no profile ships"):
        it.submit("it", tiny.random_prompt(50, 3), SamplingParams(max_tokens=1), cache=cache)
    assert not it.has_work


def test_nothing_teaches_nothing() -> None:
    for fusions, passages in (
        ([], [passage(0)]),
        ([fusion_of("a3")], []),
        ([fusion_of("a3")], [Passage((1,), ((2,),))]),
    ):
        with pytest.raises(EvalError):
            learn_fusion(engine(), fusions, passages, SIZE)


def test_the_command_learns_from_texts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    subject = Subject("tiny", tiny.CharTokenizer(), engine())

    def open_subject(config: EngineConfig) -> Subject:
        return subject

    monkeypatch.setattr(backend, "open_subject", open_subject)
    text, output = tmp_path / "text.txt", tmp_path / "out.json"
    text.write_text("all that is told here is told twice, in other words. " * 12)
    given = [str(text), "--selector", "a3", "--length", "256", "--document", "100", "--contexts", "1"]
    result = CliRunner().invoke(app, ["profile", "fusion", "mock", *given, "--output", str(output)])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[1].startswith("a3:check_layer=1  ")
    assert set(read_profile(output).curves) == {"a3:check_layer=1"}
    assert f"a3:target=0.02,profile={output}" in result.stderr
    refused = CliRunner().invoke(app, ["profile", "fusion", "mock", "--document", "600"])
    assert refused.exit_code != 0
