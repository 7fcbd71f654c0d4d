"""What a study of compression found: composites by method and ratio, losses by task, canaries, LU-KV against others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.chart import draw_lines
from bench.harness import note
from kvloom.eval.compare import Comparison, compare
from kvloom.eval.judge import Judge
from kvloom.eval.records import Row
from kvloom.eval.report.markdown import points, table
from kvloom.eval.summary import summarize

LUKV = "allocator=lukv"
_DRAWN = 10


@dataclass(frozen=True, slots=True)
class Tried:
    """A method, as it is asked for without its ratio, and its answers. ``kl``: on texts, None if there were none."""

    method: str
    ratio: float
    rows: list[Row]
    kl: float | None = None


def page(
    model: str, exact: list[Row], tried: Sequence[Tried], judge: Judge, canaries: Sequence[str], charts: Sequence[str]
) -> str:
    """A section on one model. ``canaries``: tasks that are no part of a composite. ``charts``: files to show."""
    lines = [f"## {model}", "", *(f"![{name}]({name})\n" for name in charts)]
    for length in sorted({row.length for row in exact}):
        composed, others = _Length(exact, tried, judge, length, canaries).parts()
        lines += [f"### {model}, contexts of {length} tokens", "", *composed.lines(), *others.canary_lines()]
    if any(each.kl is not None for each in tried):
        lines += ["### KL of the next token's distribution on text, nats", "", *_kl(tried), ""]
    return "\n".join(lines)


def composite(rows: Sequence[Row], judge: Judge, canaries: Sequence[str]) -> dict[int, float]:
    """By length, of the tasks that count."""
    found = summarize([row for row in rows if row.task not in canaries], judge).composites
    return {each.length: each.score.mean for each in found if each.group == "all"}


def draw(
    model: str, exact: list[Row], tried: Sequence[Tried], judge: Judge, canaries: Sequence[str], place: Path
) -> list[str]:
    """Composite by share removed, the best methods, a chart for each length; their names."""
    names = []
    by_method: dict[str, dict[float, dict[int, float]]] = {}
    for each in tried:
        by_method.setdefault(each.method, {})[each.ratio] = composite(each.rows, judge, canaries)
    for length, best in composite(exact, judge, canaries).items():
        lines = {
            method: ([100 * r for r in of_ratio], [100 * found.get(length, 0.0) for found in of_ratio.values()])
            for method, of_ratio in by_method.items()
        }
        ranked = sorted(lines, key=lambda method: -sum(lines[method][1]))[:_DRAWN]
        ratios = sorted({100 * each.ratio for each in tried})
        drawn = {"exact": (ratios, [100 * best] * len(ratios)), **{method: lines[method] for method in ranked}}
        title = f"{model}, {length} tokens: the {len(ranked)} best methods"
        try:
            draw_lines(title, "removed (%)", "composite (%)", drawn, place / f"composite-{length}.svg")
            names.append(f"composite-{length}.svg")
        except ImportError:
            note("no chart: pip install 'kvloom[reports]'")
    return names


@dataclass(frozen=True, slots=True)
class _Length:
    exact: list[Row]
    tried: Sequence[Tried]
    judge: Judge
    length: int
    canaries: Sequence[str]

    def parts(self) -> tuple[_Part, _Part]:
        """(what composites are made of, the canaries)."""
        return self._part(canaries=False), self._part(canaries=True)

    def _part(self, canaries: bool) -> _Part:
        def mine(rows: list[Row]) -> list[Row]:
            return [row for row in rows if row.length == self.length and (row.task in self.canaries) == canaries]

        tried = [Tried(each.method, each.ratio, mine(each.rows), each.kl) for each in self.tried]
        return _Part(mine(self.exact), [each for each in tried if each.rows], self.judge, self.length)


@dataclass(frozen=True, slots=True)
class _Part:
    """Tasks at one length."""

    exact: list[Row]
    tried: Sequence[Tried]
    judge: Judge
    length: int

    def lines(self) -> Iterator[str]:
        found = {(each.method, each.ratio): compare(self.exact, each.rows, self.judge, True) for each in self.tried}
        counting = [task for task, _ in _counting(found)]
        exact = composite(self.exact, self.judge, ()).get(self.length)
        yield f"Exact: {'no task counts' if exact is None else f'{100 * exact:.1f}'} on {', '.join(counting) or '-'}."
        yield ""
        yield "Composite less exact, points, with its 95% interval, and KV bytes of the context as a share of exact:"
        yield ""
        yield from self._by_ratio(lambda method, ratio: _composite_cell(found.get((method, ratio))))
        yield ""
        for ratio in self.ratios if counting else ():
            yield f"By task at {ratio:.0%} removed, points less exact:"
            yield ""
            yield from table(
                ("method", *counting),
                [
                    (f"`{method}`", *_losses(found[method, ratio], counting))
                    for method in self.methods
                    if (method, ratio) in found
                ],
            )
            yield ""
        yield from self._lukv()

    def canary_lines(self) -> Iterator[str]:
        if not self.exact:
            return
        for task in sorted({row.task for row in self.exact}):
            right = {(each.method, each.ratio): _mean(each.rows, task) for each in self.tried}
            yield f"Canary `{task}`, mean score; exact: {_mean(self.exact, task)}."
            yield ""
            yield from self._by_ratio(partial(_known, right))
            yield ""

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(each.method for each in self.tried))

    @property
    def ratios(self) -> list[float]:
        return sorted({each.ratio for each in self.tried})

    def _by_ratio(self, cell: Callable[[str, float], str]) -> Iterator[str]:
        head = ("method", *(f"{ratio:.0%} removed" for ratio in self.ratios))
        yield from table(head, [(f"`{m}`", *(cell(m, ratio) for ratio in self.ratios)) for m in self.methods])

    def _others(self, lukv: Tried) -> Iterator[Tried]:
        for other in self.tried if LUKV in lukv.method else ():
            same = other.ratio == lukv.ratio and _without(other.method) == _without(lukv.method)
            if same and other.method != lukv.method:
                yield other

    def _against(self, lukv: Tried, other: Tried) -> tuple[str, ...]:
        found = compare(other.rows, lukv.rows, self.judge, common=True)
        losses = [
            f"{each.task} {100 * each.difference.mean:.1f}"
            for each in found.deltas
            if each.standing == "counts" and each.difference.mean < 0
        ]
        return (
            f"`{_without(lukv.method)}`",
            _allocator(other.method),
            f"{lukv.ratio:.0%}",
            "-" if found.bytes_ratio is None else f"{found.bytes_ratio:.3f}",
            "-" if found.overall is None else points(found.overall.difference),
            "-" if found.overall is None else f"{found.overall.p:.3g}",
            ", ".join(losses) or "none",
        )

    def _lukv(self) -> Iterator[str]:
        """LU-KV less every other allocator of the same scorer and parameters."""
        rows = [self._against(each, other) for each in self.tried for other in self._others(each)]
        if rows:
            yield "LU-KV less other allocators, the scores the same:"
            yield ""
            head = ("scores", "against", "removed", "bytes, times", "composite, points", "p", "tasks that lose")
            yield from table(head, rows)
            yield ""


def _known(cells: dict[tuple[str, float], str], method: str, ratio: float) -> str:
    return cells.get((method, ratio), "-")


def _allocator(method: str) -> str:
    words = dict(word.split("=", 1) for word in method.partition(":")[2].split(",") if word)
    return words.get("allocator", "uniform")


def _without(method: str) -> str:
    """The method's words, all but its allocator."""
    name, _, words = method.partition(":")
    others = [word for word in words.split(",") if word and not word.startswith("allocator=")]
    return name + (":" + ",".join(others) if others else "")


