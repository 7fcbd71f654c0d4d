"""Two methods on the same prompts, row by row: what one costs against the other, on cells that a third run chose."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean

from kvloom.errors import EvalError
from kvloom.eval.clusters import Clusters, clusters_of
from kvloom.eval.judge import Judge, Standing
from kvloom.eval.observe import LEAST_SEEDS, CellKey, Method, Prompt, method_of, observe, scores
from kvloom.eval.paired import Paired, paired
from kvloom.eval.records import Key, Row, Settings
from kvloom.eval.stats import Interval

_POLICYS_OWN = {"policy", "params", "code"}
_MAY_DIFFER = {"protocol", "kv_dtype", "in_flight", "threads"}
Pairs = dict[Key, tuple[Prompt, Prompt]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """B minus A on one cell, over ``count`` samples about ``documents`` documents. See ``Paired``."""

    task: str
    length: int
    count: int
    documents: int
    score_a: float
    score_b: float
    difference: Interval
    p: float
    standing: Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpaired:
    """Prompts of a cell that only one of the methods has answered: they are left out."""

    task: str
    length: int
    only_a: int
    only_b: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """``overall``: over the cells that count, each as heavy as the next; None when none does. Ratios are B over A; None
    where A has nothing.

    ``equal``: the share of answers that are the same, word for word. ``bytes_ratio``: right after compression, before
    the question. ``end_bytes_ratio``: at the end of the answers, which may be long. ``chosen``: on which samples an
    exact run chose the cells; empty when there was none. ``remarks``: what beside the policies may explain a
    difference, or keep it from being one.
    """

    model: str
    a: str
    b: str
    deltas: tuple[Delta, ...]
    overall: Paired | None
    equal: float
    bytes_ratio: float | None
    end_bytes_ratio: float | None
    ttft_ratio: float | None
    chosen: str
    unpaired: tuple[Unpaired, ...]
    remarks: tuple[str, ...]


def compare(rows_a: Sequence[Row], rows_b: Sequence[Row], judge: Judge, common: bool = False) -> Comparison:
    """Pair the answers of two methods by prompt.

    Either may be several runs, with different seeds of a random policy. ``judge``: an exact run's word on which cells
    count. Raises EvalError when they share no prompt, or were asked different things, or when one lacks answers in a
    cell that both have: what lacks may not be a fair draw. ``common`` allows that; what lacks is counted all the same.
    """
    a, b = method_of(rows_a), method_of(rows_b)
    unpaired = tuple(_unpaired(a, b))
    if not common:
        _check_whole(a, b, unpaired)
    pairs = _pairs(a, b)
    by_cell = _by_cell(pairs)
    telling = [cell for key, cell in by_cell.items() if judge.of(key) == "counts"]
    return Comparison(
        model=" and ".join(dict.fromkeys((a.settings.model, b.settings.model))),
        a=a.label,
        b=b.label,
        deltas=tuple(_delta(key, cell, judge.of(key)) for key, cell in by_cell.items()),
        overall=paired(_difference(telling)) if telling else None,
        equal=_equal(pairs),
        bytes_ratio=_ratio(pairs, "context_bytes_per_token" if _say_context_bytes(pairs) else "kv_bytes_per_token"),
        end_bytes_ratio=_ratio(pairs, "kv_bytes_per_token"),
        ttft_ratio=_ratio(pairs, "ttft_s"),
        chosen=judge.how,
        unpaired=unpaired,
        remarks=tuple(_remarks(a, b, pairs)),
    )


def difference_of(rows_a: Sequence[Row], rows_b: Sequence[Row], judge: Judge) -> Clusters | None:
    """B minus A over the cells that count, taken apart by document; None when none does."""
    by_cell = _by_cell(_pairs(method_of(rows_a), method_of(rows_b)))
    telling = [cell for key, cell in by_cell.items() if judge.of(key) == "counts"]
    return _difference(telling) if telling else None


def _by_cell(pairs: Pairs) -> dict[CellKey, Pairs]:
    found: dict[CellKey, Pairs] = defaultdict(dict)
    for key in sorted(pairs, key=lambda key: (key[1], key[0], key[2:])):
        found[key[0], key[1]][key] = pairs[key]
    return dict(found)


def _unpaired(a: Method, b: Method) -> Iterator[Unpaired]:
    cells_a, cells_b = _keys_by_cell(a), _keys_by_cell(b)
    for cell in sorted(cells_a.keys() | cells_b.keys(), key=lambda cell: (cell[1], cell[0])):
        ours, theirs = cells_a.get(cell, set()), cells_b.get(cell, set())
        if ours != theirs:
            yield Unpaired(task=cell[0], length=cell[1], only_a=len(ours - theirs), only_b=len(theirs - ours))


def _keys_by_cell(method: Method) -> dict[CellKey, set[Key]]:
    found: dict[CellKey, set[Key]] = defaultdict(set)
    for key in method.prompts:
        found[key[0], key[1]].add(key)
    return found


def _check_whole(a: Method, b: Method, unpaired: Sequence[Unpaired]) -> None:
    hint = "finish the run with the command that began it, or compare what both have with --common"
    for method in (a, b):
        if method.holes:
            raise EvalError(f"the seeds of {method.label} lack {method.holes} answers that others have", hint=hint)
    shared = _keys_by_cell(a).keys() & _keys_by_cell(b).keys()
    holes = [each for each in unpaired if (each.task, each.length) in shared]
    if holes:
        lacks = sum(each.only_a + each.only_b for each in holes)
        raise EvalError(
            f"{lacks} prompts of {len(holes)} cells were answered in one run only, the first in {holes[0].task} at "
            f"{holes[0].length}: what lacks may not be a fair draw",
            hint=hint,
        )


def _pairs(a: Method, b: Method) -> Pairs:
    pairs = {key: (prompt, b.prompts[key]) for key, prompt in a.prompts.items() if key in b.prompts}
    if not pairs:
        raise EvalError("the two runs have no prompt in common", hint="run them with the same tasks, lengths and seed")
    if a.settings.asked != b.settings.asked:
        raise EvalError(
            "the two runs were asked in different ways (chat template, wording, haystack or edition of the tasks)",
            hint="run them with the same --chat, --wording and --haystack: scores of different protocols never mix",
        )
    for x, y in pairs.values():
        asked = {(row.answers, row.settings.seed) for row in (*x, *y)}
        if len(asked) > 1:
            raise EvalError(
                f"{x[0].task} sample {x[0].index} asks different things in the two runs",
                hint="run them with the same seed, model and data files",
            )
    return pairs


def _difference(cells: Sequence[Pairs]) -> Clusters:
    """B minus A."""
    seeds = len(next(iter(cells[0].values()))[0])
    both = [[x + y for x, y in cell.values()] for cell in cells]
    a = clusters_of([observe(prompts, lambda prompt: scores(prompt[:seeds])) for prompts in both])
    b = clusters_of([observe(prompts, lambda prompt: scores(prompt[seeds:])) for prompts in both])
    return b.minus(a)


def _delta(key: CellKey, cell: Pairs, standing: Standing) -> Delta:
    found = paired(_difference([cell]))
    score_a = clusters_of([observe((x for x, _ in cell.values()), scores)]).mean
    return Delta(
        task=key[0],
        length=key[1],
        count=len({key[:3] for key in cell}),
        documents=found.documents,
        score_a=score_a,
        score_b=score_a + found.difference.mean,
        difference=found.difference,
        p=found.p,
        standing=standing,
    )


def _equal(pairs: Pairs) -> float:
    """Every seed of one with every seed of the other."""
    return fmean(fmean(a.output == b.output for a, b in product(x, y)) for x, y in pairs.values())


def _ratio(pairs: Pairs, name: str) -> float | None:
    """Of sums, the seeds averaged."""
    a, b = (sum(fmean(getattr(row, name) for row in pair[side]) for pair in pairs.values()) for side in (0, 1))
    return b / a if a else None


def _say_context_bytes(pairs: Pairs) -> bool:
    return all(row.context_bytes_per_token is not None for x, y in pairs.values() for row in (*x, *y))


def _remarks(a: Method, b: Method, pairs: Pairs) -> Iterator[str]:
    for method in (a, b):
        if method.too_few_seeds:
            yield (
                f"{method.label} draws at random, and has {method.seeds} of {LEAST_SEEDS} seeds: what another would "
                "give is not in the intervals"
            )
    if not _say_context_bytes(pairs):
        yield "the rows do not say their bytes right after compression: the ratio is that at the end of the answers"
    yield from _differing(a.settings, b.settings)


def _differing(a: Settings, b: Settings) -> Iterator[str]:
    x, y = dataclasses.asdict(a), dataclasses.asdict(b)
    for name in x:
        if x[name] != y[name] and name not in _POLICYS_OWN:
            why = "" if name in _MAY_DIFFER else " (not the policy's doing)"
            yield f"also different: {name}: {x[name]} against {y[name]}{why}"
