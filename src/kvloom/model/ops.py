"""The operators between attention calls, fused, on the CPU.

Row r of a result depends on row r of the input only, bit for bit: not on the other rows, the threads or the instruction
set. ``reference_ops`` has the same signatures in plain torch.

Shape suffixes: R rows, C input features, O output features, T tokens, H heads, D head dim, F gated features, P positions.
``isa`` names an instruction set (``kernels.isas()``); results do not depend on it.
"""

from __future__ import annotations

import torch

from kvloom.kernels import isa_code, kernels
from kvloom.model.weight import Weight


def linear(
    x_RC: torch.Tensor, weight: Weight, bias_O: torch.Tensor | None, threads: int, *, isa: str | None = None
) -> torch.Tensor:
    """x W^T + b, float32 (R, O). Each output is one chain of fused multiply-adds over ascending columns.

    ``x_RC`` and ``bias_O`` are float32 and contiguous.
    """
    rows, cols = x_RC.shape
    assert cols == weight.cols, f"{cols} features meet a matrix of {weight.cols} columns"
    out_RO = torch.empty(rows, weight.rows)
    kernels.linear(
        _floats(x_RC),
        weight.table.data_ptr(),
        0 if bias_O is None else _vector(bias_O, weight.rows),
        out_RO.data_ptr(),
        rows,
        cols,
        weight.rows,
        len(weight.parts),
        threads,
        isa_code(isa),
    )
    return out_RO


def rms_norm(
    x: torch.Tensor, weight_C: torch.Tensor, eps: float, threads: int, *, isa: str | None = None
) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension; the result is contiguous.

    ``x`` is float32 (R, C), or (T, H, C) to normalize heads. Only its last dimension must be contiguous, so it may be a
    slice of a wider tensor.
    """
    return _rms_norm(x, 0, weight_C, eps, threads, isa)


def add_rms_norm(
    x_RC: torch.Tensor,
    delta_RC: torch.Tensor,
    weight_C: torch.Tensor,
    eps: float,
    threads: int,
    *,
    isa: str | None = None,
) -> torch.Tensor:
    """Add ``delta_RC`` to the residual stream ``x_RC`` in place, and return the norm of the sum."""
    assert delta_RC.shape == x_RC.shape, f"{tuple(delta_RC.shape)} added to {tuple(x_RC.shape)}"
    return _rms_norm(x_RC, _floats(delta_RC), weight_C, eps, threads, isa)


def rope(
    x_THD: torch.Tensor,
    positions_T: torch.Tensor,
    cos_PD: torch.Tensor,
    sin_PD: torch.Tensor,
    threads: int,
    *,
    isa: str | None = None,
) -> None:
    """Rotate in place: feature i with feature i + half, by the angle of the row's position.

    The tables are float32 (positions, half), contiguous, and hold everything about scaling; ``2 * half`` <= D, and
    features beyond stay. ``positions_T`` is int64, each in [0, P). ``x_THD`` is float32 and only its last dimension
    must be contiguous, so it may be a slice of a wider tensor.
    """
    tokens, heads, dim = x_THD.shape
    half = cos_PD.shape[1]
    assert cos_PD.shape == sin_PD.shape, f"tables differ: {tuple(cos_PD.shape)} and {tuple(sin_PD.shape)}"
    assert 2 * half <= dim, f"{2 * half} features to rotate, but heads have {dim}"
    assert x_THD.dtype == torch.float32 and (x_THD.stride(2) == 1 or dim == 1), "x_THD must be rows of float32"
    assert positions_T.dtype == torch.int64 and positions_T.shape == (tokens,) and positions_T.is_contiguous()
    kernels.rope(
        x_THD.data_ptr(),
        positions_T.data_ptr(),
        _floats(cos_PD),
        _floats(sin_PD),
        tokens,
        heads,
        half,
        x_THD.stride(0),
        x_THD.stride(1),
        threads,
        isa_code(isa),
    )


def silu_mul(gate_up_RF: torch.Tensor, threads: int, *, isa: str | None = None) -> torch.Tensor:
    """silu(gate) * up, float32 (R, F); ``gate_up_RF`` is (R, 2F), gate first, contiguous."""
    out_RF = _gated(gate_up_RF)
    rows, width = out_RF.shape
    kernels.silu_mul(_floats(gate_up_RF), out_RF.data_ptr(), rows, width, threads, isa_code(isa))
    return out_RF


def gelu_tanh_mul(gate_up_RF: torch.Tensor, threads: int, *, isa: str | None = None) -> torch.Tensor:
    """gelu(gate) * up with the tanh approximation, float32 (R, F); ``gate_up_RF`` is (R, 2F), gate first, contiguous."""
    out_RF = _gated(gate_up_RF)
    rows, width = out_RF.shape
    kernels.gelu_tanh_mul(_floats(gate_up_RF), out_RF.data_ptr(), rows, width, threads, isa_code(isa))
    return out_RF


def _rms_norm(
    x: torch.Tensor, delta: int, weight_C: torch.Tensor, eps: float, threads: int, isa: str | None
) -> torch.Tensor:
    assert x.dtype == torch.float32 and x.stride(-1) == 1, f"rows of float32 wanted: {x.dtype}, {x.stride()}"
    outer, *middle, width = x.shape
    inner = middle[0] if middle else 1
    out = torch.empty(x.shape)
    kernels.rms_norm(
        x.data_ptr(),
        delta,
        _vector(weight_C, width),
        out.data_ptr(),
        outer,
        inner,
        width,
        x.stride(0),
        x.stride(1) if middle else 0,
        eps,
        threads,
        isa_code(isa),
    )
    return out


def _gated(gate_up_RF: torch.Tensor) -> torch.Tensor:
    rows, width = gate_up_RF.shape
    assert width % 2 == 0, f"gate and up cannot share {width} features"
    return torch.empty(rows, width // 2)


def _floats(x: torch.Tensor) -> int:
    """Address of a contiguous float32 tensor."""
    assert x.dtype == torch.float32 and x.is_contiguous(), f"contiguous float32 wanted: {x.dtype}, {x.stride()}"
    return x.data_ptr()


def _vector(x: torch.Tensor, size: int) -> int:
    assert x.shape == (size,), f"a vector of {size} wanted: {tuple(x.shape)}"
    return _floats(x)