def _counting(found: dict[tuple[str, float], Comparison]) -> list[tuple[str, int]]:
    cells = {(d.task, d.length): None for each in found.values() for d in each.deltas if d.standing == "counts"}
    return sorted(cells)


def _composite_cell(found: Comparison | None) -> str:
    if found is None or found.overall is None:
        return "-"
    size = "" if found.bytes_ratio is None else f", {100 * found.bytes_ratio:.1f}%"
    return points(found.overall.difference) + size


def _losses(found: Comparison, tasks: Sequence[str]) -> Iterator[str]:
    by_task = {delta.task: f"{100 * delta.difference.mean:+.1f}" for delta in found.deltas}
    return (by_task.get(task, "-") for task in tasks)


def _mean(rows: Sequence[Row], task: str) -> str:
    scores = [row.score for row in rows if row.task == task]
    return f"{100 * sum(scores) / len(scores):.1f}" if scores else "-"


def _kl(tried: Sequence[Tried]) -> Iterator[str]:
    ratios, methods = sorted({each.ratio for each in tried}), list(dict.fromkeys(each.method for each in tried))
    known = {(each.method, each.ratio): each.kl for each in tried}

    def cell(method: str, ratio: float) -> str:
        value = known.get((method, ratio))
        return "-" if value is None else f"{value:.4f}"

    head = ("method", *(f"{ratio:.0%} removed" for ratio in ratios))
    yield from table(head, [(f"`{method}`", *(cell(method, ratio) for ratio in ratios)) for method in methods])
