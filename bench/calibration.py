"""What a calibration found: the order of methods by each measure, and how many samples a loss needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

import numpy as np

from kvloom.eval.clusters import Clusters
from kvloom.eval.compare import Comparison
from kvloom.eval.paired import detectable
from kvloom.eval.report.markdown import points, table

LOSSES = (0.02, 0.05, 0.1)
MOST_DOCUMENTS = 2**14
Floats = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Measured:
    """One method. ``answers``: against exact; ``differences``: the same taken apart, None when no task counts.

    ``recall_kept``: share of what the context gives to tokens that need it. KL in nats per token: of those tokens, and
    of all tokens of a text.
    """

    label: str
    answers: Comparison
    differences: Clusters | None
    recall_kept: float
    recall_kl: float
    plain_kl: float

    @property
    def composite(self) -> float:
        """Points lost or won against the exact cache."""
        return 0.0 if self.answers.overall is None else self.answers.overall.difference.mean


MEASURES: Mapping[str, Callable[[Measured], float]] = {
    "composite": lambda each: -each.composite,
    "recall kept": lambda each: -each.recall_kept,
    "recall KL": lambda each: each.recall_kl,
    "plain KL": lambda each: each.plain_kl,
}
"""Less is better."""


def page(model: str, how: Sequence[str], methods: Sequence[Measured]) -> str:
    """A section on one model. ``how``: lines on what was run."""
    lines = [f"## {model}", "", *how, "", *_methods(methods), "", *_orders(methods), "", *_correlations(methods), ""]
    return "\n".join([*lines, *_samples(methods), ""])


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's, equals sharing their mean rank; NaN when all of one are equal.

    >>> round(rank_correlation([1, 2, 3], [10, 30, 20]), 3)
    0.5
    """
    ranks = [_ranks(values) for values in (a, b)]
    if any(np.ptp(each) == 0 for each in ranks):
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def documents_needed(differences: Clusters, loss: float) -> int | None:
    """The fewest documents like these that show ``loss`` in 80 of 100 cases; None when thousands would not.

    Seeds of a random method apart, whose error more documents do not make smaller.
    """

    def shows(count: int) -> bool:
        found = detectable(_like(differences, count))
        return found is not None and found <= loss

    high = 2
    while not shows(high):
        high *= 2
        if high > MOST_DOCUMENTS:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if shows(middle) else (middle, high)
    return high


def _like(found: Clusters, count: int) -> Clusters:
    """As many documents, the known ones again and again."""
    scale = len(found.weights_D) / count
    sums, weights, left = (np.resize(x, count) * scale for x in (found.sums_D, found.weights_D, found.left_D))
    return Clusters(sums, weights, left, 0.0)


def _ranks(values: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    x = np.asarray(values, np.float64)
    return np.array([(x < each).sum() + ((x == each).sum() - 1) / 2 for each in x])


def _methods(methods: Sequence[Measured]) -> Iterator[str]:
    head = ("method", "KV bytes", "equal answers", "composite less exact", "p", "recall kept", "recall KL", "plain KL")
    yield from table(head, map(_row, methods))


def _row(each: Measured) -> tuple[str, ...]:
    overall, ratio = each.answers.overall, each.answers.bytes_ratio
    return (
        f"`{each.label}`",
        "-" if ratio is None else f"{100 * ratio:.1f}%",
        f"{100 * each.answers.equal:.0f}%",
        "-" if overall is None else points(overall.difference),
        "-" if overall is None else f"{overall.p:.3g}",
        f"{100 * each.recall_kept:.0f}%",
        f"{each.recall_kl:.4f}",
        f"{each.plain_kl:.4f}",
    )


def _orders(methods: Sequence[Measured]) -> Iterator[str]:
    yield "Best first, by each measure:"
    yield ""
    orders = [[each.label for each in sorted(methods, key=measure)] for measure in MEASURES.values()]
    numbered = [(f"{n + 1}", *(f"`{label}`" for label in labels)) for n, labels in enumerate(zip(*orders, strict=True))]
    yield from table(("", *MEASURES), numbered)


def _correlations(methods: Sequence[Measured]) -> Iterator[str]:
    yield "Rank correlation (Spearman) of these orders:"
    yield ""
    values = {name: [measure(each) for each in methods] for name, measure in MEASURES.items()}
    rows = [(f"{a} and {b}", f"{rank_correlation(values[a], values[b]):.2f}") for a, b in combinations(MEASURES, 2)]
    yield from table(("measures", "correlation"), rows)


def _samples(methods: Sequence[Measured]) -> Iterator[str]:
    yield "Documents that show such a loss against the exact cache in 80 of 100 cases, if they spread as these do:"
    yield ""
    known = {each.label: each.differences for each in methods if each.differences is not None}
    needed = {label: [documents_needed(found, loss) for loss in LOSSES] for label, found in known.items()}
    head = ("method", *(f"{100 * loss:.0f} points" for loss in LOSSES))
    rows = [(f"`{label}`", *map(_number, counts)) for label, counts in needed.items()]
    if needed:
        columns = zip(*needed.values(), strict=True)
        middle = [median(float("inf") if n is None else n for n in column) for column in columns]
        rows.append(("median", *(_number(None if m == float("inf") else round(m)) for m in middle)))
    yield from table(head, rows)


def _number(count: int | None) -> str:
    return f"over {MOST_DOCUMENTS:,}" if count is None else f"{count:,}"
