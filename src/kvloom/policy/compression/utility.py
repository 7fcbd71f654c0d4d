"""What entries turned out to be good for, and what a scorer's ranking of them loses: a profile's raw material.

Source: LU-KV (Tang et al. 2026, arXiv 2602.08585): the utility of an entry is the most that it has contributed to the
output of its layer in any of the steps that came after the context, over the query heads of its group: attention times
the norm of value and output projection. As in its code, and not in the paper, these norms are divided by their sum over
a layer, or layers with large norms would take all. We differ where a layer has a window: its entries are few, and each
would have a large share of such a sum; there it is the share of the context that the window shows.

Legend: S entries, K KV heads, H query heads, D head dim, E width of the model, G shares.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kvloom.policy.compression.base import Floats

Doubles = npt.NDArray[np.float64]


def contribution_norms(v_SKD: Floats, w_HDE: Floats, context: int) -> Doubles:
    """(H, S): the norm of what each query head writes for a value with all of its attention on it. All of a layer's add
    up to the share that its entries are of the ``context`` tokens: 1 if it has no window.
    """
    group = len(w_HDE) // v_SKD.shape[1]
    grams_HDD = np.einsum("hde,hfe->hdf", w_HDE.astype(np.float64), w_HDE.astype(np.float64))
    v_HSD = np.repeat(v_SKD.transpose(1, 0, 2).astype(np.float64), group, axis=0)
    norms_HS: Doubles = np.sqrt(np.maximum(0, np.einsum("hsd,hsd->hs", v_HSD @ grams_HDD, v_HSD)))
    total = norms_HS.sum()
    return norms_HS / total * (len(v_SKD) / context) if total else norms_HS


def utility(most_HS: Floats, norms_HS: Doubles, kv_heads: int) -> Doubles:
    """(K, S), from the most attention by query head in any step: norms do not change from step to step."""
    weighted_HS: Doubles = most_HS * norms_HS
    utility_KS: Doubles = weighted_HS.reshape(kv_heads, len(norms_HS) // kv_heads, -1).max(axis=1)
    return utility_KS


def loss_curves(utility_KS: Doubles, scores_KS: Floats, shares_G: Doubles) -> Doubles:
    """(K, G): the utility of all but the best by score, when a share of the entries is kept; straight between counts.

    >>> loss_curves(np.array([[1.0, 4.0, 2.0]]), np.array([[9, 7, 8]], np.float32), np.linspace(0, 1, 4)).tolist()
    [[7.0, 6.0, 4.0, 0.0]]
    """
    heads, count = utility_KS.shape
    ranked_KS = np.take_along_axis(utility_KS, np.argsort(-scores_KS, axis=1, kind="stable"), axis=1)
    losses_KN = np.zeros((heads, count + 1))
    losses_KN[:, :count] = np.cumsum(ranked_KS[:, ::-1], axis=1)[:, ::-1]
    return np.stack([np.interp(shares_G * count, np.arange(count + 1), losses_N) for losses_N in losses_KN])
