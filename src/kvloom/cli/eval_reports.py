"""``kvloom eval compare`` and ``kvloom eval report``: they read runs, and load no model."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from kvloom.cli.say import say
from kvloom.eval.compare import compare
from kvloom.eval.records import read_rows
from kvloom.eval.report.gather import gather
from kvloom.eval.report.markdown import comparison_lines
from kvloom.eval.report.write import write_report


def compare_runs(a: Path, b: Path, as_json: bool) -> None:
    """Print a comparison, B against A."""
    found = compare(read_rows(a), read_rows(b))
    print(json.dumps(dataclasses.asdict(found), indent=2) if as_json else "\n".join(comparison_lines(found)))


def report_runs(runs: list[Path], output: Path, as_json: bool) -> None:
    """Write a report; print where it is, or all of it as JSON."""
    report = gather(runs)
    files = write_report(report, output)
    if not any(path.suffix == ".png" for path in files):
        say("no charts: matplotlib is not installed (pip install 'kvloom[reports]')")
    print(report.to_json() if as_json else files[0])
