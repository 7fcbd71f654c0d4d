"""What a report is about: one run or several on the same prompts, judged by the exact one if it is among them."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from kvloom.errors import EvalError
from kvloom.eval.compare import Comparison, compare
from kvloom.eval.records import Row, read_rows
from kvloom.eval.summary import Summary, signals, summarize

_DEPTHS = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """Mean score by depth (rows: 0% to 100% of the context in tenths, rounded) and length (columns).

    None where there is no sample.
    """

    task: str
    lengths: tuple[int, ...]
    scores: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """``unjudged``: models without an exact run, which would say what counts: each of their runs speaks for itself."""

    unjudged: tuple[str, ...]
    summaries: tuple[Summary, ...]
    comparisons: tuple[Comparison, ...]
    heat_maps: tuple[tuple[str, HeatMap], ...]

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False)


def gather(directories: Sequence[Path]) -> Report:
    """Read runs from their directories. Raises DataFileError and EvalError."""
    runs = []
    for directory in directories:
        rows = read_rows(directory)
        if not rows:
            raise EvalError(f"`{directory}` holds no rows yet")
        runs.append(rows)
    return report_of(runs)


def report_of(runs: Sequence[Sequence[Row]]) -> Report:
    """A report on runs that are at hand, in this order. The first exact run of a model judges its others."""
    judges: dict[str, Sequence[Row]] = {}
    for rows in runs:
        if rows[0].settings.policy == "exact":
            judges.setdefault(rows[0].settings.model, rows)
    signal = {model: signals(summarize(rows)) for model, rows in judges.items()}
    models = [rows[0].settings.model for rows in runs]
    return Report(
        unjudged=tuple(dict.fromkeys(model for model in models if model not in judges)),
        summaries=tuple(summarize(rows, signal.get(model)) for model, rows in zip(models, runs, strict=True)),
        comparisons=tuple(
            compare(judges[model], rows)
            for model, rows in zip(models, runs, strict=True)
            if model in judges and rows is not judges[model]
        ),
        heat_maps=tuple((rows[0].settings.title, each) for rows in runs for each in heat_maps(rows)),
    )


def heat_maps(rows: Sequence[Row]) -> list[HeatMap]:
    """One per task whose samples say at what depth their needle lies."""
    by_task: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.depth is not None:
            by_task[row.task].append(row)
    return [_heat_map(task, found) for task, found in by_task.items()]


def _heat_map(task: str, rows: Sequence[Row]) -> HeatMap:
    lengths = tuple(sorted({row.length for row in rows}))
    cells: dict[tuple[int, int], list[float]] = defaultdict(list)
    for row in rows:
        cells[int(10 * (row.depth or 0.0) + 0.5), row.length].append(row.score)
    scores = tuple(
        tuple(fmean(cells[depth, length]) if (depth, length) in cells else None for length in lengths)
        for depth in range(_DEPTHS)
    )
    return HeatMap(task=task, lengths=lengths, scores=scores)
