"""A report as Markdown: composites first, then every cell with its interval, then costs and where needles were lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kvloom.eval.compare import Comparison
from kvloom.eval.paired import Paired, holm
from kvloom.eval.report.gather import HeatMap, Report
from kvloom.eval.stats import Interval
from kvloom.eval.summary import CellSummary, Composite, Summary

_WIDE = 0.05
_PAIRS_IN_FULL = 3


def markdown(report: Report, charts: Iterable[str] = ()) -> str:
    """The whole document. ``charts``: file names to show."""
    lines = ["# Long-context evaluation", ""]
    if report.unjudged:
        lines += [f"No exact run beside {', '.join(report.unjudged)}: nobody says which tasks count.", ""]
    lines += [f"![{name}]({name})\n" for name in charts]
    if report.comparisons:
        lines += ["## Every method against the exact cache", "", *_ranking(report.comparisons), ""]
    lines += [line for floor in report.floors for line in (_floor(floor), "")]
    if report.pairs:
        lines += ["## Methods against each other", "", *_versus(report.pairs), ""]
    for summary in report.summaries:
        lines += [*_run(summary), ""]
    for comparison in (*report.comparisons, *(report.pairs if len(report.pairs) <= _PAIRS_IN_FULL else ())):
        lines += [*comparison_lines(comparison), ""]
    for label, heat_map in report.heat_maps:
        lines += [f"## {heat_map.task} by depth and length: {label}", "", *_heat_map(heat_map), ""]
    return "\n".join(lines)


def comparison_lines(found: Comparison) -> Iterator[str]:
    """One comparison: per task, then over all tasks that count."""
    yield f"## {found.model}: {found.b} against {found.a}"
    yield ""
    yield from table(
        ("task", "length", "n", "documents", found.a, found.b, "difference", "p", ""),
        (
            (
                delta.task,
                f"{delta.length}",
                f"{delta.count}",
                f"{delta.documents}",
                f"{100 * delta.score_a:.1f}",
                f"{100 * delta.score_b:.1f}",
                points(delta.difference),
                f"{delta.p:.3g}",
                "" if delta.standing == "counts" else delta.standing,
            )
            for delta in found.deltas
        ),
    )
    yield ""
    if not found.chosen:
        yield "No exact run says which tasks count: nothing can be said over all. `--judge` names one."
    elif found.overall is None:
        yield f"No task counts, as judged on {found.chosen}: nothing can be said over all."
    else:
        yield f"Tasks count as judged on {found.chosen}. Over those: {_verdict(found.overall)}."
    yield f"Answers that are the same, word for word: {100 * found.equal:.1f}%."
    yield f"KV bytes per token right after compression: {_ratio(found.bytes_ratio)} of the first."
    yield f"KV bytes per token at the end of the answers: {_ratio(found.end_bytes_ratio)} of the first."
    yield f"Time to first token: {_ratio(found.ttft_ratio)} of the first."
    for each in found.unpaired:
        yield (
            f"Left out of {each.task} at {each.length}: {each.only_a} prompts that only the first has answered, "
            f"{each.only_b} that only the second has."
        )
    for remark in found.remarks:
        yield f"{remark[0].upper()}{remark[1:]}."


def _floor(found: Comparison) -> str:
    """What a difference is made of when nothing was dropped."""
    differs = "" if found.overall is None else f", and is {points(found.overall.difference)} points apart from it"
    return (
        f"Noise floor of {found.model}: {found.b} drops nothing, moves everything, gives {100 * found.equal:.1f}% of "
        f"the answers of {found.a} word for word{differs}. Differences of that size say nothing about a method; it is "
        "the baseline that shares their noise."
    )


def _verdict(found: Paired) -> str:
    return (
        f"{points(found.difference)} points, permutation test over {found.documents} documents p = {found.p:.3g}; "
        f"{_could(found.detectable)}"
    )


def _could(detectable: float | None) -> str:
    """
    >>> _could(0.123)
    'a loss of 12.3 points would have been shown in 80 of 100 cases'
    """
    if detectable is None:
        return "too few documents to show any loss"
    return f"a loss of {100 * detectable:.1f} points would have been shown in 80 of 100 cases"


def _ranking(comparisons: Sequence[Comparison]) -> Iterator[str]:
    head = ("method", "KV bytes", "at the end", "difference", "p", "could have shown")
    rows = [
        (
            f"{each.model}: {each.b}",
            _ratio(each.bytes_ratio),
            _ratio(each.end_bytes_ratio),
            *_overall(each),
        )
        for each in sorted(comparisons, key=lambda each: (each.model, each.bytes_ratio or 0.0))
    ]
    yield "Ordered by KV bytes per token right after compression, as a share of the exact cache's."
    yield ""
    yield from table(head, rows)


def _versus(pairs: Sequence[Comparison]) -> Iterator[str]:
    adjusted = holm([1.0 if each.overall is None else each.overall.p for each in pairs])
    head = ("first", "second", "KV bytes", "difference", "p", "could have shown", "p of so many pairs")
    yield "The second less the first. The last column is corrected for the number of pairs (Holm 1979)."
    yield ""
    yield from table(
        head,
        (
            (f"{each.model}: {each.a}", each.b, _ratio(each.bytes_ratio), *_overall(each), f"{p:.3g}")
            for each, p in zip(pairs, adjusted, strict=True)
        ),
    )


def _overall(comparison: Comparison) -> tuple[str, str, str]:
    found = comparison.overall
    if found is None:
        return "-", "-", "-"
    return points(found.difference), f"{found.p:.3g}", _loss(found.detectable)


def _ratio(ratio: float | None) -> str:
    """
    >>> _ratio(0.25), _ratio(None)
    ('25.0%', 'any multiple')
    """
    return "any multiple" if ratio is None else f"{100 * ratio:.1f}%"


def _loss(detectable: float | None) -> str:
    return "no loss" if detectable is None else f"{100 * detectable:.1f}"


def _run(summary: Summary) -> Iterator[str]:
    settings = summary.settings
    versions = ", ".join(f"{name} {number}" for name, number in settings.versions.items())
    yield f"## {summary.title}"
    yield ""
    yield (
        f"{settings.protocol}, KV in {settings.kv_dtype}, activations in {settings.activations}, "
        f"seed {settings.seed}, {settings.in_flight} prompts at once, {settings.threads} threads, "
        f"weights {settings.weights_id[:12]}, {versions}."
    )
    yield ""
    yield "Scores are percentages with 95% intervals, documents taken as observations. Tasks that do not count are left"
    yield "out of the composites: without signal (another sample's answer scores as well), or too low to lose much."
    yield f"Judged on {summary.chosen or 'nothing: there is no exact run'}. The last column of a composite is the least"
    yield "loss that another method on these samples could show in 80 of 100 cases, were it the same in all else. Times"
    yield "and peaks are those of prompts that share the engine; `--in-flight 1` measures them alone."
    yield ""
    yield from table(
        ("composite", "length", "tasks", "score", "", "shows a loss of"), map(_composite_row, summary.composites)
    )
    yield ""
    head = ("task", "length", "n", "documents", "score", "control", "counts")
    costs = ("TTFT s", "ms/token", "KV bytes/token", "at the end", "peak KV MiB", "cached")
    yield from table((*head, *costs), map(_cell_row, summary.cells))


def _composite_row(each: Composite) -> tuple[str, ...]:
    wide = f"wider than ±{100 * _WIDE:.0f}" if each.score.half_width > _WIDE else ""
    return each.group, f"{each.length}", f"{len(each.tasks)}", points(each.score), wide, _loss(each.detectable)


def _cell_row(cell: CellSummary) -> tuple[str, ...]:
    return (
        cell.task,
        f"{cell.length}",
        f"{cell.count}",
        f"{cell.documents}",
        points(cell.score),
        "-" if cell.control is None else f"{100 * cell.control:.1f}",
        "yes" if cell.counts else cell.standing,
        f"{cell.ttft_s:.2f}",
        "-" if cell.ms_per_token is None else f"{cell.ms_per_token:.1f}",
        "-" if cell.context_bytes_per_token is None else f"{cell.context_bytes_per_token:.0f}",
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
