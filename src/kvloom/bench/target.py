"""What a workload asks of an engine: two verbs. Standard library only: other engines' environments import it too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Answer:
    """Tokens of one greedy answer, and the seconds, since the prompts of its run were handed over, when each came."""

    tokens: list[int]
    times_s: list[float]

    @property
    def ttft_s(self) -> float:
        return self.times_s[0]

    @property
    def decode_tokens_per_s(self) -> float:
        """After the first token: prefill noise stays out."""
        return (len(self.times_s) - 1) / (self.times_s[-1] - self.times_s[0])


class Target(Protocol):
    """A loaded engine."""

    def reset(self) -> None:
        """Forget all KV that could be reused."""
        ...

    def run(self, prompts: Sequence[Sequence[int]], num_new: int) -> list[Answer]:
        """Answer all prompts, handed over together, greedily and to exactly ``num_new`` tokens each.

        KV of an earlier run that fits is reused, as far as the engine can.
        """
        ...
