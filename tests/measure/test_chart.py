"""The chart shows the medians of the table, and says what it lacks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench import chart


def table(folder: Path) -> Path:
    def figures(*values: float) -> list[dict]:
        return [
            {"kind": "figure", "workload": f"prefill {n}", "value": v, "unit": "tok/s"} for n, v in enumerate(values)
        ]

    runs = [{"who": "kvloom", "round": n, "records": figures(10.0 * n, 5.0)} for n in (1, 2, 9)]
    runs.append({"who": "other", "round": 1, "records": figures(3.0, 4.0)})
    fields = {"command": "c", "hardware": "h", "threads": 2, "model": "m", "quick": False, "taken": "t", "runs": runs}
    (folder / "engines.json").write_text(json.dumps(fields), encoding="utf-8")
    return folder


def test_medians_over_the_rounds(tmp_path: Path) -> None:
    read = chart.read(table(tmp_path) / "engines.json")
    assert chart.medians(read, "kvloom", "prefill") == {"0": 20.0, "1": 5.0}
    assert chart.medians(read, "other", "prefill") == {"0": 3.0, "1": 4.0}


def test_a_folder_without_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert chart.main([str(tmp_path)]) == 2
    assert "hint: make bench" in capsys.readouterr().err


def test_without_matplotlib_it_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert chart.main([str(table(tmp_path))]) == 1
    assert "kvloom[reports]" in capsys.readouterr().err
