"""What is filed of a claim: command and caveats first, medians with spread, who took part."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from bench import filing
from bench.cells import DENSE
from bench.claims import throughput
from bench.comparison import Stopped
from bench.filing import Report, Stamp, folder_for, write
from bench.harness import Outcome
from tests.measure.fake_comparison import comparison

BATCH = "16 x (512 in + 64 out)"
STAMP = Stamp("python -m bench.claim throughput", "A Machine (R)", 2, "2026-01-02T03:04+00:00")


def a_report() -> Report:
    made = comparison(
        {BATCH: {"kvloom": [90.0, 100.0, 130.0], "fast": [40.0, 50.0, 45.0]}},
        "together",
        {BATCH: {"kvloom": 300, "fast": 400}},
    )
    made.absent["slow"] = "not installed"
    return Report(STAMP, throughput.judge(made))


def test_markdown_says_how_before_it_says_what() -> None:
    text = a_report().markdown()
    assert f"| {BATCH} | tok/s | **100.0** (90.0 to 130.0; 3 rounds) | **45.0** (40.0 to 50.0; 3 rounds) |" in text
    assert f"| {BATCH} | **2.25** | 1.4 |" in text
    assert f"| {BATCH} | MiB | **300** | **400** |" in text
    assert "memory read 25.0 GB/s, sgemm 100 GFLOP/s" in text
    assert "Not measured: slow, not installed" in text
    assert text.index(STAMP.command) < text.index("Ratios between engines") < text.index("| what")


def test_markdown_says_who_was_left_out_and_when() -> None:
    made = comparison({BATCH: {"kvloom": [90.0, 100.0, 130.0], "fast": [40.0, 50.0, 45.0], "slow": [5.0]}}, "together")
    made.about.append(dataclasses.replace(made.about[0], peer="slowest"))
    made.stopped.append(Stopped("together", DENSE, "slowest", BATCH, "9.1 times the best peer's time after 8 runs"))
    text = Report(STAMP, throughput.judge(made)).markdown()
    assert "| **45.0** (40.0 to 50.0; 3 rounds) | **5.0** (left out after 1) | stopped |" in text
    assert f"- Stopped: slowest in {BATCH}, 9.1 times the best peer's time after 8 runs" in text


def test_a_quick_run_says_so() -> None:
    outcome = Outcome("demo", 1, 1, "cells", True, {"quick": True})
    assert "Quick run" in Report(STAMP, outcome).markdown()
    assert "Quick run" not in a_report().markdown()


def test_files_by_machine_and_month(tmp_path: Path) -> None:
    assert folder_for(STAMP) == filing.RESULTS / "a-machine-r-2-threads" / "2026-01"
    target = write(a_report(), tmp_path / "new")
    assert target.read_text(encoding="utf-8").startswith("# throughput\n\n    python -m bench.claim throughput\n")
    data = json.loads(target.with_suffix(".json").read_text(encoding="utf-8"))
    assert data["stamp"]["command"] == STAMP.command
    assert len(data["outcome"]["comparison"]["samples"]) == 6


def test_charts(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    chart = write(a_report(), tmp_path).with_suffix(".png")
    assert chart.read_bytes().startswith(b"\x89PNG")
