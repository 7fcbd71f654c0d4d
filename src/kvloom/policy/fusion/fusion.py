"""``Fusion``: how the KV of documents that were computed alone is repaired where a prompt puts them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from kvloom.errors import ParamsError
from kvloom.policy.fusion.base import Flags, Floats, Need, Scorer, View
from kvloom.policy.fusion.cacheblend import CacheBlend, gaps
from kvloom.policy.fusion.profile import read_profile, shipped_profile
from kvloom.policy.fusion.ratio import USUAL, ForTarget, Rule, WhileLoading

Positions = npt.NDArray[np.int64]

_CHECKS = frozenset({Need.CHECKED_QUERIES, Need.CHECKED_VALUES})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusion:
    """Which rows of documents are computed again; all others keep the KV that they had alone. Lossy.

    ``scorers``: none, or one; or several that share the budget, each in turn getting the best that it has left.
    ``ratio``: the budget, as a part of all tokens before the question. ``check_layer``: up to it all rows are computed,
    where a scorer wants to see it. ``params``: the scorers' own, by name. ``rule``: what the ratio will be, where it is
    not known yet; until then it is the least that can come of it. Raises ParamsError on construction.
    """

    name: str
    scorers: tuple[Scorer, ...]
    ratio: float = USUAL
    check_layer: int = 1
    params: Mapping[str, int] = field(default_factory=dict)
    rule: Rule | None = None

    def __post_init__(self) -> None:
        if type(self.ratio) not in (int, float) or not 0 <= self.ratio <= 1:
            raise ParamsError(f"ratio must be a number from 0 to 1, got {self.ratio!r}", param="ratio")
        if type(self.check_layer) is not int or self.check_layer < 0:
            raise ParamsError(f"check_layer must be a layer from 0 on, got {self.check_layer!r}", param="check_layer")
        if self._blend is not None and len(self.scorers) > 1:
            raise ParamsError(
                f"filters narrow what one selector has chosen, and `{self.name}` are several",
                hint="cacheblend alone, or filters=0",
                param="filters",
            )

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset().union(*(scorer.needs for scorer in self.scorers))

    @property
    def exact_layers(self) -> int:
        """How many layers, from the first on, are computed for all rows."""
        return self.check_layer + 1 if self.needs & _CHECKS else 0

    @property
    def filters(self) -> int:
        """In how many layers after the check layer the choice narrows: ``narrowed`` is asked after each of them."""
        return 0 if self._blend is None else self._blend.filters

    def counts(self, question: int) -> tuple[int, ...]:
        """How many rows of documents are computed again, at most: from the check layer on, and behind each filter.

        ``question``: where it begins. The budget is of all tokens before that, the prefix included, which is exact: it
        may be more than there are candidates, and is then all of them.
        """
        budget = int(question * self.ratio) if self.scorers else 0
        return (budget,) if self._blend is None else self._blend.counts(budget)

    @property
    def selector(self) -> str:
        """What changes the choice, but for how much is chosen: a profile's name for it."""
        words = {"check_layer": self.check_layer, **self.params} if self.exact_layers else self.params
        return self.name + (":" + ",".join(f"{key}={value}" for key, value in sorted(words.items())) if words else "")

    def for_model(self, weights: str | None) -> Fusion:
        """With the ratio that meets its target, if that is its rule. Raises ParamsError, and DataFileError, when there
        is no profile by which to know it.
        """
        if not isinstance(self.rule, ForTarget):
            return self
        profile = shipped_profile(weights) if self.rule.profile is None else read_profile(self.rule.profile)
        return replace(self, ratio=profile.ratio_for(weights, self.selector, self.rule.kl), rule=None)

    def after_loading(self, loading_s: float, computing_s: float) -> Fusion:
        """With the ratio that loading allows, if that is its rule: see ``WhileLoading``."""
        if not isinstance(self.rule, WhileLoading):
            return self
        return replace(self, ratio=self.rule.ratio(loading_s, computing_s), rule=None)

    def rows(self, view: View) -> Positions:
        """Ascending positions of documents' entries that are computed again: as many as the budget has room for, or as
        the first of several filters has.
        """
        count = self.counts(view.question)[0]
        chosen = taken_in_turn([scorer.scores(view) for scorer in self.scorers], view.candidates, count)
        return chosen + view.start

    def narrowed(self, number: int, question: int, rows_R: Positions, values_RKD: Floats, old_RKD: Floats) -> Positions:
        """Which of ``rows_R`` go on behind filter ``number``, from 0 on: ascending.

        ``values_RKD``: as computed in the filter's layer; ``old_RKD``: as documents have them alone.
        """
        count = self.counts(question)[number + 1]
        everybody = np.ones(len(rows_R), np.bool_)
        return rows_R[taken_in_turn([gaps(values_RKD, old_RKD)], everybody, count)]

    @property
    def _blend(self) -> CacheBlend | None:
        """The scorer that filters, if there is one."""
        return next((each for each in self.scorers if isinstance(each, CacheBlend) and each.filters), None)


def taken_in_turn(of_scorers: list[Floats], candidates_S: Flags, count: int) -> Positions:
    """Ascending indices of at most ``count`` candidates: the best of each scorer, then the second best of each, ...

    Of equal scores the lower index comes first.
    """
    size = len(candidates_S)
    best_S = np.full(size, np.iinfo(np.int64).max)
    for number, scores_S in enumerate(of_scorers):
        if scores_S.shape != (size,) or np.isnan(scores_S).any():
            raise ParamsError(f"a scorer must give a number for each of {size} entries", param="fusion")
        asked = np.flatnonzero(candidates_S & ~np.isneginf(scores_S))
        order = asked[np.argsort(-scores_S[asked], kind="stable")]
        best_S[order] = np.minimum(best_S[order], np.arange(len(order)) * len(of_scorers) + number)
    wanted = np.flatnonzero(best_S < np.iinfo(np.int64).max)
    return np.sort(wanted[np.argsort(best_S[wanted], kind="stable")][:count])
