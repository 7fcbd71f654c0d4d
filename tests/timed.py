"""A tiny model on a simulated clock: computing takes what a known cost says, and nothing else takes any time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import tiny
from kvloom.arrays import Floats
from kvloom.attend.plan import Plan
from kvloom.model.base import Indices
from kvloom.policy.cost import PrefillCost


@dataclass
class Clock:
    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


class TimedModel(tiny.TinyModel):
    """``cost`` may be changed while it runs: the machine becomes slower."""

    def __init__(self, cost: PrefillCost, clock: Clock) -> None:
        super().__init__()
        self.cost, self.clock = cost, clock

    def forward(self, tokens_T: Indices, plan: Plan, *args: Any, **options: Any) -> Floats:
        positions = int(np.sum(plan.positions_T, dtype=np.int64))
        self.clock.now_s += self.cost.step(plan.positions_T.size, positions)
        return super().forward(tokens_T, plan, *args, **options)
