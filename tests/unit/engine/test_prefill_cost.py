"""What the engine knows of the cost of prefill: measured before, or learned from its own steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tiny
from kvloom.config import CacheConfig, EngineConfig
from kvloom.engine import build as building
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.cost_profile import (
    CostProfile,
    MeasuredOn,
    Quality,
    profile_path,
    read_profile,
    stored_profile,
    write_profile,
)
from kvloom.engine.engine import Engine
from kvloom.engine.params import SamplingParams
from kvloom.engine.retention import shape_cost
from kvloom.errors import DataFileError
from kvloom.policy.compression import compression_of
from kvloom.policy.cost import PrefillCost
from kvloom.policy.cost_estimate import CostEstimate
from kvloom.policy.tier_cost import TierCost, TierCosts
from timed import Clock, TimedModel

COST = PrefillCost(start_s=2e-3, token_s=1e-3, position_s=4e-6)
HERE = MeasuredOn(weights="ab", kv_dtype="int16", activations="int8", threads=2, cpu="x", isa="avx2", kvloom="1")
TIERS = TierCosts(TierCost(1e10, 1e-6), TierCost(1e9, 1e-3), TierCost(2e9, 1e-4))
PROFILE = CostProfile(
    measured_on=HERE,
    prefill=COST,
    fit=Quality(0.999, 0.01),
    paper_fit=Quality(0.99, 0.02),
    tiers=TIERS,
    steps=40,
    longest=8192,
)
ONE = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True)


def timed(cost: PrefillCost = COST) -> tuple[Engine, TimedModel]:
    clock = Clock()
    model = TimedModel(cost, clock)
    return tiny.make_engine(model=model, clock=clock), model


def ask(engine: Engine, count: int, params: SamplingParams = ONE, **options: Any) -> None:
    for n in range(count):
        tiny.run(engine, {"x": tiny.random_prompt(60 + 67 * n % 260, n)}, params, **options)


class TestEstimate:
    def test_nothing_is_said_before_a_prompt_was_computed(self) -> None:
        engine, _ = timed()
        assert engine.stats().prefill_cost is None

    def test_steps_with_prompts_alone_teach_it(self) -> None:
        engine, model = timed()
        ask(engine, 40)
        found = engine.stats().prefill_cost
        assert found is not None
        for new, position in ((64, 0), (64, 200), (64, 400)):
            spent = COST.start_s + COST.block(position, new)
            assert found.start_s + found.block(position, new) == pytest.approx(spent, rel=0.1)
        model.cost = PrefillCost(*(3 * each for each in dataclasses.astuple(COST)))
        engine.reset_cache()
        ask(engine, 80)
        assert engine.stats().prefill_cost.block(200, 64) == pytest.approx(3 * COST.block(200, 64), rel=0.15)

    def test_steps_that_answer_do_not(self) -> None:
        engine, _ = timed()
        tiny.run(engine, {"x": tiny.random_prompt(64, 1)}, ONE)
        assert engine.prefill_cost.steps == 1
        tiny.run(engine, {"y": tiny.random_prompt(64, 2)}, dataclasses.replace(ONE, max_tokens=9))
        assert engine.prefill_cost.steps == 2

    @pytest.mark.parametrize(
        ("params", "cache"),
        [
            (dataclasses.replace(ONE, prompt_logprobs=1), None),
            (ONE, CacheParams(compression=compression_of("snapkv", 0.5))),
        ],
        ids=["scores of the prompt", "watched"],
    )
    def test_steps_that_do_more_do_not(self, params: SamplingParams, cache: CacheParams | None) -> None:
        engine, _ = timed()
        tiny.run(engine, {"x": tiny.random_prompt(100, 1)}, params, cache=cache)
        assert engine.prefill_cost.steps == 0


class TestFile:
    def test_a_profile_is_read_as_it_was_written(self, tmp_path: Path) -> None:
        path = tmp_path / "deep" / "costs.json"
        write_profile(PROFILE, path)
        write_profile(PROFILE, path)
        assert read_profile(path, HERE) == PROFILE
        assert [each.name for each in path.parent.iterdir()] == ["costs.json"]

    def test_it_is_kept_where_models_are(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KVLOOM_HOME", str(tmp_path))
        assert stored_profile(HERE) is None
        write_profile(PROFILE, profile_path(HERE))
        assert stored_profile(HERE) == PROFILE
        assert profile_path(HERE).parent == tmp_path / "costs"
        assert stored_profile(dataclasses.replace(HERE, threads=3)) is None

    @pytest.mark.parametrize("name", [each.name for each in dataclasses.fields(MeasuredOn)])
    def test_one_of_something_else_is_refused_and_both_are_named(self, tmp_path: Path, name: str) -> None:
        write_profile(PROFILE, tmp_path / "costs.json")
        other = dataclasses.replace(HERE, **{name: 77 if name == "threads" else "another"})
        assert profile_path(other) != profile_path(HERE)
        with pytest.raises(DataFileError, match="was measured on something else") as caught:
            read_profile(tmp_path / "costs.json", other)
        assert f"{name} {getattr(HERE, name)!r}, not {getattr(other, name)!r}" in str(caught.value)
        assert "kvloom profile cost" in (caught.value.hint or "")

    @pytest.mark.parametrize(
        ("damage", "fault"),
        [
            (lambda text: "", "is no profile of costs"),
            (lambda text: text[: len(text) // 2], "is no profile of costs"),
            (lambda text: "[" * 100_000, "is no profile of costs"),
            (lambda text: "3", "does not say `kvloom-cost-profile`"),
            (lambda text: text.replace("kvloom-cost-profile", "another"), "does not say `kvloom-cost-profile`"),
            (lambda text: text.replace('"version": 1', '"version": 2'), "is of version 2, this reads 1"),
            (lambda text: text.replace('"token_s": 0.001', '"token_s": 0'), "tokens that cost nothing"),
            (lambda text: text.replace('"start_s": 0.002', '"start_s": -1'), "negative"),
            (lambda text: text.replace('"token_s": 0.001', '"token_s": NaN'), "is no profile of costs"),
            (lambda text: text.replace('"token_s": 0.001', '"token_s": "x"'), "is no profile of costs"),
            (lambda text: text.replace('"latency_s": 0.001', '"latency_s": -1'), "negative latency"),
            (lambda text: text.replace('"steps"', '"stops"'), "is no profile of costs"),
        ],
    )
    def test_a_damaged_one_is_refused(self, tmp_path: Path, damage: Callable[[str], str], fault: str) -> None:
        path = tmp_path / "costs.json"
        write_profile(PROFILE, path)
        before = path.read_text()
        path.write_text(damage(before))
        assert path.read_text() != before
        with pytest.raises(DataFileError, match=fault) as caught:
            read_profile(path, HERE)
        assert (caught.value.hint or "").startswith("remove it, and measure again: kvloom profile cost")

    def test_one_that_cannot_be_written_or_read_is_an_error_of_ours(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        with pytest.raises(DataFileError, match="cannot be written"):
            write_profile(PROFILE, tmp_path / "file" / "costs.json")
        with pytest.raises(DataFileError, match="cannot be read"):
            read_profile(tmp_path / "nowhere.json", HERE)


def test_an_engine_begins_with_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of these weights with these settings, and not of others."""
    monkeypatch.setenv("KVLOOM_HOME", str(tmp_path))
    manifest = SimpleNamespace(name="tiny", text=SimpleNamespace(sampling={}))
    monkeypatch.setattr(building, "resolve", lambda name: manifest)
    monkeypatch.setattr(building, "load_tokenizer", lambda manifest: tiny.CharTokenizer())
    monkeypatch.setattr(building, "load_model", lambda *args: tiny.TinyModel())
    config = EngineConfig(model="tiny", threads=1, cache=CacheConfig(kv_bytes="4MiB", slab_bytes=2**16))
    here = MeasuredOn.here(tiny.TinyModel().weights_id, config)
    write_profile(dataclasses.replace(PROFILE, measured_on=here), profile_path(here))
    shape = shape_cost(tiny.TinyModel())
    unmeasured = CostEstimate(shape=shape)
    assert building.build(config).engine.prefill_cost == CostEstimate(COST, shape)
    assert building.build(dataclasses.replace(config, activations="float32")).engine.prefill_cost == unmeasured
    profile_path(here).write_text("{}")
    with pytest.raises(DataFileError, match="is no profile of costs"):
        building.build(config)
