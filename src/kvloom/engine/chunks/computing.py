"""Computing passages: as requests without an answer, each once, however often it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from kvloom.engine.cache_params import CacheParams, KeptAs
from kvloom.engine.chunks.passage import Passage
from kvloom.engine.chunks.stored import StoredChunk
from kvloom.engine.driving import Ended
from kvloom.engine.outputs import RequestOutput
from kvloom.errors import KvloomError

Compute = Callable[[Sequence[Sequence[int]], CacheParams, Ended], None]
"""Computes prompts, for their KV alone: see ``Driver.compute``."""


@dataclass(frozen=True, slots=True)
class Added:
    """``number``: of the passage in what was asked for. ``computed``: tokens that were not there yet."""

    number: int
    tokens: int
    computed: int


Progress = Callable[[Added], None]
"""Is called with every passage as it is done."""


def nobody(added: Added) -> None:
    """Is not told."""


def computed_alone(salt: str | None, kept_as: KeptAs = "chunk") -> CacheParams:
    """How the request of a passage uses the cache."""
    return CacheParams(salt=salt, kept_as=kept_as)


def request_kind(found: StoredChunk | None) -> KeptAs:
    """As what to compute a passage, of which this is there: what came in a file, all of it, is only loaded."""
    return found.kept_as if found is not None and found.kept else "chunk"


@dataclass(slots=True, eq=False)
class Computing:
    """``asked``: what is asked for, one after another. ``tell``: is told of each as it is done."""

    asked: Sequence[Passage]
    compute: Compute
    salt: str | None
    tell: Progress = nobody
    _numbers: dict[Passage, list[int]] = field(default_factory=dict)
    _done: dict[int, Added] = field(default_factory=dict)
    _errors: list[KvloomError] = field(default_factory=list)

    def __post_init__(self) -> None:
        for number, passage in enumerate(self.asked):
            self._numbers.setdefault(passage, []).append(number)

    @property
    def passages(self) -> list[Passage]:
        """Each once."""
        return list(self._numbers)

    def skip(self, passages: Iterable[Passage]) -> None:
        """These need not be computed."""
        for passage in passages:
            self._finish(passage, 0)

    def run(self, passages: Sequence[Passage], kept_as: KeptAs = "chunk") -> None:
        """Compute these together."""

        def ended(number: int, output: RequestOutput) -> None:
            if output.error is not None:
                self._errors.append(output.error)
            self._finish(passages[number], output.metrics.computed_tokens)

        self.compute([passage.tokens for passage in passages], computed_alone(self.salt, kept_as), ended)

    def results(self) -> list[Added]:
        """In the order in which they were asked for. Raises the first error that there was."""
        if self._errors:
            raise self._errors[0]
        return [self._done[number] for number in range(len(self.asked))]

    def _finish(self, passage: Passage, computed: int) -> None:
        for number in self._numbers[passage]:
            self._done[number] = Added(number, len(passage.tokens), computed)
            self.tell(self._done[number])
            computed = 0  # the same passage again
