"""From rows to a summary: cells with intervals, which of them count, composites."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from kvloom.errors import EvalError
from kvloom.eval.clusters import Clusters, Observed, clusters_of
from kvloom.eval.judge import Judge, Standing, judge_of
from kvloom.eval.observe import CellKey, Prompt, method_of, observe, scores
from kvloom.eval.paired import detectable
from kvloom.eval.records import Row, Settings
from kvloom.eval.share import share
from kvloom.eval.stats import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class CellSummary:
    """One task at one length.

    ``count``: samples; the turns of one are averaged before anything else. ``documents``: independent observations.
    ``control``: mean score of answers that belong to other samples; None when there were none. Costs are medians,
    ``peak_kv_bytes`` the maximum. ``context_bytes_per_token``: right after compression, before any question; None for
    rows without it.
    """

    task: str
    group: str
    length: int
    count: int
    documents: int
    score: Interval
    control: float | None
    standing: Standing
    ttft_s: float
    ms_per_token: float | None
    context_bytes_per_token: float | None
    kv_bytes_per_token: float
    peak_kv_bytes: int
    cached_share: float

    @property
    def counts(self) -> bool:
        return self.standing == "counts"

    @property
    def size(self) -> float:
        """Bytes per token by which methods are ranked."""
        return self.kv_bytes_per_token if self.context_bytes_per_token is None else self.context_bytes_per_token


@dataclass(frozen=True, slots=True, kw_only=True)
class Composite:
    """Mean over the tasks that count of a group (``all``: of every group) at one length.

    ``detectable``: the smallest loss of another method that these samples could show, if the two differ in nothing
    else; None when they could show none.
    """

    group: str
    length: int
    tasks: tuple[str, ...]
    score: Interval
    detectable: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """All results of a method. ``left_out``: cells that do not count, and why. ``chosen``: on which samples."""

    settings: Settings
    label: str
    cells: tuple[CellSummary, ...]
    composites: tuple[Composite, ...]
    left_out: tuple[tuple[str, int, Standing], ...]
    chosen: str

    @property
    def title(self) -> str:
        """The label after the model's name."""
        return f"{self.settings.model}: {self.label}"


def summarize(rows: Sequence[Row], judge: Judge | None = None) -> Summary:
    """Summarize the runs of one method. Raises EvalError when there are no rows.

    ``judge``: which cells count, from an exact run. None: an exact run judges itself, and no cell of a lossy one
    counts, since it does not show whether the model or the policy fails.
    """
    if not rows:
        raise EvalError("the run has no rows yet")
    if judge is None:
        judge = judge_of([rows] if rows[0].settings.is_exact else [], rows[0].settings)
    method = method_of(rows)
    by_cell = method.cells()
    observed = {key: observe(prompts, scores) for key, prompts in by_cell.items()}
    cells = tuple(_cell(prompts, observed[key], judge.of(key)) for key, prompts in by_cell.items())
    return Summary(
        settings=method.settings,
        label=method.label,
        cells=cells,
        composites=tuple(_composites(cells, observed)),
        left_out=tuple((cell.task, cell.length, cell.standing) for cell in cells if not cell.counts),
        chosen=judge.how,
    )


def _cell(prompts: Sequence[Prompt], observed: Sequence[Observed], standing: Standing) -> CellSummary:
    rows = [row for prompt in prompts for row in prompt]
    first, found = rows[0], clusters_of([observed])
    controls = [row.control for row in rows if row.control is not None]
    times = [row.ms_per_token for row in rows if row.ms_per_token is not None]
    sizes = [row.context_bytes_per_token for row in rows if row.context_bytes_per_token is not None]
    return CellSummary(
        task=first.task,
        group=first.group,
        length=first.length,
        count=len(observed),
        documents=len(found.weights_D),
        score=share(found),
        control=fmean(controls) if controls else None,
        standing=standing,
        ttft_s=median(row.ttft_s for row in rows),
        ms_per_token=median(times) if times else None,
        context_bytes_per_token=median(sizes) if len(sizes) == len(rows) else None,
        kv_bytes_per_token=median(row.kv_bytes_per_token for row in rows),
        peak_kv_bytes=max(row.peak_kv_bytes for row in rows),
        cached_share=sum(row.cached_tokens for row in rows) / sum(row.prompt_tokens for row in rows),
    )


def _composites(cells: Sequence[CellSummary], observed: Mapping[CellKey, Sequence[Observed]]) -> list[Composite]:
    wanted: dict[tuple[int, str], list[str]] = defaultdict(list)
    for cell in cells:
        if cell.counts:
            for group in dict.fromkeys((cell.group, "all")):
                wanted[cell.length, group].append(cell.task)
    found = []
    for (length, group), tasks in sorted(
        wanted.items(), key=lambda item: (item[0][0], item[0][1] != "all", item[0][1])
    ):
        score = clusters_of([observed[task, length] for task in tasks])
        found.append(
            Composite(
                group=group,
                length=length,
                tasks=tuple(tasks),
                score=share(score),
                detectable=detectable(_alike(score)),
            )
        )
    return found


def _alike(score: Clusters) -> Clusters:
    """The difference from a method with the same answers."""
    return score.minus(score)
