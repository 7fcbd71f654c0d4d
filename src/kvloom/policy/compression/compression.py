"""A method with its parameters and how much it removes: what a request asks for, as one frozen value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from kvloom.errors import ParamsError, RequestError
from kvloom.policy.compression.base import (
    Allocator,
    Choice,
    Compactor,
    Counts,
    Floats,
    Kept,
    LayerContext,
    Origin,
    Scorer,
)
from kvloom.policy.compression.critical import Critical
from kvloom.policy.compression.demote import Demote
from kvloom.policy.compression.gathering import Gathering
from kvloom.policy.compression.needs import MEASURED, Need
from kvloom.policy.compression.protect import Protect
from kvloom.policy.compression.uniform import Uniform
from kvloom.policy.compression.words import Word, words_of


@dataclass(frozen=True, slots=True)
class Compression:
    """``ratio``: the share of a context's entries that is removed, 0 to 1. Raises ParamsError when it is not.

    ``compression_of`` makes one by the name of its method.
    """

    scorer: Scorer
    ratio: float
    allocator: Allocator = field(default_factory=Uniform)
    compactor: Compactor = field(default_factory=Gathering)
    protect: Protect = field(default_factory=Protect)
    critical: Critical = field(default_factory=Critical)
    demote: Demote = field(default_factory=Demote)

    def __post_init__(self) -> None:
        if type(self.ratio) not in (int, float) or not 0.0 <= self.ratio <= 1.0:
            raise ParamsError(f"ratio must be a number from 0 to 1, got {self.ratio!r}", param="ratio")
        for kind in MEASURED:
            for part in (self.scorer, self.compactor):
                if sum(isinstance(need, kind) for need in part.needs) > 1:
                    raise ParamsError(f"`{part.name}` needs more than one {kind.__name__}", param="method")

    @property
    def name(self) -> str:
        return self.scorer.name

    @property
    def needs(self) -> frozenset[Need]:
        """All that has to be seen."""
        return self.needs_to_choose | self.compactor.needs

    @property
    def needs_to_choose(self) -> frozenset[Need]:
        """Without what only the compactor looks at."""
        return self.scorer.needs | self.critical.needs | self.demote.needs

    @property
    def params(self) -> Mapping[str, Word]:
        """The scorer's; and allocator and compactor with theirs and what goes with any of them, where not as usual."""
        parts: dict[str, Word] = {} if self.allocator == Uniform() else {"allocator": self.allocator.name}
        parts |= {} if self.compactor == Gathering() else {"compactor": self.compactor.name}
        others = {**parts, **words_of(self.allocator), **words_of(self.compactor)}
        for beside in (self.protect, self.critical, self.demote):
            others |= {} if beside == type(beside)() else words_of(beside)
        own = words_of(self.scorer)
        return {**own, **{key: word for key, word in others.items() if key not in own}}

    def choose(
        self, contexts: Sequence[LayerContext], scores: Sequence[Floats], weights: str | None = None
    ) -> list[Choice]:
        """Which entries of every layer stay, given ``noted`` and ``scores`` of all of them.

        ``weights``: the name of the model's weights.
        Raises ParamsError when the allocator cannot do this for such a context.
        """
        layers, sizes = tuple(one.layer for one in contexts), tuple(one.entry_bytes for one in contexts)
        origin = Origin(layers, sizes, self.scorer.name, words_of(self.scorer), weights)
        counts = self.allocator.kept(self.ratio, scores, origin)
        self.protect.check(contexts, counts)
        return [
            Choice(context.layer, tuple(self._best(context, scores_KS, kept_K)))
            for context, scores_KS, kept_K in zip(contexts, scores, counts, strict=True)
        ]

    def noted(self, context: LayerContext) -> LayerContext:
        """What ``choose`` wants to know of a layer, without what is large."""
        return replace(context.bare(), norms_KS=self.critical.norms(context))

    def scores(self, context: LayerContext) -> Floats:
        """The scorer's, but what is demoted goes earlier, and what is protected last.

        Raises RequestError when they are of another shape, or not numbers.
        """
        scores_KS = np.asarray(self.scorer.scores(context))
        if scores_KS.shape != context.shape or np.isnan(scores_KS).any():
            heads, count = context.shape
            raise RequestError(
                f"method `{self.name}` must score {count} entries for each of {heads} heads with numbers"
            )
        lowered_KS = self.demote.lowered(scores_KS.astype(np.float32, copy=False), context)
        return self.protect.marked(lowered_KS, context.positions_S)

    def _best(self, context: LayerContext, scores_KS: Floats, kept_K: Counts) -> list[Kept]:
        """By KV head. Of equal scores what is protected, then the earlier one."""
        others_S = ~self.protect.mask(context.positions_S)
        order_K = [np.lexsort((others_S, -scores_S)) for scores_S in scores_KS]
        if context.norms_KS is None:
            return [np.sort(order_S[:count]) for order_S, count in zip(order_K, kept_K, strict=True)]
        return [
            np.sort(self.critical.best(order_S, scores_S, norms_S, int(count)))
            for order_S, scores_S, norms_S, count in zip(order_K, scores_KS, context.norms_KS, kept_K, strict=True)
        ]
