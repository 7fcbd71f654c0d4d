"""The contents of a report: runs on the same prompts, each compared with the exact one and with each other."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean

from kvloom.errors import EvalError
from kvloom.eval.compare import Comparison, compare
from kvloom.eval.judge import baseline_of, judge_of
from kvloom.eval.observe import methods_of
from kvloom.eval.records import Row, Settings, read_rows
from kvloom.eval.summary import Summary, summarize

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
    """``unjudged``: methods without an exact run, which would say what counts: they have no composites.

    ``comparisons``: every method with the exact run on its prompts. ``floors``: those of them that drop nothing, and so
    measure noise. ``pairs``: every two other methods.
    """

    unjudged: tuple[str, ...]
    summaries: tuple[Summary, ...]
    comparisons: tuple[Comparison, ...]
    floors: tuple[Comparison, ...]
    pairs: tuple[Comparison, ...]
    heat_maps: tuple[tuple[str, HeatMap], ...]

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False)


def gather(directories: Sequence[Path], judges: Sequence[Path] = (), floors: Sequence[Path] = ()) -> Report:
    """Read runs from their directories. Raises DataFileError and EvalError.

    ``judges``: exact runs that say what counts, and ``floors``: runs that measure noise. Neither have a part of their
    own.
    """
    runs, exact, noise = ([_read(place) for place in places] for places in (directories, judges, floors))
    return report_of(runs, exact, noise)


def _read(directory: Path) -> list[Row]:
    rows = read_rows(directory)
    if not rows:
        raise EvalError(f"`{directory}` holds no rows yet")
    return rows


def report_of(
    runs: Sequence[Sequence[Row]], judges: Sequence[Sequence[Row]] = (), floors: Sequence[Sequence[Row]] = ()
) -> Report:
    """A report on runs that are at hand, in this order; those that differ in a policy's seed only are one method."""
    methods = methods_of(runs)
    exact = [rows for rows in (*runs, *judges) if rows[0].settings.is_exact]
    known = [rows[0].settings for rows in methods]
    compared = [*(rows for rows in floors if rows[0].settings not in known), *methods]
    summaries = tuple(
        summarize(rows, judge_of(_of_model(exact, rows[0].settings), rows[0].settings)) for rows in methods
    )
    return Report(
        unjudged=tuple(summary.title for summary in summaries if not summary.chosen),
        summaries=summaries,
        comparisons=tuple(_with_exact(compared, exact)),
        floors=tuple(_with_exact([rows for rows in compared if rows[0].settings.is_floor], exact)),
        pairs=tuple(_with_each_other(compared, exact)),
        heat_maps=tuple(
            (summary.title, each) for rows, summary in zip(methods, summaries, strict=True) for each in heat_maps(rows)
        ),
    )


def _with_exact(methods: Sequence[Sequence[Row]], exact: Sequence[Sequence[Row]]) -> Iterator[Comparison]:
    for rows in methods:
        own = _of_model(exact, rows[0].settings)
        baseline = baseline_of(own, rows)
        if baseline is not None and baseline[0].settings != rows[0].settings:
            yield compare(baseline, rows, judge_of(own, rows[0].settings), common=True)


def _with_each_other(methods: Sequence[Sequence[Row]], exact: Sequence[Sequence[Row]]) -> Iterator[Comparison]:
    for a, b in combinations(methods, 2):
        x, y = a[0].settings, b[0].settings
        own = _of_model(exact, x)
        known = [baseline[0].settings for rows in (a, b) if (baseline := baseline_of(own, rows)) is not None]
        alike = (_subject(x), x.seed) == (_subject(y), y.seed) and x not in known and y not in known
        if alike and {row.key for row in a} & {row.key for row in b}:
            yield compare(a, b, judge_of(own, x), common=True)


def _of_model(exact: Sequence[Sequence[Row]], measured: Settings) -> list[Sequence[Row]]:
    return [rows for rows in exact if _subject(rows[0].settings) == _subject(measured)]


def _subject(settings: Settings) -> tuple[str, ...]:
    """What must agree between comparable runs: the model, and how it was asked."""
    return settings.model, settings.weights_id, *settings.asked


def heat_maps(rows: Sequence[Row]) -> list[HeatMap]:
    """One per task whose samples record the depth of their needle."""
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
