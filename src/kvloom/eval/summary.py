"""From rows to a summary: cells with intervals, which tasks carry signal, composites."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from kvloom.errors import EvalError
from kvloom.eval.records import Row, Settings
from kvloom.eval.stats import Interval, bootstrap, stratified

_LEAST = 5
"""Samples without which nothing is said: the bootstrap of a few equal values is a point."""

CellKey = tuple[str, int]
"""(task, length)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellSummary:
    """One task at one length.

    ``count``: samples; the turns of one are averaged before anything else, as they share a context. ``control``: mean
    score of answers that belong to other samples; None when there were none. ``signal``: the 95% interval of
    (score - control) lies above 0, over at least 5 samples: the answers depend on what was given. Costs are medians,
    ``peak_kv_bytes`` the largest.
    """

    task: str
    group: str
    length: int
    count: int
    score: Interval
    control: float | None
    signal: bool
    ttft_s: float
    ms_per_token: float | None
    kv_bytes_per_token: float
    peak_kv_bytes: int
    cached_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Composite:
    """Mean over the tasks with signal of a group (``all``: of every group) at one length. ``tasks``: those counted."""

    group: str
    length: int
    tasks: tuple[str, ...]
    score: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """All of a run. ``silent``: (task, length) without signal, left out of the composites."""

    settings: Settings
    cells: tuple[CellSummary, ...]
    composites: tuple[Composite, ...]
    silent: tuple[CellKey, ...]


def summarize(rows: Sequence[Row], signal: Mapping[CellKey, bool] | None = None) -> Summary:
    """Summarize a run. Raises EvalError when there are no rows.

    ``signal``: which cells count, from the exact run; a lossy run alone cannot tell whether the model or the policy
    fails. None decides by the rows themselves.
    """
    if not rows:
        raise EvalError("the run has no rows yet")
    by_cell = grouped(rows)
    cells = tuple(
        _cell(group, signal) for _, group in sorted(by_cell.items(), key=lambda item: (item[0][1], item[0][0]))
    )
    return Summary(
        settings=rows[0].settings,
        cells=cells,
        composites=tuple(_composites(cells, by_cell)),
        silent=tuple((cell.task, cell.length) for cell in cells if not cell.signal),
    )


def signals(summary: Summary) -> dict[CellKey, bool]:
    """Which cells of a run carry signal."""
    return {(cell.task, cell.length): cell.signal for cell in summary.cells}


def grouped(rows: Iterable[Row]) -> dict[CellKey, list[Row]]:
    """Rows by (task, length)."""
    cells: dict[CellKey, list[Row]] = defaultdict(list)
    for row in rows:
        cells[row.task, row.length].append(row)
    return dict(cells)


def has_signal(rows: Sequence[Row]) -> bool:
    """See ``CellSummary.signal``."""
    differences = per_sample(rows, lambda row: None if row.control is None else row.score - row.control)
    return len(differences) >= _LEAST and bootstrap(differences).low > 0.0


def per_sample(rows: Iterable[Row], value: Callable[[Row], float | None]) -> list[float]:
    """Mean over the turns of each sample, in order of first appearance; turns whose value is None are left out."""
    found: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    for row in rows:
        number = value(row)
        if number is not None:
            found[row.key[:3]].append(number)
    return [fmean(values) for values in found.values()]


def _cell(rows: Sequence[Row], signal: Mapping[CellKey, bool] | None) -> CellSummary:
    first = rows[0]
    key = first.task, first.length
    controls = [row.control for row in rows if row.control is not None]
    times = [row.ms_per_token for row in rows if row.ms_per_token is not None]
    return CellSummary(
        task=first.task,
        group=first.group,
        length=first.length,
        count=len({row.index for row in rows}),
        score=bootstrap(per_sample(rows, lambda row: row.score)),
        control=fmean(controls) if controls else None,
        signal=has_signal(rows) if signal is None else signal.get(key, False),
        ttft_s=median(row.ttft_s for row in rows),
        ms_per_token=median(times) if times else None,
        kv_bytes_per_token=median(row.kv_bytes_per_token for row in rows),
        peak_kv_bytes=max(row.peak_kv_bytes for row in rows),
        cached_share=sum(row.cached_tokens for row in rows) / sum(row.prompt_tokens for row in rows),
    )


def _composites(cells: Sequence[CellSummary], by_cell: Mapping[CellKey, list[Row]]) -> list[Composite]:
    wanted: dict[tuple[int, str], list[str]] = defaultdict(list)
    for cell in cells:
        if cell.signal:
            for group in dict.fromkeys((cell.group, "all")):
                wanted[cell.length, group].append(cell.task)
    return [
        Composite(
            group=group,
            length=length,
            tasks=tuple(tasks),
            score=stratified([per_sample(by_cell[task, length], lambda row: row.score) for task in tasks]),
        )
        for (length, group), tasks in sorted(
            wanted.items(), key=lambda item: (item[0][0], item[0][1] != "all", item[0][1])
        )
    ]
