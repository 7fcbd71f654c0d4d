"""Attention Matching in numpy, head by head: what it has to come to with the kernels' linear algebra."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kvloom.policy.compression.base import LayerContext

Doubles = npt.NDArray[np.float64]
_LEAST, _MOST = 0.05, 20.0


def matched(context: LayerContext, head: int, stays_P: npt.NDArray[np.int64], ridge: float) -> tuple[Doubles, Doubles]:
    """(v_PD, bias_P)."""
    q_RHD = context.measured.q_RHD
    assert q_RHD is not None
    group = q_RHD.shape[1] // context.shape[0]
    q_ND = q_RHD[:, head * group : (head + 1) * group].reshape(-1, q_RHD.shape[2]) * context.queries.scale
    k_SD, v_SD = (x_SKD[:, head].astype(np.float64) for x_SKD in (context.k_SKD, context.v_SKD))
    logits_NS = q_ND.astype(np.float64) @ k_SD.T
    shares_NS = np.exp(logits_NS - logits_NS.max(axis=1, keepdims=True))
    shares_NS /= shares_NS.sum(axis=1, keepdims=True)
    shares_NP = shares_NS[:, stays_P]
    common = 1 / np.maximum(shares_NP.sum(axis=1), 1e-3).mean()
    fitted_P = common + _fit(shares_NP, (1 - common * shares_NP.sum(axis=1))[:, None], ridge)[:, 0]
    factors_P = np.clip(fitted_P, _LEAST * common, _MOST * common)
    mixed_NP = shares_NP * factors_P
    mixed_NP /= np.maximum(mixed_NP.sum(axis=1, keepdims=True), 1e-30)
    v_PD = v_SD[stays_P]
    return v_PD + _fit(mixed_NP, shares_NS @ v_SD - mixed_NP @ v_PD, ridge), np.log(factors_P)


def _fit(x_NP: Doubles, y_ND: Doubles, ridge: float) -> Doubles:
    gram_NN = x_NP @ x_NP.T
    held = ridge * np.trace(gram_NN) / len(gram_NN)
    fitted_PD: Doubles = x_NP.T @ np.linalg.solve(gram_NN + (held + 1e-12) * np.eye(len(gram_NN)), y_ND)
    return fitted_PD
