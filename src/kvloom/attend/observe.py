"""The one door by which statistics leave attention: what chosen rows give to which entries, and their queries.

A row gives the entry at column s the probability exp(score - lse), where the score is attend's own (as queries meet
stored keys; with scale, bias and shift) and lse is the row's final log-sum-exp over all parts. An entry that a row does
not see gets nothing from it. Of these probabilities only reductions over rows come out, never a matrix.

Whoever asks makes probes and passes them along with every step that has rows of theirs (``Model.run``); the steps add
to them. A row that is computed twice counts twice, and one that is never computed (its KV was found) not at all:
``counted`` says how many are in. Nobody who asks changes a bit of what the step computes.

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
    """What to know of one sequence's attention.

    Parameters
    ----------
    rows:
        Absolute positions of the queries that count.
    columns:
        Absolute positions of the entries, where they stand now. Several entries at one position are taken together, in
        the way of ``reduce``.
    """

    rows: SpanSet
    columns: Span
    reduce: Reduce


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """The running answer to an ``Observation``: however a sequence is cut into steps, it comes out the same.

    ``running_LNS`` is float64: sums over long contexts lose nothing on the way. ``counted_L``: rows that are in.
    """

    observation: Observation
    layers: tuple[int, ...]
    running_LNS: npt.NDArray[np.float64]
    counted_L: npt.NDArray[np.int64]

    @staticmethod
    def of(observation: Observation, layers: Iterable[int], heads: int) -> Tally:
        """Nothing seen yet. ``heads``: as many as KV heads, or as query heads, for results by one or the other."""
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
"""Who asks in a step: probes, by index of the sequence in the plan."""

NOBODY: Observers = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A probe and those rows of a step that it asks about, ascending: number n of them is its row ``places_R[n]``."""

    probe: Probe
    sequence: int
    rows_R: Ints
    places_R: npt.NDArray[np.int64]


def asked_of(plan: Plan, observers: Observers) -> tuple[Asked, ...]:
    """What the probes ask of this step: empty when none of its rows are asked about."""
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
