"""Drive an engine by hand: submit prompts, step to the end, gather what came back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kvloom.engine.engine import Engine
from kvloom.engine.outputs import RequestMetrics, RequestUpdate
from kvloom.engine.params import SamplingParams
from kvloom.errors import InternalError

EngineFactory = Callable[[int | str], Engine]
"""A fresh engine over one model, with a KV budget in bytes (or text such as ``"256MiB"``)."""


@dataclass(slots=True)
class Answer:
    """The tokens of every continuation of a request, and what it cost."""

    tokens: dict[int, list[int]] = field(default_factory=dict)
    metrics: RequestMetrics = field(default_factory=RequestMetrics)
    error: str | None = None

    def add(self, update: RequestUpdate) -> None:
        for delta in update.deltas:
            self.tokens.setdefault(delta.index, []).extend(delta.token_ids)
        self.metrics, self.error = update.metrics, update.error


def run_all(engine: Engine, prompts: Sequence[Sequence[int]], params: SamplingParams) -> list[Answer]:
    """Run prompts together, to the end; answers in their order. Raises InternalError when one ends with an error."""
    answers = {f"run-{n}": Answer() for n in range(len(prompts))}
    for name, prompt in zip(answers, prompts, strict=True):
        engine.submit(name, list(prompt), params)
    while engine.has_work:
        for update in engine.step():
            answers[update.request_id].add(update)
    failed = [answer.error for answer in answers.values() if answer.error]
    if failed:
        raise InternalError(f"{len(failed)} of {len(prompts)} requests failed: {failed[0]}")
    return list(answers.values())


def run_one(engine: Engine, prompt: Sequence[int], params: SamplingParams) -> Answer:
    """Run one prompt alone."""
    return run_all(engine, [prompt], params)[0]
