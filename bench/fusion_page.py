"""What a study of fusion found: composites and KL by selector and share computed again, tasks, what users do today."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.chart import draw_lines
from bench.fusion_records import EVERYTHING, NOTHING, Records, exact_match, f1, kl, score, way_at
from bench.fusion_times import Times, read_times
from bench.harness import note
from kvloom.eval.report.markdown import points, table
from kvloom.eval.stats import Interval

RATIOS = (NOTHING, 0.05, 0.15, 0.3, EVERYTHING)
SHOWN = 0.15
"""The ratio at which tasks are shown one by one."""


def write_page(model: str, place: Path, ways: Sequence[str]) -> Path:
    """Beside the place; charts are in it."""
    records, times = Records(place, tuple(ways)), read_times(place)
    charts = _draw(model, records, place) if records.complete else []
    lines = ["# Fusion: quality against cost", "", f"## {model}", ""]
    lines += [f"![{name}]({place.name}/{name})\n" for name in charts]
    lines += list(_answers(records)) if records.exact else ["No answers yet.", ""]
    if times is not None:
        lines += _times(times)
    target = place.parent / "fusion-study.md"
    target.write_text("\n".join(lines), encoding="utf-8")
    return target


def selectors_of(ways: Sequence[str]) -> list[str]:
    """Those at several ratios, in order.

    >>> selectors_of(("reuse", "a3:ratio=0.05", "a3:ratio=0.15", "a3+epic:ratio=0.15", "recompute"))
    ['a3', 'a3+epic']
    """
    found = (way.partition(":ratio=")[0] for way in ways if ":ratio=" in way)
    return list(dict.fromkeys(found))


def _answers(records: Records) -> Iterator[str]:
    tasks = list(dict.fromkeys(row.task for row in records.exact))
    count = len(records.exact)
    each = count // max(1, len(tasks))
    yield f"{count} questions, {each} of each task; what counts was chosen on {records.judge.how}."
    yield ""
    counting = ", ".join(records.counting) or "none"
    yield f"Exact composite: {100 * records.best:.1f}, of the tasks that count: {counting}."
    yield ""
    yield "### Composite less exact, points, with its 95% interval"
    yield ""
    yield from _by_ratio(records, lambda way: _composite(records, way))
    yield ""
    yield "### Mean KL of the exact answer's tokens, nats, over all questions, with its 95% interval"
    yield ""
    yield from _by_ratio(records, lambda way: _interval(records.kl(way)))
    yield ""
    yield "What is chosen by an early layer has layers up to that exact, at 0% too."
    yield ""
    yield from _against(records)
    yield from _by_task(records, tasks)
    yield from _today(records, tasks)


def _by_ratio(records: Records, cell: Callable[[str], str]) -> Iterator[str]:
    def shown(selector: str, ratio: float) -> str:
        way = way_at(selector, ratio)
        return cell(way) if way in records else "-"

    head = ("selector", *(f"{ratio:.0%}" for ratio in RATIOS))
    rows = [(f"`{name}`", *(shown(name, ratio) for ratio in RATIOS)) for name in selectors_of(records.ways)]
    yield from table(head, rows)


def _against(records: Records) -> Iterator[str]:
    ours = way_at("a3", SHOWN)
    if ours not in records:
        return
    yield f"### A^3 at {SHOWN:.0%} less others at the same ratio, question by question"
    yield ""
    rows = []
    for name in selectors_of(records.ways):
        other = way_at(name, SHOWN)
        if other != ours and other in records:
            overall = records.between(other, ours).overall
            said = ("-", "-") if overall is None else (points(overall.difference), f"{overall.p:.3g}")
            rows.append((f"`{name}`", *said, _interval(records.kl_between(other, ours))))
    yield from table(("against", "composite, points", "p", "KL, nats"), rows)
    yield ""


def _by_task(records: Records, tasks: Sequence[str]) -> Iterator[str]:
    kinds = {"Score, points": score, "F1, points": f1, "Exact match, points": exact_match, "KL, nats": kl}
    ways = [way_at(name, SHOWN) for name in selectors_of(records.ways)]
    shown = ["exact", *(way for way in ("reuse", "a3:ratio=0", *ways, "recompute") if way in records)]
    for title, of in kinds.items():
        yield f"### {title}, by task at {SHOWN:.0%}"
        yield ""
        scale, digits = (1.0, 4) if of is kl else (100.0, 1)
        rows = [(f"`{way}`", *(f"{scale * records.mean(way, task, of):.{digits}f}" for task in tasks)) for way in shown]
        yield from table(("way", *tasks), rows)
        yield ""


def _today(records: Records, tasks: Sequence[str]) -> Iterator[str]:
    """Against a prefix cache, whose answers are those of a full prefill."""
    passages = [task for task in tasks if task.startswith("gold_")]
    yield "### Against prefix caching alone, passages in the order in which they were retrieved"
    yield ""
    yield "Its answers are those of a full prefill. It finds the opening alone where another passage comes first."
    yield ""
    rows = []
    for way in ("exact", "reuse", *(way_at(name, SHOWN) for name in selectors_of(records.ways))):
        if way in records:
            found = [_mean([records.mean(way, task, of) for task in passages]) for of in (score, f1, exact_match)]
            same = f"{100 * records.against_exact(way).equal:.0f}%"
            far = f"{records.kl(way).mean:.4f}"
            rows.append(("prefix caching" if way == "exact" else f"`{way}`", *found, same, far))
    head = ("way", "passages: answer contained", "F1", "exact match", "answers as exact, all tasks", "KL, all tasks")
    yield from table(head, rows)
    yield ""


def _mean(values: Sequence[float]) -> str:
    return f"{100 * sum(values) / len(values):.1f}" if values else "-"


def _times(times: Times) -> Iterator[str]:
    yield "### Time to the first token, ms, median"
    yield ""
    yield f"Passages of {times.passage} tokens, {times.rounds} questions over each length, in a quiet engine."
    yield ""
    yield from table(("way", *times.columns), [(f"`{way}`", *times.cells(way)) for way in times.ways])
    yield ""


def _composite(records: Records, way: str) -> str:
    overall = records.against_exact(way).overall
    return "-" if overall is None else points(overall.difference)


def _interval(found: Interval) -> str:
    return f"{found.mean:.4f} [{found.low:.4f}, {found.high:.4f}]"


def _draw(model: str, records: Records, place: Path) -> list[str]:
    names = []
    kinds: dict[str, tuple[str, Callable[[str], float]]] = {
        "composite": ("composite (%)", lambda way: 100 * records.composite(way)),
        "kl": ("KL of an answer's token (nats)", lambda way: records.kl(way).mean),
    }
    for kind, (label, value) in kinds.items():
        lines = {}
        for name in selectors_of(records.ways):
            known = [(100 * ratio, value(way)) for ratio in RATIOS if (way := way_at(name, ratio)) in records]
            if len(known) > 3:
                lines[name] = ([x for x, _ in known], [y for _, y in known])
        try:
            draw_lines(f"{model}: {kind} by ratio", "computed again (%)", label, lines, place / f"{kind}.svg")
            names.append(f"{kind}.svg")
        except ImportError:
            note("no chart: pip install 'kvloom[reports]'")
    return names
