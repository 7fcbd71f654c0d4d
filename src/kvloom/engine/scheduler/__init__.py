"""The scheduler: a short loop over stages, each of which extends or trims the plan of a step."""

from __future__ import annotations

from collections.abc import Sequence as ListOf
from dataclasses import dataclass, field
from typing import Protocol

from kvloom.engine.scheduler.state import Queues, StepPlan


class Stage(Protocol):
    """One concern of scheduling."""

    def run(self, queues: Queues, plan: StepPlan) -> None: ...


@dataclass
class Scheduler:
    """``step_tokens``: maximum number of rows per step."""

    stages: ListOf[Stage]
    step_tokens: int
    queues: Queues = field(default_factory=Queues)

    def schedule(self) -> StepPlan:
        """Plan the next step. When this returns, its memory is reserved."""
        plan = StepPlan(self.step_tokens)
        for stage in self.stages:
            stage.run(self.queues, plan)
        return plan


__all__ = ["Queues", "Scheduler", "Stage", "StepPlan"]
