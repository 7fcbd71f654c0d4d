"""Two runs on the same prompts, row by row: what one policy costs against another, with paired tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from kvloom.errors import EvalError
from kvloom.eval.records import Row
from kvloom.eval.stats import Interval, bootstrap, sign_test, stratified
from kvloom.eval.summary import CellKey, grouped, has_signal, per_sample

_MAY_DIFFER = {"policy", "params", "protocol", "kv_dtype", "in_flight", "threads"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """B minus A on one cell, over ``count`` samples.

    ``p``: two-sided sign test. ``signal``: A shows that the model can do it.
    """

    task: str
    length: int
    count: int
    score_a: float
    score_b: float
    difference: Interval
    p: float
    signal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """``overall``: mean difference over cells with signal, None when no cell has any. Ratios are B over A, of sums.

    ``remarks``: differences of the settings beside the policy, which may explain what the policy is blamed for.
    """

    model: str
    a: str
    b: str
    deltas: tuple[Delta, ...]
    overall: Interval | None
    overall_p: float
    bytes_ratio: float
    ttft_ratio: float
    remarks: tuple[str, ...]


def compare(rows_a: Sequence[Row], rows_b: Sequence[Row]) -> Comparison:
    """Pair the rows of two runs by prompt. Raises EvalError when they share none, or answered different questions."""
    pairs = _pairs(rows_a, rows_b)
    a, b = pairs[0]
    cells = grouped(row for row, _ in pairs)
    signal = {key: has_signal(rows) for key, rows in cells.items()}
    other = {row.key: row for _, row in pairs}
    changes = {key: per_sample(rows, lambda row: other[row.key].score - row.score) for key, rows in cells.items()}
    telling = [changes[key] for key in cells if signal[key]]
    return Comparison(
        model=" and ".join(dict.fromkeys((a.settings.model, b.settings.model))),
        a=a.settings.label,
        b=b.settings.label,
        deltas=tuple(_delta(key, rows, changes[key], signal[key]) for key, rows in cells.items()),
        overall=stratified(telling) if telling else None,
        overall_p=sign_test([change for cell in telling for change in cell]),
        bytes_ratio=sum(y.kv_bytes_per_token for _, y in pairs) / sum(x.kv_bytes_per_token for x, _ in pairs),
        ttft_ratio=sum(y.ttft_s for _, y in pairs) / sum(x.ttft_s for x, _ in pairs),
        remarks=tuple(_remarks(a, b)),
    )


def _pairs(rows_a: Sequence[Row], rows_b: Sequence[Row]) -> list[tuple[Row, Row]]:
    found = {row.key: row for row in rows_b}
    pairs = [(row, found[row.key]) for row in rows_a if row.key in found]
    if not pairs:
        raise EvalError("the two runs have no prompt in common", hint="run them with the same tasks, lengths and seed")
    before, after = pairs[0][0].settings.prompts, pairs[0][1].settings.prompts
    differing = [
        f"{name} {was!r} against {after[name]!r}"
        for name, was in before.items()
        if was != after[name] and name not in ("model", "seed")
    ]
    if differing:
        raise EvalError(f"the two runs were asked differently: {'; '.join(differing)}", hint="run them alike")
    wrong = next((x for x, y in pairs if x.answers != y.answers or x.settings.seed != y.settings.seed), None)
    if wrong is not None:
        raise EvalError(
            f"{wrong.task} sample {wrong.index} asks different things in the two runs",
            hint="run them with the same seed, model and data files",
        )
    return sorted(pairs, key=lambda pair: (pair[0].length, pair[0].task, pair[0].index, pair[0].turn))


def _delta(key: CellKey, rows: Sequence[Row], changes: Sequence[float], signal: bool) -> Delta:
    score = fmean(per_sample(rows, lambda row: row.score))
    difference = bootstrap(changes)
    return Delta(
        task=key[0],
        length=key[1],
        count=len(changes),
        score_a=score,
        score_b=score + difference.mean,
        difference=difference,
        p=sign_test(changes),
        signal=signal,
    )


def _remarks(a: Row, b: Row) -> list[str]:
    x, y = dataclasses.asdict(a.settings), dataclasses.asdict(b.settings)
    differing = [name for name in x if x[name] != y[name] and name not in ("policy", "params", "code")]
    return [
        f"{name}: {x[name]} against {y[name]}" + ("" if name in _MAY_DIFFER else " (not the policy's doing)")
        for name in differing
    ]
