"""What a step of the engine takes: prompts and answers each have their own cost per token and position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvloom.attend.plan import BySequence, Plan
from kvloom.policy.cost import PrefillCost


@dataclass(frozen=True, slots=True)
class StepCost:
    """``prefill``: of sequences that compute several tokens in a step; ``decode``: of those that compute one.

    What a step costs whatever it computes, weights that are read above all, is paid once, by the dearer of the two.
    ``steps``: so many steps are simulated as one if there are answers in it, each of which then gets so many tokens;
    prompts alone take a step for every ``rows`` tokens.

    >>> cost = StepCost(PrefillCost(1e-3, 1e-4, 0.0), PrefillCost(5e-3, 1e-5, 1e-8))
    >>> round(cost.seconds(prompt=(10, 45), answers=(2, 2000)), 6)
    0.00604
    """

    prefill: PrefillCost
    decode: PrefillCost
    steps: int = 1
    rows: int = 2**31

    def seconds(self, prompt: tuple[int, int], answers: tuple[int, int]) -> float:
        """Of a step that computes, of prompts and of answers, so many (tokens, sum of their positions)."""
        seconds = self._starts_s(prompt[0], answers[0])
        for cost, (new, positions) in ((self.prefill, prompt), (self.decode, answers)):
            seconds += cost.step(new, positions) - cost.start_s
        return seconds

    def of(self, plan: Plan) -> float:
        """Of a step as it is planned. Pages that several answers share are read once, as attention does."""
        rows_B = np.diff(plan.seq_rows_B1)
        single_B = rows_B == 1
        single_T = np.repeat(single_B, rows_B)
        positions_T = plan.positions_T.astype(np.int64)
        singles, before = int(single_T.sum()), int(positions_T[single_T].sum())
        prompt = plan.num_rows - singles, int(positions_T.sum()) - before
        return self.seconds(prompt, (singles, round(before * _distinct(plan, single_B))))

    def _starts_s(self, prompt: int, answers: int) -> float:
        if not answers:
            return -(-prompt * self.steps // self.rows) * self.prefill.start_s
        return self.steps * max(self.decode.start_s, self.prefill.start_s if prompt else 0.0)


def _distinct(plan: Plan, of_B: npt.NDArray[np.bool_]) -> float:
    """How many different pages the tables of sequences have together, as a share of all; 1 where there are none."""
    if np.count_nonzero(of_B) < 2:
        return 1.0
    listed, different = 0, 0
    for part in (part for group in plan.groups for part in group.parts if isinstance(part.lists, BySequence)):
        pages = part.page_ids_P[np.repeat(of_B, np.diff(part.lists.bounds_L1))]
        listed += pages.size
        different += np.unique(pages).size  # by sorting: ids of pages are as large as memory
    return different / listed if listed else 1.0
