"""KeepKV's merge in numpy, in float64 and entry by entry: what the kernels have to come to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvloom.policy.compression.base import LayerContext

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """Of one KV head. ``members``: by entry that stays, which entries it is made of."""

    members: list[list[int]]
    k_PD: Doubles
    v_PD: Doubles
    bias_P: Doubles


def cosines(k_SD: npt.NDArray[np.float32], others_PD: npt.NDArray[np.float32]) -> Doubles:
    return _units(k_SD) @ _units(others_PD).T


def merged(context: LayerContext, head: int, stays: list[int], partner: dict[int, int], fading: float) -> Merged:
    """``partner``: into which of those that stay, counted from the first, an entry is merged."""
    assert context.measured.q_RHD is not None
    rows, query_heads, _ = context.measured.q_RHD.shape
    group = query_heads // context.shape[0]
    q_RGD = context.measured.q_RHD[:, head * group : (head + 1) * group].astype(np.float64) * context.queries.scale
    counts_R = fading ** np.arange(rows - 1, -1, -1.0)

    def weight(k_D: Doubles) -> float:
        logits_RG = q_RGD @ k_D
        top = logits_RG.max()
        return float(top + np.log((counts_R[:, None] * np.exp(logits_RG - top)).sum() / counts_R.sum() / group))

    k_SD, v_SD = context.k_SKD[:, head].astype(np.float64), context.v_SKD[:, head].astype(np.float64)
    members = [[stay, *sorted(gone for gone, into in partner.items() if into == n)] for n, stay in enumerate(stays)]
    k_PD, v_PD, bias_P = k_SD[stays], v_SD[stays], np.zeros(len(stays))
    for n, of_one in enumerate(members):
        if len(of_one) > 1:
            weights = np.array([weight(k_SD[entry]) for entry in of_one])
            total = weights.max() + np.log(np.exp(weights - weights.max()).sum())
            shares = np.exp(weights - total)
            k_PD[n], v_PD[n] = shares @ k_SD[of_one], shares @ v_SD[of_one]
            bias_P[n] = total - weight(k_PD[n])
    return Merged(members, k_PD, v_PD, bias_P)


def _units(k_SD: npt.NDArray[np.float32]) -> Doubles:
    x_SD = k_SD.astype(np.float64)
    return x_SD / np.maximum(np.linalg.norm(x_SD, axis=1, keepdims=True), 1e-12)
