"""The operators between attention calls, fused, on the CPU.

Row r of a result depends on row r of the input only, bit for bit: not on the other rows, the threads or the
instruction set. ``reference_ops`` has the same signatures in plain torch.

Shape suffixes: R rows, C input features, O output features, T tokens, H heads, D head dim, F gated features,
P positions.
``isa`` is one of ``kernels.isas()``, by default the best; results do not depend on it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from kvloom import _kernels
from kvloom.model.weight import Weight

Precision = Literal["float32", "int8", "int16"]
"""Of activations in a matrix product."""

DIGITS: dict[Precision, int] = {"float32": 0, "int8": 1, "int16": 2}
"""Of 8 bits each; the kernels' ``enum class Activations``."""


def linear(
    x_RC: torch.Tensor,
    weight: Weight,
    bias_O: torch.Tensor | None,
    threads: int,
    activations: Precision = "float32",
    *,
    isa: str | None = None,
) -> torch.Tensor:
    """x W^T + b, float32 (R, O).

    ``x_RC`` and ``bias_O`` are float32 and contiguous. With float32 activations each output is one chain of fused
    multiply-adds over ascending columns. With int8, x is rounded to 8 bits per group of 32 columns where it meets a
    quantized matrix, with int16 to twice 8 bits (``csrc/linear.h`` has the arithmetic).
    """
    rows, cols = x_RC.shape
    assert cols == weight.cols, f"{cols} features meet a matrix of {weight.cols} columns"
    out_RO = torch.empty(rows, weight.rows)
    _kernels.linear(
        _floats(x_RC),
        weight.table.data_ptr(),
        0 if bias_O is None else _vector(bias_O, weight.rows),
        out_RO.data_ptr(),
        rows,
        cols,
        weight.rows,
        len(weight.parts),
        threads,
        DIGITS[activations],
        isa or "",
    )
    return out_RO


def rms_norm(
    x: torch.Tensor, weight_C: torch.Tensor, eps: float, threads: int, *, isa: str | None = None
) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension; the result is contiguous.

    ``x`` is float32 (R, C), or (T, H, C) to normalize heads. Only its last dimension must be contiguous, so
    it may be a slice of a wider tensor.
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

    The tables are float32 (positions, half), contiguous, and hold everything about scaling; ``2 * half`` <=
    D, and features beyond stay. ``positions_T`` is int32, each in [0, P). ``x_THD`` is float32 and only its
    last dimension must be contiguous, so it may be a slice of a wider tensor.
    """
    tokens, heads, dim = x_THD.shape
    num_positions, half = table = cos_PD.shape
    strides = x_THD.stride()
    assert strides[2] == 1, f"the last dimension must be contiguous: {strides}"
    assert sin_PD.shape == table, f"tables differ: {tuple(table)} and {tuple(sin_PD.shape)}"
    assert 2 * half <= dim, f"{2 * half} features to rotate, but heads have {dim}"
    assert positions_T.dtype == torch.int32, f"positions must be int32, not {positions_T.dtype}"
    assert positions_T.shape == (tokens,), f"{tuple(positions_T.shape)} positions for {tokens} tokens"
    assert positions_T.is_contiguous(), "positions must be contiguous"
    in_range = _kernels.rope(
        _address(x_THD),
        positions_T.data_ptr(),
        _floats(cos_PD),
        _floats(sin_PD),
        num_positions,
        tokens,
        heads,
        half,
        strides[0],
        strides[1],
        threads,
        isa or "",
    )
    assert in_range, f"positions outside of tables of {num_positions}: {positions_T.tolist()}"


def silu_mul(gate_up_RF: torch.Tensor, threads: int, *, isa: str | None = None) -> torch.Tensor:
    """silu(gate) * up, float32 (R, F); ``gate_up_RF`` is (R, 2F), gate first, contiguous."""
    out_RF = _gated(gate_up_RF)
    rows, width = out_RF.shape
    _kernels.silu_mul(_floats(gate_up_RF), out_RF.data_ptr(), rows, width, threads, isa or "")
    return out_RF


def gelu_tanh_mul(gate_up_RF: torch.Tensor, threads: int, *, isa: str | None = None) -> torch.Tensor:
    """gelu(gate) * up (gelu in tanh form), float32 (R, F); ``gate_up_RF`` as in ``silu_mul``."""
    out_RF = _gated(gate_up_RF)
    rows, width = out_RF.shape
    _kernels.gelu_tanh_mul(_floats(gate_up_RF), out_RF.data_ptr(), rows, width, threads, isa or "")
    return out_RF


def _rms_norm(
    x: torch.Tensor, delta: int, weight_C: torch.Tensor, eps: float, threads: int, isa: str | None
) -> torch.Tensor:
    shape, strides = x.shape, x.stride()
    assert strides[-1] == 1, f"the last dimension must be contiguous: {strides}"
    (outer, width), heads = (shape[0], shape[-1]), len(shape) == 3
    out = torch.empty(shape)
    _kernels.rms_norm(
        _address(x),
        delta,
        _vector(weight_C, width),
        out.data_ptr(),
        outer,
        shape[1] if heads else 1,
        width,
        strides[0],
        strides[1] if heads else 0,
        eps,
        threads,
        isa or "",
    )
    return out


def largest(x_RV: npt.NDArray[np.float32], threads: int, *, isa: str | None = None) -> npt.NDArray[np.int64]:
    """``x_RV.argmax(axis=1)``: the first of the largest, or the first NaN. (R, V) contiguous -> (R,)."""
    rows, width = x_RV.shape
    assert x_RV.dtype == np.float32, f"float32 wanted, not {x_RV.dtype}"
    assert x_RV.flags.c_contiguous, f"contiguous rows wanted, but the strides are {x_RV.strides}"
    assert width, "rows are empty"
    first_R = np.empty(rows, np.int64)
    _kernels.largest(x_RV.ctypes.data, first_R.ctypes.data, rows, width, threads, isa or "")
    return first_R


def _gated(gate_up_RF: torch.Tensor) -> torch.Tensor:
    rows, width = gate_up_RF.shape
    assert width % 2 == 0, f"gate and up cannot share {width} features"
    return torch.empty(rows, width // 2)


def _floats(x: torch.Tensor) -> int:
    """Address of a contiguous float32 tensor."""
    assert x.is_contiguous(), f"contiguous float32 wanted, but the strides are {x.stride()}"
    return _address(x)


def _address(x: torch.Tensor) -> int:
    assert x.dtype == torch.float32, f"float32 wanted, not {x.dtype}"
    return x.data_ptr()


def _vector(x: torch.Tensor, size: int) -> int:
    assert x.shape == (size,), f"a vector of {size} wanted: {tuple(x.shape)}"
    return _floats(x)
