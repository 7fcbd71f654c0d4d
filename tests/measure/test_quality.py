"""Claims about the quality of compressed contexts, judged from records that are made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.quality import Bar, Records, judged
from tests.measure.study_rows import filed

OURS, KVZIP = "kvzap:ratio=0.8,allocator=lukv", "kvzip:ratio=0.8,allocator=global"


@pytest.mark.parametrize(
    ("ours", "kvzip", "holds"),
    [(0.975, 0.95, True), (0.95, 0.95, True), (0.925, 0.8, False), (0.95, 0.975, False)],
)
def test_quality_is_judged_from_records(tmp_path: Path, ours: float, kvzip: float, holds: bool) -> None:
    place = tmp_path / "cpu" / "2026-11" / "compression"
    for model in ("smollm2-135m-instruct", "gemma-3-270m"):
        filed(place / model, {"exact": 1.0, OURS: ours, KVZIP: kvzip})
    outcome = judged("lukv-quality-80", Bar(0.8, 5.01, yardstick=True), quick=False, results=tmp_path)
    assert outcome.holds is holds
    assert len(outcome.checks) == 2 * 2 * 2


def test_missing_records_are_no_quality(tmp_path: Path) -> None:
    assert not judged("x", Bar(0.8, 5.0), quick=False, results=tmp_path).holds
    filed(tmp_path, {"exact": 1.0, OURS: 1.0}, lengths=(2048,))
    assert all(check.holds for check in Records(tmp_path, (2048,)).checks("m", Bar(0.8, 5.0)))
    assert not all(check.holds for check in Records(tmp_path).checks("m", Bar(0.8, 5.0)))
    assert not any(check.holds for check in Records(tmp_path, (2048,)).checks("m", Bar(0.8, 5.0, yardstick=True)))
