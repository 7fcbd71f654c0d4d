"""Flags, file and defaults make the same configs, in that order of precedence."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from kvloom.cli import main
from kvloom.cli.settings import HELP, IN_FILE, SETTINGS
from kvloom.config import CacheConfig, EngineConfig, EventsConfig, SchedulerConfig, ServerConfig, TierConfig

from .conftest import Backend


def opened(fake: Backend, *arguments: str) -> EngineConfig:
    with pytest.raises(SystemExit) as end:
        main(["run", "mock", "x", "--max-tokens", "1", *arguments])
    assert end.value.code == 0
    return fake.opened[-1]


def test_every_setting_comes_from_a_config() -> None:
    owned = {
        field.name
        for owner in (EngineConfig, CacheConfig, SchedulerConfig, TierConfig, ServerConfig, EventsConfig)
        for field in dataclasses.fields(owner)
    }
    assert set(SETTINGS) == owned - {"model", "cache", "scheduler", "tiers", "api_key", "admin_key"}
    assert sorted([*HELP, *IN_FILE]) == sorted(SETTINGS)


def test_defaults(fake: Backend) -> None:
    assert opened(fake) == EngineConfig(model="mock")


def test_flags(fake: Backend) -> None:
    flags = (
        "--kv-bytes 1GiB --kv-dtype bfloat16 --max-model-len 99 --threads 3 --seed 5 --activations float32 "
        "--step-tokens 7 --max-seqs 2 --max-token-latency-s 0.1 --generation-config none --retention lfu"
    )
    assert opened(fake, *flags.split()) == EngineConfig(
        model="mock",
        max_model_len=99,
        threads=3,
        seed=5,
        activations="float32",
        generation_config="none",
        cache=CacheConfig(kv_bytes="1GiB", kv_dtype="bfloat16", retention="lfu"),
        scheduler=SchedulerConfig(step_tokens=7, max_seqs=2, max_token_latency_s=0.1),
    )


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(fake: Backend, tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text('kv-bytes = "2GiB"\nmax_seqs = 9\nseed = 1\nslab_bytes = 131072\nport = 9000\n')
    config = opened(fake, "--config", str(path), "--seed", "4")
    assert config.cache == CacheConfig(kv_bytes="2GiB", slab_bytes=131072)
    assert config.scheduler.max_seqs == 9
    assert config.seed == 4


def test_bytes_may_be_a_number_in_the_file(fake: Backend, tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("kv_bytes = 1000000")
    assert opened(fake, "--config", str(path)).cache.kv_bytes == 1_000_000
