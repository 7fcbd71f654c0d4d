"""``kvloom bench`` over a tiny engine: the table, the JSON, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from kvloom.bench.limits import Limits
from kvloom.cli import backend, benching
from kvloom.cli.app import app
from kvloom.config import EngineConfig
from kvloom.engine.build import Loaded
from kvloom.errors import ConfigError, TraceError
from tests.cli.conftest import manifest
from tiny import CharTokenizer, make_engine


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    def load(config: EngineConfig) -> Loaded:
        return Loaded(manifest(tmp_path), CharTokenizer(), make_engine())  # type: ignore[arg-type]

    monkeypatch.setattr(backend, "load_engine", load)
    monkeypatch.setattr(benching, "measure_limits", lambda threads: Limits(20.0, 100.0))
    return lambda *arguments: CliRunner().invoke(app, ["bench", *arguments], catch_exceptions=False)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["latency", "--contexts", "20,40"], ["prefill 20", "decode after 20", "prefill 40", "decode after 40"]),
        (["throughput", "--requests", "3", "--prompt", "20"], ["3 x (20 in + 4 out)"]),
        (
            ["shared-prefix", "--requests", "2", "--prefix", "32", "--tail", "3"],
            ["2 x (3 new + 4 out) on a shared 32"],
        ),
        (["multi-turn", "--chats", "2", "--turns", "2", "--question", "9"], ["2 chats x 2 turns, each to 26"]),
    ],
)
def test_json(bench: Callable[..., Result], arguments: list[str], names: list[str]) -> None:
    verb, *rest = arguments
    result = bench(verb, "mock", *rest, "--new", "4", "--rounds", "2", "--json")
    found = json.loads(result.stdout)
    assert [figure["name"] for figure in found["figures"]] == names
    assert all(len(figure["values"]) == 2 and figure["share_of_limit"] > 0 for figure in found["figures"])
    assert found["limits"] == {"read_gb_s": 20.0, "sgemm_gflop_s": 100.0}
    assert (found["model"], found["rounds"]) == ("mock", 2)


def test_the_table_is_on_stdout(bench: Callable[..., Result]) -> None:
    result = bench("latency", "mock", "--contexts", "20", "--new", "4", "--rounds", "1")
    assert "prefill 20" in result.stdout
    assert "share of limit" in result.stdout
    assert "memory read" in result.stdout


def test_what_does_not_fit_is_the_callers_mistake(bench: Callable[..., Result]) -> None:
    with pytest.raises(ConfigError, match="9004 tokens, the engine holds"):
        bench("latency", "mock", "--contexts", "9000", "--new", "4")
    for contexts in ("", "x", "0", "4,-1"):
        with pytest.raises(ConfigError, match="--contexts must be whole numbers"):
            bench("latency", "mock", "--contexts", contexts)


def test_trace(bench: Callable[..., Result], tmp_path: Path) -> None:
    line = {"timestamp": 0, "input_length": 40, "output_length": 3, "hash_ids": [1]}
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(line | {"timestamp": n}) for n in range(3)))
    figures = json.loads(bench("trace", "mock", str(tmp_path / "t.jsonl"), "--json").stdout)["figures"]
    assert (figures["requests"], figures["refused, too long"], figures["input tokens"]) == (3, 0, 120)
    assert figures["output tokens per second"] > 0
    assert figures["first token, p99, s"] >= figures["first token, median, s"] > 0
    table = bench("trace", "mock", str(tmp_path / "t.jsonl"), "--limit", "1", "--speed", "10").stdout
    assert "10 times as fast as recorded" in table


def test_a_bad_trace_is_told_before_the_model_is_loaded(
    bench: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "load_engine", lambda config: pytest.fail("loaded"))
    (tmp_path / "t.jsonl").write_text('{"timestamp": 0}')
    with pytest.raises(TraceError, match="line 1: `input_length`"):
        bench("trace", "mock", str(tmp_path / "t.jsonl"))


@pytest.mark.parametrize("verb", ["latency", "throughput", "shared-prefix", "multi-turn", "trace"])
def test_every_verb_has_help(bench: Callable[..., Result], verb: str) -> None:
    assert "--json" in bench(verb, "--help").stdout
