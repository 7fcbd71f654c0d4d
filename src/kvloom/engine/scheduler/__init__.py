"""The scheduler: a short loop over stages, each of which trims or extends the draft of one step."""

from __future__ import annotations

from collections.abc import Sequence as ListOf
from dataclasses import dataclass, field
from typing import Protocol

from kvloom.engine.scheduler.state import Draft, Queues


class Stage(Protocol):
    """One concern of scheduling."""

    def run(self, queues: Queues, draft: Draft) -> None: ...


@dataclass
class Scheduler:
    """``step_tokens``: rows per step at most."""

    stages: ListOf[Stage]
    step_tokens: int
    queues: Queues = field(default_factory=Queues)

    def schedule(self) -> Draft:
        """Decide the next step. Memory for it is taken when this returns."""
        draft = Draft(self.step_tokens)
        for stage in self.stages:
            stage.run(self.queues, draft)
        return draft


__all__ = ["Draft", "Queues", "Scheduler", "Stage"]
