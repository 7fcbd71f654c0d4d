"""kvloom's engine as a target of the workloads."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from kvloom.bench.target import Answer
from kvloom.engine.engine import Engine
from kvloom.engine.params import SamplingParams


@dataclass(slots=True)
class EngineTarget:
    """Drives the engine on the calling thread. ``on_token`` is called for every new token, for a progress bar."""

    engine: Engine
    on_token: Callable[[int], None] = lambda count: None
    _ids: Iterator[int] = field(default_factory=itertools.count)

    def reset(self) -> None:
        self.engine.reset_cache()

    def run(self, prompts: Sequence[Sequence[int]], num_new: int) -> list[Answer]:
        """As ``Target.run``. Raises RequestError when a prompt can never fit."""
        greedy = SamplingParams(temperature=0.0, max_tokens=num_new, ignore_eos=True)
        started = self.engine.clock()
        answers = {f"bench-{next(self._ids)}": Answer([], []) for _ in prompts}
        try:
            for name, prompt in zip(answers, prompts, strict=True):
                self.engine.submit(name, list(prompt), greedy)
            while self.engine.has_work:
                self._step(answers, started)
        finally:  # after an error or Ctrl-C
            for name in answers:
                self.engine.abort(name)
        return list(answers.values())

    def _step(self, answers: dict[str, Answer], started: float) -> None:
        for update in self.engine.step():
            if update.error is not None:
                raise update.error
            now = self.engine.clock() - started
            for delta in update.deltas:
                answers[update.request_id].tokens.extend(delta.token_ids)
                answers[update.request_id].times_s.extend([now] * len(delta.token_ids))
                self.on_token(len(delta.token_ids))
