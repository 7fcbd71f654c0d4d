"""Results on disk: one Markdown, one JSON and one PNG per result, by hardware and month. Everything is filed here."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from bench.comparison import Comparison
from bench.harness import Check, Outcome, note
from bench.pace import FAR
from kvloom.config import default_threads, processor

RESULTS = Path(__file__).parent / "results"

CAVEATS = (
    "Ratios between engines of one sitting may be quoted; the absolute figures of a small, shared machine may not.",
    "Engines take turns, cell by cell and round by round, the others stopped. Figures are medians of the rounds, with "
    "the least and the most; a ratio is the median of the rounds' ratios.",
    f"A peer that is over {FAR:g} times behind the best peer in every figure of a workload is left out of its later "
    "rounds; in a workload of many runs it is stopped when it has taken that many times the best peer's time.",
    "All engines run the weights of one GGUF file; those that cannot read it run them dequantized to float32. The "
    "tables compare what a user gets from one file, not kernels.",
    "Prompts are random tokens unless a row says `of text`; answers are greedy and run to their full length. Decode is "
    "timed from streamed tokens.",
    "The limit of decode is weights (the output layer included) and KV read once per token at the measured bandwidth; "
    "that of prefill is the arithmetic of the layers and of attention at the measured sgemm rate.",
)


@dataclass(frozen=True, slots=True)
class Stamp:
    """The circumstances of a result. ``taken``: the end of the measurement, UTC."""

    command: str
    hardware: str
    threads: int
    taken: str

    @classmethod
    def now(cls, command: str) -> Stamp:
        return cls(command, processor(), default_threads(), datetime.now(UTC).isoformat(timespec="minutes"))


@dataclass(frozen=True, slots=True)
class Report:
    """An outcome and the circumstances that it was measured in."""

    stamp: Stamp
    outcome: Outcome

    def markdown(self) -> str:
        outcome, comparison, stamp = self.outcome, self.outcome.comparison, self.stamp
        quick = "**Quick run: it shows that the measurement works, and nothing else.**"
        parts = [
            f"# {outcome.claim}",
            f"    {stamp.command}",
            *([quick] if outcome.details.get("quick") else []),
            f"**{'Holds' if outcome.holds else 'Does not hold'}**: {outcome.value:g} {outcome.unit} "
            f"(goal {outcome.goal:g}).",
            *(["\n".join(f"- {caveat}" for caveat in CAVEATS)] if comparison else []),
            f"{stamp.hardware}, {stamp.threads} threads, {stamp.taken}.",
            *([checks_table(outcome.checks)] if outcome.checks else []),
            *(comparison_parts(comparison) if comparison else []),
        ]
        return "\n\n".join(parts) + "\n"

    def json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"


def folder_for(stamp: Stamp) -> Path:
    """``bench/results/<hardware>/<year-month>``."""
    return RESULTS / slug(f"{stamp.hardware} {stamp.threads} threads") / stamp.taken[:7]


def slug(text: str) -> str:
    """For a folder name.

    >>> slug("AMD EPYC 7B13 (2 cores)")
    'amd-epyc-7b13-2-cores'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def write(report: Report, folder: Path) -> Path:
    """Write ``claim-NAME.md``, ``.json`` and, with matplotlib, ``.png``; returns the first."""
    from bench.chart import draw_outcome

    stem = f"claim-{report.outcome.claim}"
    drawing = (lambda path: draw_outcome(report.outcome, path)) if report.outcome.checks else None
    return write_files(folder, stem, report.markdown(), report.json(), drawing)


