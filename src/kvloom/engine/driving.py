"""Answering prompts by driving an engine on the calling thread."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from kvloom.engine.assemble import Assembly
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.engine import Engine
from kvloom.engine.outputs import RequestOutput
from kvloom.engine.params import SamplingParams

Encoded = tuple[str | None, list[int]]
"""A prompt's text, if it has one, and its tokens."""

Asked = tuple[SamplingParams, CacheParams]

Ended = Callable[[int, RequestOutput], None]
"""Is told the number of a prompt, and its output, when it is over."""

NO_ANSWER = SamplingParams(temperature=0.0, max_tokens=0)

_SLEEP_S = 0.5
"""Sleep interval while all requests wait for something outside the engine."""


@dataclass
class Driver:
    """Of one engine, which nobody else drives."""

    engine: Engine
    _ids: Iterator[int] = field(default_factory=itertools.count)

    def run(self, prompts: Sequence[Encoded], asked: Sequence[Asked], ended: Ended) -> None:
        """Answer prompts together. Raises RequestError before anything runs."""
        names = [f"req-{next(self._ids)}" for _ in prompts]
        numbers = {name: number for number, name in enumerate(names)}
        assemblies: dict[str, Assembly] = {}
        try:
            for name, (text, ids), (params, cache) in zip(names, prompts, asked, strict=True):
                self.engine.submit(name, ids, params, text, cache=cache)
                assemblies[name] = Assembly(name, text, params.n)
            while self.engine.has_work:
                if not self.engine.runnable:
                    self.engine.sleep(_SLEEP_S)
                    continue
                for update in self.engine.step():
                    output = assemblies[update.request_id].add(update)
                    if update.finished:
                        ended(numbers[update.request_id], output)
        finally:  # an error or Ctrl-C: leave nothing behind
            for name in assemblies:
                self.engine.abort(name)

    def compute(self, prompts: Sequence[Sequence[int]], cache: CacheParams, ended: Ended) -> None:
        """Compute prompts, for their KV alone."""
        self.run([(None, list(prompt)) for prompt in prompts], [(NO_ANSWER, cache)] * len(prompts), ended)
