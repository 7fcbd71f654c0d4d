"""Small versions of the claims on real weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.claims.identical_tokens import first_divergence, greedy
from bench.drive import ModelEngines, load
from bench.peers.dequantized import model_from_gguf
from bench.text import long_text, prompts
from kvloom.engine.params import SamplingParams
from kvloom.eval.answering import EngineAnswers
from kvloom.eval.drive import run_one
from kvloom.eval.policy import EXACT, parse_policy
from kvloom.eval.records import RunStore
from kvloom.eval.run import Work, run, settings_of
from kvloom.eval.subject import subject_of
from kvloom.eval.tasks import TASKS
from kvloom.eval.trust.situations import SITUATIONS, Setting


# Preemption needs long answers; the tiny models and the claim itself cover it.
@pytest.mark.parametrize("name", [name for name in SITUATIONS if name != "after-preemption"])
def test_hit_equals_miss_on_a_dense_model(name: str, smollm2: ModelEngines) -> None:
    setting = Setting(smollm2.make, smollm2.encode(long_text()), 64, 64, new_tokens=4, roomy="128MiB")
    assert SITUATIONS[name](setting).holds


@pytest.mark.parametrize("name", ["page-aligned", "hole-in-the-middle", "from-a-faulty-disk"])
def test_hit_equals_miss_past_the_window_of_a_hybrid(name: str, gemma3: ModelEngines) -> None:
    setting = Setting(gemma3.make, gemma3.encode(long_text()), 544, 448, new_tokens=4, roomy="128MiB")
    assert SITUATIONS[name](setting).holds


def test_the_first_tokens_are_those_of_transformers(smollm2: ModelEngines) -> None:
    count, manifest = 12, smollm2.loaded.manifest
    model = model_from_gguf(manifest.weight_path(0))
    engine = load(manifest.name, "float32", "float32").make("64MiB")
    params = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True)
    for index, text in enumerate(prompts()[:3]):
        reference = greedy(model, smollm2.encode(text), count)
        divergence = first_divergence(index, run_one(engine, reference.prompt, params).tokens[0], reference)
        assert divergence is None or divergence.excused


def test_damage_loses_needles_and_the_exact_cache_finds_them(smollm2: ModelEngines, tmp_path: Path) -> None:
    subject = subject_of(smollm2.loaded)
    work = Work(tasks=(TASKS["niah_single_1"],), lengths=(384,), count=3, seed=0)
    scores = {}
    for policy in (EXACT, parse_policy("random:ratio=0.5")):
        settings = settings_of(subject, policy, seed=0)
        with RunStore(tmp_path / policy.name, settings) as store:
            run(work, subject, EngineAnswers(subject, 3, policy), store)
            scores[policy.name] = [row.score for row in store.rows.values()]
    assert sum(scores["exact"]) >= 2
    assert sum(scores["random"]) < sum(scores["exact"])
