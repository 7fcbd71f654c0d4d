"""Measurements of several engines in one sitting, and their ratios."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bench.cells import DENSE
from bench.pace import FAR
from bench.peers.base import Facts
from kvloom.bench.limits import Limits

OURS = "kvloom"


@dataclass(frozen=True, slots=True)
class Sample:
    """One figure of one run. ``figure``: as the workload names it."""

    group: str
    model: str
    peer: str
    round: int
    figure: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class Peak:
    """Peak resident bytes of a peer during one run of a workload."""

    group: str
    model: str
    peer: str
    round: int
    workload: str
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """A peer that was not run to the end of a workload: it was far behind. ``why``: how far."""

    group: str
    model: str
    peer: str
    workload: str
    why: str


@dataclass(frozen=True, slots=True)
class About:
    """A peer that was measured. ``agreeing``: leading greedy tokens, of the probe, that are kvloom's."""

    model: str
    peer: str
    facts: Facts
    loaded_bytes: int
    agreeing: int
    probe_tokens: int


@dataclass(frozen=True, slots=True)
class Counted:
    """kvloom's own counters before and after one run of a workload."""

    group: str
    workload: str
    before: dict[str, Any]
    after: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ours over the best peer's: median, least and most of the rounds' ratios. ours, best: the medians of the rates."""

    figure: str
    ours: float
    best: float
    peer: str
    value: float
    low: float
    high: float


@dataclass(slots=True)
class Comparison:
    """Everything that is filed. ``absent``: peers that were not measured, or not to the end, and why."""

    threads: int
    quick: bool
    kv_tokens: int
    limits: list[Limits] = field(default_factory=list)
    about: list[About] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    peaks: list[Peak] = field(default_factory=list)
    counted: list[Counted] = field(default_factory=list)
    stopped: list[Stopped] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def limit(self) -> Limits:
        """The best of the rounds."""
        return Limits(max(each.read_gb_s for each in self.limits), max(each.sgemm_gflop_s for each in self.limits))

    def peers(self, model: str) -> list[str]:
        return [each.peer for each in self.about if each.model == model]

    def facts(self, model: str, peer: str) -> Facts:
        return next(each.facts for each in self.about if (each.model, each.peer) == (model, peer))

    def model_of(self, group: str) -> str | None:
        """None if nothing was measured."""
        return next((sample.model for sample in self.samples if sample.group == group), None)

    def figures(self, group: str) -> list[str]:
        return list(dict.fromkeys(sample.figure for sample in self.samples if sample.group == group))

    def values(self, group: str, figure: str, peer: str) -> dict[int, float]:
        """By round."""
        return {s.round: s.value for s in self.samples if (s.group, s.figure, s.peer) == (group, figure, peer)}

    def median(self, group: str, figure: str, peer: str) -> float | None:
        values = self.values(group, figure, peer)
        return median(values.values()) if values else None

    def contenders(self, group: str, figures: Iterable[str]) -> set[str]:
        """kvloom, and the peers that in any of the figures are not far behind the best peer, by the medians."""
        found = {OURS}
        for figure in figures:
            medians = self._medians(group, figure)
            best = max(medians.values(), default=0.0)
            found |= {peer for peer, value in medians.items() if value * FAR >= best}
        return found

    def _medians(self, group: str, figure: str) -> dict[str, float]:
        """Of every peer that was measured, kvloom left out."""
        names = dict.fromkeys(sample.peer for sample in self.samples if sample.peer != OURS)
        return {name: value for name in names if (value := self.median(group, figure, name)) is not None}

    def ratio(self, group: str, figure: str) -> Ratio | None:
        """None when there is nobody to compare with. A peer counts with the rounds that it was there for."""
        ours = self.values(group, figure, OURS)
        medians = self._medians(group, figure)
        if not ours or not medians:
            return None
        best = max(medians, key=lambda name: medians[name])
        theirs = self.values(group, figure, best)
        each = [value / theirs[number] for number, value in ours.items() if number in theirs]
        return Ratio(figure, median(ours.values()), medians[best], best, median(each), min(each), max(each))

    def of(self, groups: frozenset[str]) -> Comparison:
        """Only some groups: what one claim files of a sitting shared by several."""
        kept = Comparison(self.threads, self.quick, self.kv_tokens, self.limits, absent=self.absent)
        kept.samples = [each for each in self.samples if each.group in groups]
        kept.peaks = [each for each in self.peaks if each.group in groups]
        kept.stopped = [each for each in self.stopped if each.group in groups]
        kept.counted = [each for each in self.counted if each.group in groups]
        models = {each.model for each in kept.samples} or {DENSE}
        kept.about = [each for each in self.about if each.model in models]
        return kept
