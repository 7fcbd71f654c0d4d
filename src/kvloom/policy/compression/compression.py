"""A method with its parameters and how much it removes: what a request asks for, as one frozen value."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kvloom.errors import ParamsError, RequestError
from kvloom.policy.compression.base import Allocator, Compactor, Floats, Gather, Kept, LayerContext, Scorer
from kvloom.policy.compression.gathering import Gathering
from kvloom.policy.compression.uniform import Uniform


@dataclass(frozen=True, slots=True)
class Compression:
    """``ratio``: the share of a context's entries that is removed, 0 to 1. Raises ParamsError when it is not.

    ``compression_of`` makes one by the name of its method.
    """

    scorer: Scorer
    ratio: float
    allocator: Allocator = field(default_factory=Uniform)
    compactor: Compactor = field(default_factory=Gathering)

    def __post_init__(self) -> None:
        if type(self.ratio) not in (int, float) or not 0.0 <= self.ratio <= 1.0:
            raise ParamsError(f"ratio must be a number from 0 to 1, got {self.ratio!r}", param="ratio")

    @property
    def name(self) -> str:
        return self.scorer.name

    @property
    def params(self) -> Mapping[str, int | float | str]:
        """The scorer's."""
        return {each.name: getattr(self.scorer, each.name) for each in _fields(self.scorer)}

    def choose(self, contexts: Sequence[LayerContext], scores: Sequence[Floats]) -> list[Gather]:
        """What is to be done with every layer, given the scores of all."""
        counts = self.allocator.kept(self.ratio, scores)
        return [
            self.compactor.action(
                context, [_best(scores_S, int(n)) for scores_S, n in zip(of_layer, kept_K, strict=True)]
            )
            for context, of_layer, kept_K in zip(contexts, scores, counts, strict=True)
        ]

    def scores(self, context: LayerContext) -> Floats:
        """The scorer's. Raises RequestError when they are of another shape, or not numbers."""
        scores_KS = np.asarray(self.scorer.scores(context))
        if scores_KS.shape != context.shape or np.isnan(scores_KS).any():
            heads, count = context.shape
            raise RequestError(
                f"method `{self.name}` must score {count} entries for each of {heads} heads with numbers"
            )
        return scores_KS.astype(np.float32, copy=False)


def _best(scores_S: Floats, count: int) -> Kept:
    """Of equal scores the earlier one."""
    kept: Kept = np.sort(np.argsort(-scores_S, kind="stable")[:count])
    return kept


def _fields(scorer: Scorer) -> Sequence[dataclasses.Field[object]]:
    return dataclasses.fields(scorer) if dataclasses.is_dataclass(scorer) else ()
