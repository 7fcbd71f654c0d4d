"""Conversations that begin with the same text, come at Gamma times, and go on after Gamma times of thinking.

Source: AsymCache (arXiv 2606.02964), evaluation: starts with a coefficient of variation of 0.25, and pauses that are
5 or 10 times as long as the time between starts ("low" and "high" dispersion, as we understand it). We differ: lengths
are uniform and suit small models; the paper does not give the variation of thinking times, which decides what can be
known of the next reuse: at 0.25 most conversations go on at about the same time, at 1 a conversation is as likely to
go on after a long pause as at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kvloom.simulate.traces.numbers import Numbers
from kvloom.simulate.traces.trace import Request, Trace, ordered

_START_CV = 0.25
LOW_DISPERSION, HIGH_DISPERSION = 5.0, 10.0


@dataclass(frozen=True, slots=True)
class MultiTurn:
    """``lengths``: total tokens of a conversation, uniform between them, the shared text not included; every one of
    its ``turns`` (a number between both, the second one not included) adds an equal part, which ends with an answer of
    ``answer_tokens``. ``arrival_s``: mean time between starts; ``dispersion``: mean time of thinking, as a multiple of
    that; ``think_cv``: its coefficient of variation.
    """

    sessions: int = 60
    shared_tokens: int = 320
    lengths: tuple[int, int] = (2048, 8192)
    turns: tuple[int, int] = (4, 9)
    answer_tokens: int = 32
    arrival_s: float = 20.0
    dispersion: float = LOW_DISPERSION
    think_cv: float = 0.25

    def __post_init__(self) -> None:
        shortest = self.lengths[0] // (self.turns[1] - 1)
        if shortest <= self.answer_tokens:
            raise ValueError(f"a turn may add {shortest} tokens only, of which {self.answer_tokens} are its answer")

    def trace(self, seed: int, block_tokens: int = 16) -> Trace:
        """The same seed gives the same trace."""
        rng, numbers, now = np.random.default_rng(seed), Numbers(), 0.0
        requests: list[Request] = []
        for session in range(self.sessions):
            now += _gamma(rng, self.arrival_s, _START_CV)
            requests += self._session(rng, numbers, session, now, block_tokens)
        name = f"multi-turn x{self.dispersion:g} cv {self.think_cv:g} seed {seed}"
        return ordered(name, block_tokens, requests)

    def _session(
        self, rng: np.random.Generator, numbers: Numbers, session: int, now: float, block_tokens: int
    ) -> list[Request]:
        length, turns = int(rng.integers(*self.lengths)), int(rng.integers(*self.turns))
        total = self.shared_tokens + length
        shared = self.shared_tokens // block_tokens
        contents = [("shared" if n < shared else session, n) for n in range(-(-total // block_tokens))]
        blocks, found, pause_s = numbers.chain(contents), [], None
        for turn in range(1, turns + 1):
            tokens = self.shared_tokens + length * turn // turns
            asked = tokens - self.answer_tokens
            mine = blocks[: -(-tokens // block_tokens)]
            found.append(Request(now, session, "answer", asked, self.answer_tokens, mine, pause_s))
            pause_s = _gamma(rng, self.dispersion * self.arrival_s, self.think_cv)
            now += pause_s
        return found


def _gamma(rng: np.random.Generator, mean: float, cv: float) -> float:
    """With a coefficient of variation ``cv``."""
    return float(rng.gamma(cv**-2, mean * cv**2))
