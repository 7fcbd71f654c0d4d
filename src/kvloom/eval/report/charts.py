"""Charts of a report: quality against bytes, needles by depth and length, per-task differences. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kvloom.eval.compare import Comparison
from kvloom.eval.report.gather import HeatMap, Report
from kvloom.eval.summary import Summary


def draw(report: Report, directory: Path) -> list[str]:
    """Write PNG files into ``directory``; their names. Raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("agg")
    drawn = [_save(_quality_against_bytes(report), directory, "quality-against-bytes.png")]
    for number, (label, heat_map) in enumerate(report.heat_maps):
        drawn.append(_save(_heat_map(label, heat_map), directory, f"depth-{number}-{heat_map.task}.png"))
    for number, comparison in enumerate(report.comparisons):
        drawn.append(_save(_differences(comparison), directory, f"differences-{number}.png"))
    return drawn


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, directory: Path, name: str) -> str:
    figure.savefig(directory / name, dpi=120)
    return name


def _quality_against_bytes(report: Report) -> Any:
    figure = _figure(6, 4)
    axes = figure.add_subplot()
    for summary in report.summaries:
        for length, score, low, high, size in _points(summary):
            spread = [[score - low], [high - score]]
            axes.errorbar([size], [score], yerr=spread, fmt="o", label=f"{summary.title}, {length} tokens")
    axes.set(xlabel="KV bytes per token, before the question", ylabel="composite score (%)", ylim=(0, 100))
    axes.set_xlim(left=0)
    if axes.has_data():
        axes.legend(fontsize="small")
    return figure


def _points(summary: Summary) -> list[tuple[int, float, float, float, float]]:
    """(length, score, low, high, bytes per token) of every length."""
    found = []
    for composite in summary.composites:
        sizes = [cell.size for cell in summary.cells if cell.length == composite.length]
        if composite.group == "all":
            it = composite.score
            found.append((composite.length, 100 * it.mean, 100 * it.low, 100 * it.high, sum(sizes) / len(sizes)))
    return found


def _heat_map(label: str, heat_map: HeatMap) -> Any:
    figure = _figure(2 + len(heat_map.lengths), 4)
    axes = figure.add_subplot()
    values = [[float("nan") if score is None else score for score in row] for row in heat_map.scores]
    image = axes.imshow(values, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(heat_map.lengths)), [f"{length}" for length in heat_map.lengths])
    axes.set_yticks(range(len(heat_map.scores)), [f"{depth * 10}%" for depth in range(len(heat_map.scores))])
    axes.set(title=f"{heat_map.task}\n{label}", xlabel="length in tokens", ylabel="depth")
    figure.colorbar(image, label="score")
    return figure


def _differences(comparison: Comparison) -> Any:
    deltas = comparison.deltas
    figure = _figure(7, 1.5 + 0.25 * len(deltas))
    axes = figure.add_subplot()
    places = range(len(deltas))
    for place, delta in zip(places, deltas, strict=True):
        it = delta.difference
        colour = "tab:blue" if delta.standing == "counts" else "lightgrey"
        axes.plot([100 * it.low, 100 * it.high], [place, place], color=colour)
        axes.plot([100 * it.mean], [place], "o", color=colour)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(places, [f"{delta.task} {delta.length}" for delta in deltas], fontsize="small")
    axes.invert_yaxis()
    axes.set(xlabel="points against the exact run (grey: does not count)", title=f"{comparison.model}: {comparison.b}")
    return figure
