"""Clusters: all questions about one document, in any cell and under all seeds of the policy, are one observation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvloom.eval.stats import Floats, Z, student

Observed = tuple[str, tuple[float, ...]]
"""A sample: the document that it is about, and its value under each seed of the policy (one, if nothing is random)."""


@dataclass(frozen=True, slots=True, eq=False)
class Clusters:
    """A mean over equally weighted cells, split by document. Legend: D documents.

    The mean is the sum of ``sums_D``; ``weights_D`` sum to 1. ``left_D``: what each document adds to the error of the
    mean, its samples taken as differences from their cell's mean. ``seed_error``: standard error over the seeds of a
    random policy, wider for few seeds; 0 for a single one, whose error is unknown.
    """

    sums_D: Floats
    weights_D: Floats
    left_D: Floats
    seed_error: float

    @property
    def mean(self) -> float:
        return float(self.sums_D.sum())

    def minus(self, other: Clusters) -> Clusters:
        """The difference of two means over the same samples."""
        return Clusters(
            self.sums_D - other.sums_D,
            self.weights_D,
            self.left_D - other.left_D,
            float(np.hypot(self.seed_error, other.seed_error)),
        )


def clusters_of(cells: Sequence[Sequence[Observed]]) -> Clusters:
    """Split the mean over cells. Every cell has at least one sample, every sample the same number of seeds."""
    documents = {name: n for n, name in enumerate(sorted({name for cell in cells for name, _ in cell}))}
    num_seeds = len(cells[0][0][1])
    sums_DK = np.zeros((len(documents), num_seeds))
    weights_D, left_D = np.zeros(len(documents)), np.zeros(len(documents))
    for cell in cells:
        of_sample_N = np.array([documents[name] for name, _ in cell])
        values_NK = np.array([values for _, values in cell], np.float64)
        weight = 1 / (len(cells) * len(cell))
        np.add.at(sums_DK, of_sample_N, weight * values_NK)
        np.add.at(weights_D, of_sample_N, weight)
        means_N = values_NK.mean(axis=1)
        np.add.at(left_D, of_sample_N, _few(of_sample_N) * weight * (means_N - means_N.mean()))
    return Clusters(sums_DK.mean(axis=1), weights_D, left_D, _seed_error(sums_DK, weights_D))


def _few(of_sample_N: npt.NDArray[np.int64]) -> float:
    """Corrects differences from a mean of the same few documents, which are too small."""
    count = len(np.unique(of_sample_N))
    return float(np.sqrt(count / (count - 1))) if count > 1 else 1.0


def _seed_error(sums_DK: Floats, weights_D: Floats) -> float:
    """Standard error of the mean by the seeds: their spread, less what independent draws would spread by chance."""
    count, seeds = sums_DK.shape
    if seeds == 1:
        return 0.0
    means_K = sums_DK.sum(axis=0)
    rest_DK = sums_DK - sums_DK.mean(axis=1, keepdims=True) - np.outer(weights_D, means_K - means_K.mean())
    chance = (rest_DK**2).sum() / (seeds - 1) * (count / (count - 1) if count > 1 else 1.0)
    spread = max(0.0, float(means_K.var(ddof=1) - chance))
    return float(np.sqrt(spread / seeds)) * student(seeds - 1) / Z
