"""Charts show medians, and their absence does not stop a result from being filed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench import chart
from bench.filing import write_files
from tests.measure.fake_comparison import comparison


def test_rates_of_one_kind_share_a_panel() -> None:
    figures = {
        "prefill 512": {"kvloom": [1.0, 3.0, 20.0], "fast": [2.0]},
        "prefill 2048": {"kvloom": [5.0]},
        "decode after 512": {"kvloom": [7.0]},
    }
    panels = chart.comparison_bars(comparison(figures, "streams"))
    assert [title.split(", ")[1] for title in panels] == ["prefill", "decode"]
    prefill = next(iter(panels.values()))
    assert prefill == {"prefill 512": {"kvloom": 3.0, "fast": 2.0}, "prefill 2048": {"kvloom": 5.0, "fast": None}}


def test_without_matplotlib_the_rest_is_filed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    write_files(tmp_path, "x", "text", "{}", lambda path: chart.draw_lines("t", "x", "y", {}, path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "x.md"]
    assert "kvloom[reports]" in capsys.readouterr().err
