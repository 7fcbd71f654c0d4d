"""The operators of ``ops`` in plain torch: what they mean, short enough to check by eye."""

from __future__ import annotations

import torch
from torch.nn import functional

from kvloom.model.weight import Weight


def linear(
    x_RC: torch.Tensor, weight: Weight, bias_O: torch.Tensor | None, threads: int, *, isa: str | None = None
) -> torch.Tensor:
    return functional.linear(x_RC, weight.dequantize(), bias_O)


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
