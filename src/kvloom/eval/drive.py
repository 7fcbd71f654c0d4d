"""Drive an engine directly: submit prompts, step to the end, collect the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kvloom.engine.assemble import Assembly
from kvloom.engine.engine import Engine
from kvloom.engine.outputs import RequestMetrics, RequestUpdate
from kvloom.engine.params import SamplingParams
from kvloom.errors import InternalError, KvloomError

EngineFactory = Callable[[int | str], Engine]
"""A fresh engine over one model, with a KV budget in bytes (or text such as ``"256MiB"``)."""


@dataclass(slots=True)
class Answer:
    """The tokens of every continuation of a request, and what it cost."""

    tokens: dict[int, list[int]] = field(default_factory=dict)
    metrics: RequestMetrics = field(default_factory=RequestMetrics)
    error: KvloomError | None = None

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


def complete(
    engine: Engine, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams], in_flight: int
) -> list[str]:
    """Texts of the continuations, in the order of the prompts; at most ``in_flight`` run at once.

    Raises InternalError when one ends with an error; nothing is left running in any case.
    """
    waiting = list(enumerate(zip(prompts, params, strict=True)))[::-1]
    running: dict[str, tuple[int, Assembly]] = {}
    texts: dict[int, str] = {}
    try:
        while waiting or running:
            while waiting and len(running) < in_flight:
                index, (prompt, wanted) = waiting.pop()
                engine.submit(f"complete-{index}", list(prompt), wanted)
                running[f"complete-{index}"] = index, Assembly(f"complete-{index}", None, 1)
            for update in engine.step():
                index, assembly = running[update.request_id]
                output = assembly.add(update)
                if output.error is not None:
                    raise InternalError(f"prompt {index}: {output.error}")
                if output.finished:
                    texts[index] = output.outputs[0].text
                    del running[update.request_id]
    finally:
        for name in running:
            engine.abort(name)
    return [texts[index] for index in range(len(prompts))]
