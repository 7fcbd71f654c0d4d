"""``kvloom eval compare`` and ``kvloom eval report``: they read runs, and load no model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from kvloom.cli.say import say
from kvloom.eval.find import comparisons_of, find_runs
from kvloom.eval.report.gather import gather
from kvloom.eval.report.markdown import comparison_lines
from kvloom.eval.report.write import write_report


def compare_runs(a: Path, b: Path, judges: Sequence[Path], common: bool, as_json: bool) -> None:
    """Print what B is against A, and then what either is against the exact run that lies beside them or is named."""
    found = find_runs(a, b, judges)
    for place in found.used:
        say(f"with {place}")
    comparisons = comparisons_of(found, common)
    if as_json:
        print(json.dumps([dataclasses.asdict(each) for each in comparisons], indent=2))
    else:
        print("\n\n".join("\n".join(comparison_lines(each)) for each in comparisons))


def report_runs(runs: list[Path], output: Path, as_json: bool) -> None:
    """Write a report; print where it is, or all of it as JSON."""
    report = gather(runs)
    files = write_report(report, output)
    if not any(path.suffix == ".png" for path in files):
        say("no charts: matplotlib is not installed (pip install 'kvloom[reports]')")
    print(report.to_json() if as_json else files[0])
