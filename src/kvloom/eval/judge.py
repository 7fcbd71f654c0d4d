"""Which cells can distinguish methods: decided by the exact cache, never by one of the methods that are compared.

A cell counts when exact answers depend on the context, and, if they are answers to the measured samples themselves,
when enough of them are right. Selecting and measuring on the same samples biases every method against the exact cache;
the threshold keeps the bias small: about (2s - 1) / (n + 2) for a score of s on n samples, if all true scores are
equally likely, and none where cells are selected on other samples.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

from kvloom.eval.clusters import clusters_of
from kvloom.eval.observe import CellKey, Prompt, method_of, observe, over_control, scores
from kvloom.eval.paired import paired
from kvloom.eval.records import Row, Settings

LEAST_SCORE = 0.6
"""Score that the exact cache must reach where cells are selected and measured on the same samples."""

Standing = Literal["counts", "too low", "no signal", "not judged"]
_WORST: tuple[Standing, ...] = ("no signal", "too low", "counts")


@dataclass(frozen=True, slots=True)
class Judge:
    """The exact cache's decision about every cell. ``how``: on which samples; empty when there was no exact run."""

    standings: Mapping[CellKey, Standing] = field(default_factory=dict)
    how: str = ""

    def of(self, cell: CellKey) -> Standing:
        return self.standings.get(cell, "not judged")


def judge_of(exact: Sequence[Sequence[Row]], measured: Settings) -> Judge:
    """Judge cells by exact runs, for a measurement with such settings.

    Runs on other samples are preferred, and combined. A cell counts if it counts for all exact runs that contain it.
    """
    apart: dict[str, list[Row]] = defaultdict(list)
    for rows in exact:
        if rows[0].settings.seed != measured.seed:
            apart[rows[0].settings.weights_id].extend(rows)
    if apart:
        seeds = sorted({row.settings.seed for row in chain.from_iterable(apart.values())})
        named = f"other samples (seed {', '.join(map(str, seeds))})"
        return Judge(_all(_standings(rows, 0.0) for rows in apart.values()), named)
    if not exact:
        return Judge()
    named = f"the same samples, with an exact score of {100 * LEAST_SCORE:.0f}% at least"
    return Judge(_all(_standings(rows, LEAST_SCORE) for rows in exact), named)


def baseline_of(exact: Sequence[Sequence[Row]], rows: Sequence[Row]) -> Sequence[Row] | None:
    """The exact run on the samples of these rows, with most prompts in common; None when there is none."""
    keys, seed = {row.key for row in rows}, rows[0].settings.seed
    same = [(len(keys & {row.key for row in each}), each) for each in exact if each[0].settings.seed == seed]
    shared, best = max(same, key=lambda pair: pair[0], default=(0, None))
    return best if shared else None


def has_signal(prompts: Sequence[Prompt]) -> bool:
    """Whether answers score better than another sample's answers, that is, depend on the context."""
    found = observe(prompts, over_control)
    return bool(found) and paired(clusters_of([found])).difference.low > 0


def _standings(rows: Sequence[Row], least: float) -> dict[CellKey, Standing]:
    by_seed: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        by_seed[row.settings.seed].append(row)
    cells: dict[CellKey, list[Prompt]] = defaultdict(list)
    for of_seed in by_seed.values():
        for key, prompts in method_of(of_seed).cells().items():
            cells[key] += prompts
    return {key: _standing(prompts, least) for key, prompts in cells.items()}


def _standing(prompts: Sequence[Prompt], least: float) -> Standing:
    if not has_signal(prompts):
        return "no signal"
    return "counts" if clusters_of([observe(prompts, scores)]).mean >= least else "too low"


def _all(judgements: Iterable[Mapping[CellKey, Standing]]) -> dict[CellKey, Standing]:
    """The strictest verdict on every cell."""
    said: dict[CellKey, list[Standing]] = defaultdict(list)
    for each in judgements:
        for cell, standing in each.items():
            said[cell].append(standing)
    return {cell: min(standings, key=_WORST.index) for cell, standings in said.items()}
