"""Linear algebra in float64 by the kernels, for methods that fit something.

Why not numpy's: it calls a library with threads of its own, which the engine's ``threads`` does not limit; on a machine
with other work they wait for each other, and products that take a millisecond take a hundred. Results depend neither on
the number of threads nor on the instruction set.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kvloom import _kernels

Doubles = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.floating]


def product(a_MN: Numbers, b_NP: Numbers, threads: int) -> Doubles:
    """(M, P)."""
    out_MP: Doubles = products(a_MN[None], b_NP[None], threads)[0]
    return out_MP


def products(a_KMN: Numbers, b_KNP: Numbers, threads: int) -> Doubles:
    """(K, M, P)."""
    out_KMP = np.empty((*a_KMN.shape[:2], b_KNP.shape[2]))
    _kernels.multiply(_plain(a_KMN), _plain(b_KNP), out_KMP, threads)
    return out_KMP


def solved(a_KNN: Doubles, y_KND: Doubles, threads: int) -> Doubles:
    """(K, N, D): x of a x = y, of K symmetric, positive definite matrices."""
    x_KND = np.array(y_KND, np.float64, order="C")
    _kernels.solve(np.array(a_KNN, np.float64, order="C"), x_KND, threads)
    return x_KND


def _plain(x: Numbers) -> Doubles:
    return np.ascontiguousarray(x, np.float64)
