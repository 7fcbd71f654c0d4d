"""A picture of the table: ``python -m bench.chart FOLDER`` reads engines.json and writes engines.png beside it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.report import Run, Table

_COLOURS = ("#1b6ca8", "#c9c9c9", "#e0a458", "#7a9e7e")
_PANELS = (("prefill", "tokens per second"), ("decode after", "tokens per second"))


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) != 1 or not (Path(given[0]) / "engines.json").is_file():
        print("error: name one folder that has an engines.json\nhint: make bench writes one", file=sys.stderr)
        return 2
    try:
        import matplotlib
    except ImportError:
        print("error: charts need matplotlib\nhint: pip install 'kvloom[reports]'", file=sys.stderr)
        return 1
    matplotlib.use("Agg")
    folder = Path(given[0])
    table = read(folder / "engines.json")
    draw(table, folder / "engines.png")
    print(folder / "engines.png")
    return 0


def read(path: Path) -> Table:
    fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return Table(**fields | {"runs": [Run(**run) for run in fields["runs"]]})


def medians(table: Table, peer: str, prefix: str) -> dict[str, float]:
    """Context length to the median over the rounds, of the workloads whose name begins so."""
    values: dict[str, list[float]] = {}
    for run in table.runs:
        for figure in run.of("figure") if run.who == peer else []:
            if figure["workload"].startswith(prefix + " "):
                values.setdefault(figure["workload"].rsplit(" ", 1)[-1], []).append(figure["value"])
    return {length: median(each) for length, each in values.items()}


def draw(table: Table, target: Path) -> None:
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(_PANELS), figsize=(9, 3.2), layout="constrained")
    width = 0.8 / len(table.peers)
    for panel, (prefix, label) in zip(panels, _PANELS, strict=True):
        for n, peer in enumerate(table.peers):
            bars = medians(table, peer, prefix)
            places = [i + n * width for i in range(len(bars))]
            drawn = panel.bar(places, list(bars.values()), width, label=peer, color=_COLOURS[n % len(_COLOURS)])
            panel.bar_label(drawn, fmt="%.0f", fontsize=8)
            panel.set_xticks([i + width * (len(table.peers) - 1) / 2 for i in range(len(bars))], list(bars))
        panel.set_title(f"{prefix} … tokens")
        panel.set_ylabel(label)
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1].legend(frameon=False)
    figure.suptitle(f"{table.model}, batch 1, {table.hardware}, {table.threads} threads", fontsize=10)
    figure.savefig(target, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
