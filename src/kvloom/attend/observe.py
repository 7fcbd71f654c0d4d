"""The only interface for statistics of attention: the probabilities that selected rows assign, and their queries.

A row assigns the entry at column s the probability exp(score - lse), where the score is attend's own (of the stored
keys; with scale, bias and shift) and lse is the row's final log-sum-exp over all parts. An entry that a row does not
see gets probability 0 from it. Only reductions of these probabilities over rows are returned, never a matrix.

Callers create probes and pass them to every step that computes some of their rows (``Model.run``); the steps add to
them. A row that is computed twice counts twice, and one that is never computed (its KV was cached) not at all:
``counted`` is the number of rows included. Probes never change a bit of what the step computes.

Legend: L layers of a probe, T rows of a step, R rows of a probe, S columns, H query heads, D head dim; N is as many as
KV heads or as query heads.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from kvloom.arrays import Floats
from kvloom.attend.plan import Ints, Plan
from kvloom.segment import Span, SpanSet


class Reduce(enum.Enum):
    """Over rows, and over the query heads of a group where results are by KV head."""

    SUM = "sum"
    MAX = "max"


@dataclass(frozen=True, slots=True)
class Observation:
    """Which attention of one sequence to measure.

    Parameters
    ----------
    rows:
        Absolute positions of the queries that count.
    columns:
        Absolute, present positions of the entries. Several entries at one position are combined by ``reduce``.
    """

    rows: SpanSet
    columns: Span
    reduce: Reduce


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """The running result of an ``Observation``; it does not depend on how a sequence is split into steps.

    ``running_LNS`` is float64, so that sums over long contexts stay accurate. ``counted_L``: rows included so far.
    """

    observation: Observation
    layers: tuple[int, ...]
    running_LNS: npt.NDArray[np.float64]
    counted_L: npt.NDArray[np.int64]

    @staticmethod
    def of(observation: Observation, layers: Iterable[int], heads: int) -> Tally:
        """An empty tally. ``heads``: the number of KV heads or of query heads, for results by one or the other."""
        layers = tuple(layers)
        running_LNS = np.zeros((len(layers), heads, len(observation.columns)))
        return Tally(observation, layers, running_LNS, np.zeros(len(layers), np.int64))

    @property
    def rows(self) -> SpanSet:
        return self.observation.rows

    def result(self) -> Floats:
        """float32 (L, N, S)."""
        return self.running_LNS.astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class QueryRecord:
    """Queries of ``rows`` as attention gets them: normed where the family does that, and rotated for their positions.

    ``queries_LRHD`` is float32, R in order of position; NaN where a row has not been computed.
    """

    rows: SpanSet
    layers: tuple[int, ...]
    queries_LRHD: Floats

    @staticmethod
    def of(rows: SpanSet, layers: Iterable[int], heads: int, dim: int) -> QueryRecord:
        layers = tuple(layers)
        return QueryRecord(rows, layers, np.full((len(layers), len(rows), heads, dim), np.nan, np.float32))


Probe = Tally | QueryRecord

Observers = Mapping[int, Sequence[Probe]]
"""The probes of a step, by index of the sequence in the plan."""

NOBODY: Observers = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A probe and the rows of a step that it covers, ascending: number n of them is its row ``places_R[n]``."""

    probe: Probe
    sequence: int
    rows_R: Ints
    places_R: npt.NDArray[np.int64]


def asked_of(plan: Plan, observers: Observers) -> tuple[Asked, ...]:
    """The selections of the probes in this step: empty when they cover none of its rows."""
    asked = []
    for sequence, probes in observers.items():
        first, last = plan.seq_rows_B1[sequence : sequence + 2].tolist()
        for probe in probes:
            places_T = _places(probe.rows, plan.positions_T[first:last])
            rows_R = np.flatnonzero(places_T >= 0)
            if rows_R.size:
                asked.append(Asked(probe, sequence, (first + rows_R).astype(np.int32), places_T[rows_R]))
    return tuple(asked)


def _places(rows: SpanSet, positions_T: Ints) -> npt.NDArray[np.int64]:
    """How many positions of ``rows`` come before each of these; -1 for one that is not among them."""
    places_T = np.full(positions_T.size, -1, np.int64)
    before = 0
    for span in rows:
        inside_T = (positions_T >= span.start) & (positions_T < span.stop)
        places_T[inside_T] = positions_T[inside_T] - span.start + before
        before += len(span)
    return places_T
