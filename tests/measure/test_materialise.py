"""``bench.materialise`` on a tiny engine: what it counts is what happened."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import tiny
from bench.materialise import brought, materialised, passages_of
from dict_tier import DictTier
from kvloom import LLM
from kvloom.engine.defaults import SamplingDefaults
from kvloom.engine.tiers import tiers as tiers_of


def test_passages_are_computed_once_then_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers_of, "_LEAST_PATIENCE_S", 60.0)
    tier = DictTier()
    loaded = SimpleNamespace(
        engine=tiny.make_engine(tiers=[tier]), tokenizer=tiny.CharTokenizer(), defaults=SamplingDefaults()
    )
    monkeypatch.setattr("kvloom.engine.llm.build", lambda config: loaded)
    llm = LLM("tiny")
    passages = [tiny.random_prompt(64, seed) for seed in range(6)]
    added = materialised(llm, passages)
    assert (added["tokens"], added["missed_pages"]) == (6 * 64, 0)
    assert added["disk_bytes"] == sum(len(page.data) for page in tier.pages.values())
    reads = len(tier.reads)
    found = brought(llm, passages, rounds=3, together=2)
    assert len(tier.reads) > reads
    assert found["loaded_bytes"] > 0
    assert found["time_share"] > 0


def test_passages_differ_and_have_the_length_that_is_asked_for() -> None:
    class Words:
        def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
            return [hash(word) for word in text.split()]

    passages = passages_of(SimpleNamespace(get_tokenizer=Words), 20, 50)  # type: ignore[arg-type]
    assert {len(each) for each in passages} == {50}
    assert len({tuple(each) for each in passages}) == 20
