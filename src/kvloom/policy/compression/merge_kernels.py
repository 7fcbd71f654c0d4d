"""What merging asks of the kernels, for all KV heads of a layer at once: who is alike, what keys weigh, weighted sums.

Keys, and values, of a layer are rows of one array: entry s of head k is row s * K + k. Results do not depend on the
number of threads, nor on the other rows.

Legend: X rows of a layer, R rows that are named, K KV heads, D head dim, G sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvloom import _kernels
from kvloom.policy.compression.base import Floats
from kvloom.policy.compression.reference_queries import References

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class HeadRows:
    """Rows that KV heads name, one head after the other. ``bounds_K1``: where those of each head begin and end."""

    rows_R: Indices
    bounds_K1: Indices

    @staticmethod
    def of(entries: Sequence[Indices]) -> HeadRows:
        """``entries``: by head, indices of entries."""
        heads = len(entries)
        rows = [entries_S * heads + head for head, entries_S in enumerate(entries)]
        return HeadRows(np.concatenate([np.zeros(0, np.int64), *rows]), np.cumsum([0, *map(len, entries)]))


def rows_of(x_SKD: Floats) -> Floats:
    """(X, D)."""
    return np.ascontiguousarray(x_SKD).reshape(-1, x_SKD.shape[-1])


def nearest(keys_XD: Floats, rows: HeadRows, others: HeadRows, threads: int) -> tuple[Indices, Floats]:
    """For each row, which of its head's others has the key that is most alike, counted from the first one of the head,
    and the cosine. Of equals the first. A head that names rows has others.
    """
    nearest_R, cosines_R = np.empty(len(rows.rows_R), np.int64), np.empty(len(rows.rows_R), np.float32)
    bounds = rows.bounds_K1, others.rows_R, others.bounds_K1
    _kernels.nearest(keys_XD, rows.rows_R, *bounds, nearest_R, cosines_R, threads)
    return nearest_R, cosines_R


def weigh(keys_XD: Floats, rows: HeadRows, references: References, threads: int) -> Floats:
    """(R,): the logarithm of what each key weighs before softmax, on average over its head's reference queries."""
    weights_R, log_N = np.empty(len(rows.rows_R), np.float32), references.log_N.astype(np.float32)
    _kernels.weigh(keys_XD, rows.rows_R, rows.bounds_K1, references.q_KND, log_N, weights_R, threads)
    return weights_R


def sums(x_XD: Floats, rows_R: Indices, shares_R: Floats, bounds_G1: Indices, threads: int) -> Floats:
    """(G, D): rows times shares, added up from each bound to the next."""
    out_GD = np.empty((len(bounds_G1) - 1, x_XD.shape[1]), np.float32)
    _kernels.sum_rows(x_XD, rows_R, shares_R, bounds_G1, out_GD, threads)
    return out_GD
