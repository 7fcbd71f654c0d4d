"""The operators of ``ops`` in plain torch: what they mean, short enough to check by eye."""

from __future__ import annotations

import torch
from torch.nn import functional

from kvloom.model.ops import Precision
from kvloom.model.weight import Weight


def linear(
    x_RC: torch.Tensor,
    weight: Weight,
    bias_O: torch.Tensor | None,
    threads: int,
    activations: Precision = "float32",
    *,
    isa: str | None = None,
) -> torch.Tensor:
    parts = [Weight([part], weight.cols) for part in weight.parts]
    y_RO = torch.cat(
        [_as_met(x_RC, part, activations) @ torch.from_numpy(part.dequantize()).T for part in parts], dim=1
    )
    return y_RO if bias_O is None else y_RO + bias_O


def _as_met(x_RC: torch.Tensor, part: Weight, activations: Precision) -> torch.Tensor:
    """Activations as they are rounded for a matrix of that kind."""
    if activations == "float32" or part.kind in ("F32", "F16", "BF16"):
        return x_RC
    first_RC = rounded(x_RC)
    return first_RC if activations == "int8" else first_RC + rounded(x_RC - first_RC)


def rounded(x_RC: torch.Tensor) -> torch.Tensor:
    """x rounded to 8 bits per value, with one scale per 32 columns."""
    x_RGC = x_RC.view(len(x_RC), -1, 32)
    most_RG1 = x_RGC.abs().amax(-1, keepdim=True)
    inverse_RG1 = torch.where(most_RG1 > 1e-30, torch.full_like(most_RG1, 127.0) / most_RG1, torch.zeros(()))
    return ((x_RGC * inverse_RG1).round() * (most_RG1 / 127.0)).view(x_RC.shape)


def rms_norm(
    x: torch.Tensor, weight_C: torch.Tensor, eps: float, threads: int, *, isa: str | None = None
) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps) * weight_C


def add_rms_norm(
    x_RC: torch.Tensor,
    delta_RC: torch.Tensor,
    weight_C: torch.Tensor,
    eps: float,
    threads: int,
    *,
    isa: str | None = None,
) -> torch.Tensor:
    return rms_norm(x_RC.add_(delta_RC), weight_C, eps, threads)


def rope(
    x_THD: torch.Tensor,
    positions_T: torch.Tensor,
    cos_PD: torch.Tensor,
    sin_PD: torch.Tensor,
    threads: int,
    *,
    isa: str | None = None,
) -> None:
    half = cos_PD.shape[1]
    cos, sin = cos_PD[positions_T, None], sin_PD[positions_T, None]
    a, b = x_THD[..., :half].clone(), x_THD[..., half : 2 * half].clone()
    x_THD[..., :half] = a * cos - b * sin
    x_THD[..., half : 2 * half] = b * cos + a * sin


def silu_mul(gate_up_RF: torch.Tensor, threads: int, *, isa: str | None = None) -> torch.Tensor:
    gate, up = gate_up_RF.chunk(2, dim=-1)
    return functional.silu(gate) * up


def gelu_tanh_mul(gate_up_RF: torch.Tensor, threads: int, *, isa: str | None = None) -> torch.Tensor:
    gate, up = gate_up_RF.chunk(2, dim=-1)
    return functional.gelu(gate, approximate="tanh") * up
