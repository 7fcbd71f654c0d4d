"""A method with its parameters and how much it removes or leaves: what a request asks for, as one frozen value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kvloom.errors import ParamsError, RequestError
from kvloom.policy.compression.base import (
    Allocator,
    Candidates,
    Choice,
    Compactor,
    Counts,
    Floats,
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
    """Removes a share of the entries of a context once, or, as often as it must, so many that the rest has room.

    ``ratio``: the share of a context's entries that is removed, 0 to 1. ``budget``: bytes that the KV of a sequence may
    take; it is exact until it would take more. One of the two is given: raises ParamsError otherwise.
    ``compression_of`` makes one by the name of its method.
    """

    scorer: Scorer
    ratio: float | None = None
    allocator: Allocator = field(default_factory=Uniform)
    compactor: Compactor = field(default_factory=Gathering)
    protect: Protect = field(default_factory=Protect)
    budget: int | None = None
    critical: Critical = field(default_factory=Critical)
    demote: Demote = field(default_factory=Demote)

    def __post_init__(self) -> None:
        if self.budget is None:
            if type(self.ratio) not in (int, float) or not 0.0 <= float(self.ratio or 0) <= 1.0:
                raise ParamsError(f"ratio must be a number from 0 to 1, got {self.ratio!r}", param="ratio")
        elif self.ratio is not None:
            raise ParamsError("ratio and budget exclude each other", param="budget")
        elif type(self.budget) is not int or self.budget < 1:
            raise ParamsError(f"budget must be a number of bytes, got {self.budget!r}", param="budget")
        if self.budget is not None and self.compactor.rest is not None:
            raise ParamsError(
                f"compactor `{self.compactor.name}` drops nothing, and a budget needs that",
                hint="a ratio in place of the budget",
                param="compactor",
            )
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
    def removes(self) -> Mapping[str, Word]:
        """How much, as it was asked for."""
        return {"budget": self.budget} if self.ratio is None and self.budget else {"ratio": self.ratio or 0.0}

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
        self, candidates: Sequence[Candidates], weights: str | None = None, ratio: float | None = None
    ) -> list[Choice]:
        """Which entries of every layer stay; what is protected goes last. Parameters and errors as of ``counts``."""
        counts = self.counts(candidates, weights, ratio)
        return [self.choice(each, kept_K) for each, kept_K in zip(candidates, counts, strict=True)]

    def counts(
        self, candidates: Sequence[Candidates], weights: str | None = None, ratio: float | None = None
    ) -> list[Counts]:
        """How many entries each KV head of every layer keeps.

        ``weights``: the name of the model's weights. ``ratio``: where there is a budget instead. Raises ParamsError
        when the allocator cannot do this for such a context.
        """
        share = self.ratio if ratio is None else ratio
        assert share is not None
        origin = Origin(
            tuple(each.layer for each in candidates),
            tuple(each.entry_bytes for each in candidates),
            self.scorer.name,
            words_of(self.scorer),
            weights,
            tuple(each.whole for each in candidates),
        )
        protect = self.protect
        marked = [protect.marked(each) for each in candidates]
        counts = self.allocator.kept(share, [each.scores for each in marked], origin)
        protect.check(marked, counts)
        return counts

    def choice(self, candidates: Candidates, kept_K: Counts) -> Choice:
        """The best entries of a layer, so many of each KV head. Of equal ones what is protected, then the earlier."""
        protect = self.protect
        marked = protect.marked(candidates)
        best = []
        for head, count in enumerate(kept_K.tolist()):
            scores_S, others_S = marked.scores[head], ~protect.mask(marked.positions[head])
            order_S = np.lexsort((others_S, -scores_S))
            norms = marked.norms
            chosen_S = self.critical.best(order_S, scores_S, norms[head], count) if norms else order_S[:count]
            best.append(np.sort(chosen_S))
        return Choice(candidates.layer, tuple(best))

    def scores(self, context: LayerContext) -> Floats:
        """The scorer's, those of what is demoted lowered.

        Raises RequestError when they are of another shape, or not numbers.
        """
        scores_KS = np.asarray(self.scorer.scores(context))
        if scores_KS.shape != context.shape or np.isnan(scores_KS).any():
            heads, count = context.shape
            raise RequestError(
                f"method `{self.name}` must score {count} entries for each of {heads} heads with numbers"
            )
        return self.demote.lowered(scores_KS.astype(np.float32, copy=False), context)