def write_files(folder: Path, stem: str, markdown: str, data: str, draw: Callable[[Path], None] | None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{stem}.md"
    target.write_text(markdown, encoding="utf-8")
    target.with_suffix(".json").write_text(data, encoding="utf-8")
    try:
        if draw is not None:
            draw(target.with_suffix(".png"))
    except ImportError:
        note("no chart: pip install 'kvloom[reports]'")
    return target


def checks_table(checks: tuple[Check, ...]) -> str:
    rows = [
        f"| {check.name} | **{check.value:.3g}** | {check.goal:g} | {check.unit} | {'yes' if check.holds else 'no'} "
        f"| {check.remark} |"
        for check in checks
    ]
    return "\n".join(["| what | value | goal | unit | holds | |", "|---|---|---|---|---|---|", *rows])


def comparison_parts(comparison: Comparison) -> list[str]:
    """Rates, peaks, who took part and with which settings."""
    limit = comparison.limit
    models = list(dict.fromkeys(about.model for about in comparison.about))
    parts = [
        f"{comparison.threads} threads for each engine, room for the KV of {comparison.kv_tokens:,} tokens, or of what "
        f"the largest workload of a model needs. Limits in the same sitting: memory read {limit.read_gb_s:.1f} GB/s, "
        f"sgemm {limit.sgemm_gflop_s:.0f} GFLOP/s."
    ]
    for model in models:
        peers = comparison.peers(model)
        parts += [f"## {model}", _rates(comparison, model, peers), _peaks(comparison, model, peers)]
        parts.append("\n".join(_about(comparison, model)))
    if comparison.stopped:
        parts.append("\n".join(f"- Stopped: {each.peer} in {each.workload}, {each.why}" for each in comparison.stopped))
    if comparison.absent:
        parts.append("\n".join(f"- Not measured: {peer}, {why}" for peer, why in comparison.absent.items()))
    return parts


def _rates(comparison: Comparison, model: str, peers: list[str]) -> str:
    units = {(s.group, s.figure): s.unit for s in comparison.samples if s.model == model}
    stopped = {(each.workload, each.peer) for each in comparison.stopped if each.model == model}
    rows = {
        f"{figure} | {unit}": {
            peer: "stopped" if (figure, peer) in stopped else list(comparison.values(group, figure, peer).values())
            for peer in peers
        }
        for (group, figure), unit in units.items()
    }
    return _table("workload | unit", peers, rows, ".1f")


def _peaks(comparison: Comparison, model: str, peers: list[str]) -> str:
    found = [peak for peak in comparison.peaks if peak.model == model]
    rows = {
        f"{name} | MiB": {
            peer: [p.peak_bytes / 2**20 for p in found if (p.peer, p.workload) == (peer, name)] for peer in peers
        }
        for name in dict.fromkeys(peak.workload for peak in found)
    }
    return _table("peak resident memory | unit", peers, rows, ".0f")


def _table(head: str, peers: list[str], rows: Mapping[str, Mapping[str, list[float] | str]], style: str) -> str:
    """A row's values by peer and round, or a word instead."""
    lines = [f"| {head} | " + " | ".join(peers) + " |", "|---" * (len(peers) + 2) + "|"]
    for name, by_peer in rows.items():
        rounds = max(len(values) for values in by_peer.values() if isinstance(values, list))
        cells = [_cell(values, style, rounds) for values in (by_peer[peer] for peer in peers)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: list[float] | str, style: str, rounds: int) -> str:
    """
    >>> _cell([2.0, 1.0, 4.0], ".0f", 3), _cell([2.0], ".0f", 3), _cell([2.0], ".0f", 1), _cell([], ".0f", 1)
    ('**2** (1 to 4; 3 rounds)', '**2** (left out after 1)', '**2**', '-')
    """
    if isinstance(values, str) or not values:
        return str(values or "-")
    told = [f"{min(values):{style}} to {max(values):{style}}"] if len(values) > 1 else []
    if len(values) < rounds:
        told.append(f"left out after {len(values)}")
    elif rounds > 1:
        told.append(f"{rounds} rounds")
    return f"**{median(values):{style}}**" + (f" ({'; '.join(told)})" if told else "")


def _about(comparison: Comparison, model: str) -> list[str]:
    return [
        f"- {about.peer} {about.facts.version}: {about.facts.settings}. First {about.agreeing} of "
        f"{about.probe_tokens} greedy tokens as kvloom's; {about.loaded_bytes / 2**20:.0f} MiB at most while loading."
        for about in comparison.about
        if about.model == model
    ]
