"""When to stop peers that are far behind: they take most of a sitting's time, and no claim depends on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kvloom.bench.target import Answer, Target

FAR = 1.25
"""Multiple of the best peer's time: as much as a shared machine's own speed varies."""
_RUNS_FIRST = 8
"""No peer is stopped on fewer runs: a workload of one run is always completed."""


class FarBehind(Exception):
    """``times``: the time of so many ``runs`` over the best peer's for the same."""

    def __init__(self, times: float, runs: int) -> None:
        super().__init__(f"{times:.1f} times the best peer's time after {runs} runs")
        self.times, self.runs = times, runs


@dataclass(slots=True)
class Paced:
    """A target that may not fall far behind. Raises FarBehind between two runs of a workload.

    best_s: the seconds that the best peer had taken at the end of each run; taken_s: what this one had.
    """

    target: Target
    best_s: Sequence[float]
    taken_s: list[float] = field(default_factory=list)

    def reset(self) -> None:
        self.target.reset()

    def run(self, prompts: Sequence[Sequence[int]], num_new: int) -> list[Answer]:
        answers = self.target.run(prompts, num_new)
        before = self.taken_s[-1] if self.taken_s else 0.0
        self.taken_s.append(before + max(answer.times_s[-1] for answer in answers))
        runs = len(self.taken_s)
        if _RUNS_FIRST <= runs <= len(self.best_s) and self.taken_s[-1] > FAR * self.best_s[runs - 1]:
            raise FarBehind(self.taken_s[-1] / self.best_s[runs - 1], runs)
        return answers


def quicker(one: Sequence[float], other: Sequence[float]) -> Sequence[float]:
    """Of two peers' times the quicker's at the end; an empty one is no peer's.

    >>> quicker([], [1.0, 3.0]), quicker([2.0, 2.5], [1.0, 3.0])
    ([1.0, 3.0], [2.0, 2.5])
    """
    return min((times for times in (one, other) if times), key=lambda times: times[-1], default=())
