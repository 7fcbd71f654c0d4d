"""The table: medians, spread, and distance from the machine's limits."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bench.report import Run, Table, to_json, to_markdown
from bench.workloads import QUICK, Figure, run

from kvloom.bench.limits import measure_limits, prefill_flop
from kvloom.model.spec import ModelSpec, RopeSpec

GIB = 2**30


def smollm2_spec(windows: tuple[int | None, ...] = (None,) * 30) -> ModelSpec:
    return ModelSpec(
        family="llama",
        width=576,
        num_layers=30,
        heads=9,
        kv_heads=3,
        head_dim=64,
        ffn_width=1536,
        vocab_size=49152,
        context_length=8192,
        norm_eps=1e-5,
        windows=windows,
        rope=RopeSpec(64, 1e5),
        attn_scale=0.125,
    )


def a_run(who: str, number: int, decode: float, prefill: float) -> Run:
    records: list[dict[str, Any]] = [
        {
            "kind": "peer",
            "version": "1",
            "weight_bytes": 10**8,
            "kv_token_bytes": 1000,
            "prefill_flop": {"512": 10**11},
        },
        {"kind": "figure", "workload": "prefill 512", "value": prefill, "unit": "tok/s", "higher": True},
        {"kind": "figure", "workload": "decode after 512", "value": decode, "unit": "tok/s", "higher": True},
        {"kind": "peak", "rss_bytes": GIB},
    ]
    return Run(who, number, records)


def a_table() -> Table:
    limits = Run("limits", 0, [{"kind": "limits", "read_gb_s": 20.0, "sgemm_gflop_s": 100.0}])
    runs = [limits, *(a_run("kvloom", n, decode, 256.0) for n, decode in enumerate((90.0, 100.0, 130.0)))]
    runs.append(a_run("transformers", 0, 12.0, 100.0))
    return Table("python -m bench.table", "A machine", 2, "m", False, "2026-01-02T03:04+00:00", runs)


def test_shares_of_the_limits() -> None:
    table = a_table()
    assert table.share_of_limit("kvloom", "decode after 512") == pytest.approx(100 * (1e8 + 512_000) / 20e9)
    assert table.share_of_limit("kvloom", "prefill 512") == pytest.approx(256 * 1e11 / 512 / 100e9)
    assert table.share_of_limit("kvloom", "16 x (512 in + 64 out)") is None


def test_markdown_has_medians_spread_and_caveats_first() -> None:
    text = to_markdown(a_table())
    assert "| decode after 512 | tok/s | **100.0** (90.0 to 130.0, 50% of limit) | **12.0** (one run" in text
    assert "| peak memory | MiB | 1024 | 1024 |" in text
    assert text.index("python -m bench.table") < text.index("Ratios between engines") < text.index("| workload")
    assert json.loads(to_json(a_table()))["hardware"] == "A machine"


def test_prefill_arithmetic() -> None:
    linear = 30 * 2 * 576 * (2 * 576 + 2 * 192 + 3 * 1536)
    assert prefill_flop(smollm2_spec(), 1) == linear + 4 * 576 * 30
    assert prefill_flop(smollm2_spec(), 100) == 100 * linear + 4 * 576 * 30 * 5050
    assert prefill_flop(smollm2_spec((None,) * 29 + (10,)), 100) == 100 * linear + 4 * 576 * (29 * 5050 + 955)


def test_limits_are_positive() -> None:
    limits = measure_limits(threads=1, repeats=1)
    assert limits.read_gb_s > 0.1
    assert limits.sgemm_gflop_s > 0.1


class Recorder:
    """A peer that takes no time and remembers what it was asked."""

    version, weight_bytes, kv_token_bytes = "0", 1, 1

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def one(self, prompt: list[int], num_new: int) -> Any:
        from bench.peers.base import Stream

        self.asked.append(("one", tuple(prompt)))
        return Stream([1.0 + 0.5 * n for n in range(num_new)])

    def batch(self, prompts: list[list[int]], num_new: int) -> float:
        self.asked.append(("batch", len(prompts), num_new))
        return 2.0

    def shared(self, prefix: list[int], tails: list[list[int]], num_new: int) -> float:
        self.asked.append(("shared", tuple(prefix), len(tails), num_new))
        return 3.0


def test_workloads_measure_what_they_say() -> None:
    first, second = Recorder(), Recorder()
    figures = list(run(first, QUICK, seed=1))
    list(run(second, QUICK, seed=1))
    assert first.asked == second.asked  # every peer gets the same tokens
    assert figures[:2] == [Figure("prefill 128", 128.0, "tok/s"), Figure("decode after 128", 2.0, "tok/s")]
    assert figures[-2:] == [
        Figure("4 x (64 in + 8 out)", 16.0, "out tok/s"),
        Figure("4 x (16 new + 8 out) on a shared 256", 3.0, "s", higher=False),
    ]
