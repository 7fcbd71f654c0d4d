"""What compactors that merge have in common: which entries become one, and what is stored for those that stay.

Legend: S entries, P those that stay, K KV heads, D head dim; of all heads of a layer, R entries that go, G merged ones,
M members of those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvloom.policy.compression.base import Entries, Floats, Kept, LayerContext
from kvloom.policy.compression.merge_kernels import HeadRows, Indices, nearest, rows_of, sums

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Merges:
    """Of each entry that something is merged into, its members: itself, and then what is, in order.

    ``rows_M``: all members (see ``HeadRows``), those of one from one of ``bounds_G1`` to the next. ``cosines_M``: with
    the one that stays. ``places_G``: which of those that stay in its head that is. ``groups_K1``: where those of each
    head begin and end.
    """

    rows_M: Indices
    cosines_M: Floats
    bounds_G1: Indices
    places_G: Indices
    groups_K1: Indices

    @staticmethod
    def of(
        context: LayerContext, kept: Sequence[Kept], alike: Callable[[Floats], npt.NDArray[np.bool_]]
    ) -> Merges | None:
        """Everything that goes looks for the one that stays whose key is most like its own. ``alike``: which of a head
        are merged then, given the cosines. None: none is.
        """
        stay = HeadRows.of(kept)
        gone = HeadRows.of([gone_of(len(context.k_SKD), stays_P) if len(stays_P) else stays_P for stays_P in kept])
        partner_R, cosines_R = nearest(rows_of(context.k_SKD), gone, stay, context.threads)
        parts = [alike(part) if len(part) else part > 0 for part in np.split(cosines_R, gone.bounds_K1[1:-1])]
        merges_R = np.concatenate(parts)
        if not merges_R.any():
            return None
        into_R = np.repeat(stay.bounds_K1[:-1], np.diff(gone.bounds_K1)) + partner_R
        into_G, group_R = np.unique(into_R[merges_R], return_inverse=True)
        group_M = np.concatenate([np.arange(len(into_G)), group_R])
        order = np.argsort(group_M, kind="stable")
        rows_M = np.concatenate([stay.rows_R[into_G], gone.rows_R[merges_R]])[order]
        cosines_M = np.concatenate([np.ones(len(into_G), np.float32), cosines_R[merges_R]])[order]
        groups_K1 = np.searchsorted(into_G, stay.bounds_K1)
        places_G = into_G - np.repeat(stay.bounds_K1[:-1], np.diff(groups_K1))
        return Merges(rows_M, cosines_M, np.cumsum([0, *np.bincount(group_M)]), places_G, groups_K1)

    @property
    def votes(self) -> Indices:
        """(G,): how many each is made of."""
        return np.diff(self.bounds_G1)

    @property
    def members(self) -> HeadRows:
        return HeadRows(self.rows_M, self.bounds_G1[self.groups_K1])

    def added(self, x_M: Doubles) -> Doubles:
        """(G,): of the members of each, the sum."""
        sums_G: Doubles = np.add.reduceat(x_M, self.bounds_G1[:-1])
        return sums_G

    def spread(self, x_G: Doubles) -> Doubles:
        """(M,): to all members of each."""
        return np.repeat(x_G, self.votes)

    def mixed(self, context: LayerContext, shares_M: Doubles) -> tuple[Floats, Floats]:
        """(k_GD, v_GD): of keys and values of the members of each, as large a share as is said, added up."""
        k_GD, v_GD = (
            sums(rows_of(x_SKD), self.rows_M, as_stored(shares_M), self.bounds_G1, context.threads)
            for x_SKD in (context.k_SKD, context.v_SKD)
        )
        return k_GD, v_GD

    def entries(
        self, context: LayerContext, kept: Sequence[Kept], k_GD: Floats, v_GD: Floats, bias_G: Doubles
    ) -> list[Entries | None]:
        """What a compactor answers: the merged ones, and the others as they are."""
        found: list[Entries | None] = []
        for head, stays_P in enumerate(kept):
            of_head = slice(*self.groups_K1[head : head + 2].tolist())
            places = self.places_G[of_head]
            k_PD, v_PD = context.k_SKD[stays_P, head], context.v_SKD[stays_P, head]
            changed_P, bias_P = np.zeros(len(stays_P), np.bool_), np.zeros(len(stays_P), np.float32)
            k_PD[places], v_PD[places] = k_GD[of_head], v_GD[of_head]
            bias_P[places], changed_P[places] = bias_G[of_head], True
            found.append(Entries(k_PD, v_PD, bias_P, changed_P) if len(places) else None)
        return found


def gone_of(count: int, stays_P: Kept) -> Kept:
    """The entries that do not stay, ascending."""
    goes_S = np.ones(count, np.bool_)
    goes_S[stays_P] = False
    return np.flatnonzero(goes_S)


def as_stored(x: Doubles) -> Floats:
    return np.ascontiguousarray(x, np.float32)
