"""A report as Markdown: composites first, then every cell with its interval, then costs and where needles were lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kvloom.eval.compare import Comparison
from kvloom.eval.report.gather import HeatMap, Report
from kvloom.eval.stats import Interval
from kvloom.eval.summary import CellSummary, Composite, Summary

_WIDE = 0.05


def markdown(report: Report, charts: Iterable[str] = ()) -> str:
    """The whole document. ``charts``: file names to show."""
    lines = ["# Long-context evaluation", ""]
    if report.unjudged:
        lines += [f"No exact run of {', '.join(report.unjudged)}: tasks count by each run's own answers.", ""]
    lines += [f"![{name}]({name})\n" for name in charts]
    for summary in report.summaries:
        lines += [*_run(summary), ""]
    for comparison in report.comparisons:
        lines += [*comparison_lines(comparison), ""]
    for label, heat_map in report.heat_maps:
        lines += [f"## {heat_map.task} by depth and length: {label}", "", *_heat_map(heat_map), ""]
    return "\n".join(lines)


def comparison_lines(found: Comparison) -> Iterator[str]:
    """One comparison: per task, then over all tasks that count."""
    yield f"## {found.model}: {found.b} against {found.a}"
    yield ""
    yield from table(
        ("task", "length", "n", found.a, found.b, "difference", "p", ""),
        (
            (
                delta.task,
                f"{delta.length}",
                f"{delta.count}",
                f"{100 * delta.score_a:.1f}",
                f"{100 * delta.score_b:.1f}",
                points(delta.difference),
                f"{delta.p:.3g}",
                "" if delta.signal else "no signal",
            )
            for delta in found.deltas
        ),
    )
    yield ""
    if found.overall is None:
        yield "No task carries signal in the first run: nothing can be said about the second."
    else:
        yield f"Over the tasks with signal: {points(found.overall)} points, sign test p = {found.overall_p:.3g}."
    yield f"KV bytes per token: {found.bytes_ratio:.3f} of the first."
    yield f"Time to first token: {found.ttft_ratio:.2f} of the first."
    for remark in found.remarks:
        yield f"Also different: {remark}."


def _run(summary: Summary) -> Iterator[str]:
    settings = summary.settings
    versions = ", ".join(f"{name} {number}" for name, number in settings.versions.items())
    yield f"## {settings.title}"
    yield ""
    yield (
        f"{settings.protocol}, KV in {settings.kv_dtype}, activations in {settings.activations}, "
        f"seed {settings.seed}, {settings.in_flight} prompts at once, {settings.threads} threads, "
        f"weights {settings.weights_id[:12]}, {versions}."
    )
    yield ""
    yield "Scores are percentages with 95% bootstrap intervals. Tasks without signal (another sample's answer scores as"
    yield "well) are marked, and left out of the composites. An interval without width says that all samples scored the"
    yield "same. Times and peaks are those of prompts that share the engine; `--in-flight 1` measures them alone."
    yield ""
    yield from table(("composite", "length", "tasks", "score", ""), map(_composite_row, summary.composites))
    yield ""
    head = ("task", "length", "n", "score", "control", "signal")
    costs = ("TTFT s", "ms/token", "KV bytes/token", "peak KV MiB", "cached")
    yield from table((*head, *costs), map(_cell_row, summary.cells))


def _composite_row(each: Composite) -> tuple[str, ...]:
    wide = f"wider than ±{100 * _WIDE:.0f}" if each.score.half_width > _WIDE else ""
    return each.group, f"{each.length}", f"{len(each.tasks)}", points(each.score), wide


def _cell_row(cell: CellSummary) -> tuple[str, ...]:
    return (
        cell.task,
        f"{cell.length}",
        f"{cell.count}",
        points(cell.score),
        "-" if cell.control is None else f"{100 * cell.control:.1f}",
        "yes" if cell.signal else "no",
        f"{cell.ttft_s:.2f}",
        "-" if cell.ms_per_token is None else f"{cell.ms_per_token:.1f}",
        f"{cell.kv_bytes_per_token:.0f}",
        f"{cell.peak_kv_bytes / 2**20:.1f}",
        f"{100 * cell.cached_share:.0f}%",
    )


def _heat_map(heat_map: HeatMap) -> Iterator[str]:
    yield from table(
        ("depth", *(f"{length}" for length in heat_map.lengths)),
        (
            (f"{depth * 10}%", *("" if score is None else f"{100 * score:.0f}" for score in scores))
            for depth, scores in enumerate(heat_map.scores)
        ),
    )


def points(interval: Interval) -> str:
    """
    >>> points(Interval(0.5, 0.4, 0.6))
    '50.0 [40.0, 60.0]'
    """
    return f"{100 * interval.mean:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """A Markdown table, line by line."""
    for row in (head, ("---",) * len(head), *rows):
        yield f"| {' | '.join(row)} |"
