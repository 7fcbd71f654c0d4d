"""What an engine says of every token of an answer that is dictated: the distributions behind a fused prompt's answers.

All goes through the engine's ordinary steps. A request is asked for two continuations. The first is told what to say,
and what the model would have said in its place is heard; the second says what it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from kvloom.engine.cache_params import CacheParams
from kvloom.engine.engine import Engine
from kvloom.engine.outputs import RequestMetrics, RequestUpdate
from kvloom.engine.params import SamplingParams
from kvloom.engine.sampling import Logits, Sampler
from kvloom.engine.shadow import kl_divergence
from kvloom.errors import InternalError

Hear = Callable[[int, Logits], None]
"""Is told the number of a token of the answer, and the logits that it comes from, which are only lent."""


@dataclass(slots=True)
class Dictated(Sampler):
    """Says ``words``; without any, what is likeliest. ``hear``: listens in either case."""

    words: Sequence[int] = ()
    hear: Hear = lambda number, logits_V: None
    _said: int = 0

    def draw(self, logits_V: Logits, argmax: int | None = None) -> int:
        number, self._said = self._said, self._said + 1
        self.hear(number, logits_V)
        return self.words[number] if self.words else int(logits_V.argmax())


@dataclass(frozen=True, slots=True, eq=False)
class Exact:
    """The answer to a prompt by a full prefill, ``text`` as its stops cut it. ``logits``: (V,) each, what every token
    of it comes from.
    """

    answer: list[int]
    text: str
    logits: list[Logits]
    metrics: RequestMetrics


@dataclass(slots=True, eq=False)
class Heard:
    """``kls``: nats, of each dictated token's distribution from the exact one. ``answer``, ``text``: its own."""

    kls: list[float] = field(default_factory=list)
    answer: list[int] = field(default_factory=list)
    text: str = ""
    metrics: RequestMetrics = field(default_factory=RequestMetrics)

    @property
    def kl(self) -> float:
        """Mean over the answer's tokens."""
        return fmean(self.kls)


def exact_answer(
    engine: Engine,
    prompt: Sequence[int],
    params: SamplingParams,
    words: Sequence[int] = (),
    cache: CacheParams | None = None,
) -> Exact:
    """By a full prefill, or from exact KV that is found. ``words``: what it says, if that is given.

    Raises InternalError when the request fails.
    """
    logits: list[Logits] = []
    listening = _sampler(params, prompt, words, lambda number, logits_V: logits.append(logits_V.copy()))
    said = _answers(engine, {"exact": (list(prompt), cache or CacheParams(), params, listening)})["exact"]
    return Exact(said.tokens[0], said.texts[0], logits, said.metrics)


def heard(
    engine: Engine,
    prompt: Sequence[int],
    params: SamplingParams,
    ways: Sequence[CacheParams],
    exact: Exact,
    *,
    own: bool = True,
) -> list[Heard]:
    """What each way to use the cache makes of the exact answer, and, unless nobody wants its ``own``, answers itself.

    All of them run together. Raises InternalError when one fails.
    """
    found = [Heard() for _ in ways]

    def listener(it: Heard) -> Hear:
        def hear(number: int, logits_V: Logits) -> None:
            it.kls.append(kl_divergence(exact.logits[number], logits_V))

        return hear

    asked = {}
    both = replace(params, n=2 if own else 1)
    for number, (cache, it) in enumerate(zip(ways, found, strict=True)):
        asked[f"way-{number}"] = list(prompt), cache, both, _sampler(params, prompt, exact.answer, listener(it))
    for said, it in zip(_answers(engine, asked).values(), found, strict=True):
        it.answer, it.text, it.metrics = said.tokens.get(1, []), said.texts.get(1, ""), said.metrics
    return found


_Asked = tuple[list[int], CacheParams, SamplingParams, Dictated]


@dataclass(slots=True)
class _Said:
    """By continuation."""

    tokens: dict[int, list[int]] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    metrics: RequestMetrics = field(default_factory=RequestMetrics)

    def add(self, update: RequestUpdate) -> None:
        self.metrics = update.metrics
        for delta in update.deltas:
            self.tokens.setdefault(delta.index, []).extend(delta.token_ids)
            self.texts[delta.index] = self.texts.get(delta.index, "") + delta.text


def _answers(engine: Engine, asked: dict[str, _Asked]) -> dict[str, _Said]:
    said = {name: _Said() for name in asked}
    try:
        for name, (prompt, cache, params, sampler) in asked.items():
            engine.submit(name, prompt, params, cache=cache)
            engine.requests[name].sequences[0].sampler = sampler
        while engine.has_work:
            for update in engine.step():
                if update.error is not None:
                    raise InternalError(f"{update.request_id}: {update.error}")
                said[update.request_id].add(update)
    finally:  # an error, or Ctrl-C
        for name in asked:
            engine.abort(name)
    return said


def _sampler(params: SamplingParams, prompt: Sequence[int], words: Sequence[int], hear: Hear) -> Dictated:
    return Dictated(params, prompt, None, words=words, hear=hear)
