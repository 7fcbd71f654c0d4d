"""Charts of results. Needs matplotlib, which the extra ``reports`` brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.comparison import Comparison
from bench.harness import Check, Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#1b6ca8", "#c9c9c9", "#e0a458", "#7a9e7e", "#b5838d", "#6d6875")
STYLES = ("-", "--", ":")

Bars = Mapping[str, Mapping[str, float | None]]
"""Label of a group of bars to the height of each engine's."""


def draw_outcome(outcome: Outcome, target: Path) -> None:
    """Every check beside its goal and, where engines were compared, their rates by unit. Raises ImportError."""
    plt = _pyplot()
    panels = comparison_bars(outcome.comparison) if outcome.comparison else {}
    figure, axes = plt.subplots(
        1 + len(panels), 1, figsize=(9, 1.2 + 0.3 * len(outcome.checks) + 2.6 * len(panels)), layout="constrained"
    )
    rows = axes if panels else [axes]
    _scores(rows[0], outcome.checks)
    for axis, (title, bars) in zip(rows[1:], panels.items(), strict=True):
        _bars(axis, title, bars)
    figure.suptitle(outcome.claim, fontsize=11)
    figure.savefig(target, dpi=110)
    plt.close(figure)


def draw_lines(
    title: str, xlabel: str, ylabel: str, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], target: Path
) -> None:
    """Lines by name: (x, y). Raises ImportError."""
    plt = _pyplot()
    plt.rcParams["svg.fonttype"] = "none"  # text stays text
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for number, (name, (xs, ys)) in enumerate(lines.items()):
        turn, colour = divmod(number, len(COLOURS))
        axis.plot(xs, ys, marker="o", label=name, color=COLOURS[colour], linestyle=STYLES[turn % len(STYLES)])
    axis.set(title=title, xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, dpi=110)
    plt.close(figure)


def comparison_bars(comparison: Comparison) -> dict[str, Bars]:
    """Medians, in one panel per model and first word of the figures: rates of one kind share an axis."""
    panels: dict[str, dict[str, dict[str, float | None]]] = {}
    for sample in comparison.samples:
        word = sample.figure.split(" ", 1)[0]
        kind = word if word in ("prefill", "decode") else "output"
        bars = panels.setdefault(f"{sample.model}, {kind}, {sample.unit}", {})
        bars.setdefault(
            sample.figure,
            {peer: comparison.median(sample.group, sample.figure, peer) for peer in comparison.peers(sample.model)},
        )
    return dict(panels)


def _scores(axis: Axes, checks: Sequence[Check]) -> None:
    names = [check.name for check in checks]
    scores = [min(check.score, 3.0) for check in checks]
    colours = [COLOURS[0] if check.holds else COLOURS[2] for check in checks]
    axis.barh(names, scores, color=colours)
    axis.axvline(1.0, color="black", linewidth=0.8)
    axis.invert_yaxis()
    axis.set_xlabel("share of the goal (cut at 3)")
    axis.tick_params(axis="y", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)


def _bars(axis: Axes, title: str, bars: Bars) -> None:
    peers = list(dict.fromkeys(peer for by_peer in bars.values() for peer in by_peer))
    width = 0.8 / len(peers)
    for n, peer in enumerate(peers):
        places = [i + n * width for i in range(len(bars))]
        heights = [by_peer.get(peer) or 0.0 for by_peer in bars.values()]
        drawn = axis.bar(places, heights, width, label=peer, color=COLOURS[n % len(COLOURS)])
        axis.bar_label(drawn, fmt="%.0f", fontsize=6)
    axis.set_xticks([i + width * (len(peers) - 1) / 2 for i in range(len(bars))], list(bars), fontsize=7)
    axis.set_title(title, fontsize=9)
    axis.legend(frameon=False, fontsize=6)
    axis.spines[["top", "right"]].set_visible(False)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
