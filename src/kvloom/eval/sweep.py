"""Where does the model itself stop working? Scores of the exact cache by length, against the shortest lengths.

A task's base is its mean score at the shortest length at which it carries signal; its effective length is the longest
up to which the score never falls below 85% of the base. Source of the threshold: NoLiMa (Modarressi et al. 2025).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from kvloom.eval.clusters import clusters_of
from kvloom.eval.judge import has_signal
from kvloom.eval.observe import Prompt, method_of, observe, scores
from kvloom.eval.records import Row
from kvloom.eval.share import share
from kvloom.eval.stats import Interval

RETAINED = 0.85


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How far a model carries one task. ``scores``: (length, mean with its interval), ascending.

    ``base`` and ``effective_length``: None when no length shows signal: the model cannot do the task at all.
    """

    task: str
    scores: tuple[tuple[int, Interval], ...]
    base: float | None
    effective_length: int | None

    @property
    def stops_at(self) -> int | None:
        """The first length tried at which the model has stopped working; None when it went through, or never began."""
        if self.effective_length is None:
            return None
        return next((length for length, _ in self.scores if length > self.effective_length), None)


def reach(rows: Sequence[Row]) -> list[Reach]:
    """Judge every task of an exact run."""
    by_task: dict[str, dict[int, list[Prompt]]] = defaultdict(dict)
    for (task, length), prompts in (method_of(rows).cells() if rows else {}).items():
        by_task[task][length] = prompts
    return [_reach(task, lengths) for task, lengths in by_task.items()]


def _reach(task: str, lengths: dict[int, list[Prompt]]) -> Reach:
    found = tuple((length, share(clusters_of([observe(lengths[length], scores)]))) for length in sorted(lengths))
    base: float | None = None
    effective: int | None = None
    for length, interval in found:
        if base is None:
            if not has_signal(lengths[length]):
                continue
            base = interval.mean
        if interval.mean < RETAINED * base:
            break
        effective = length
    return Reach(task=task, scores=found, base=base, effective_length=effective)
