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

from kvloom import _kernels
from kvloom.arrays import Floats, contiguous_address, float_address, vector_address
from kvloom.model.weight import Weight

Precision = Literal["float32", "int8", "int16"]
"""Precision of activations in a matrix product."""

PLANES: dict[Precision, int] = {"float32": 0, "int8": 1, "int16": 2}
"""Number of 8-bit planes; the kernels' ``enum class Activations``."""


def linear(
    x_RC: Floats,
    weight: Weight,
    bias_O: Floats | None,
    threads: int,
    activations: Precision = "float32",
    *,
    isa: str | None = None,
) -> Floats:
    """x W^T + b, float32 (R, O).

    ``x_RC`` and ``bias_O`` are float32 and contiguous. With float32 activations each output is one chain of fused
    multiply-adds over ascending columns. With int8, x is rounded to 8 bits per group of 32 columns where it meets a
    quantized matrix, with int16 to twice 8 bits (``csrc/linear.h`` has the arithmetic).
    """
    rows, cols = x_RC.shape
    assert cols == weight.cols, f"{cols} features meet a matrix of {weight.cols} columns"
    out_RO = np.empty((rows, weight.rows), np.float32)
    _kernels.linear(
        contiguous_address(x_RC),
        weight.table.ctypes.data,
        0 if bias_O is None else vector_address(bias_O, weight.rows),
        out_RO.ctypes.data,
        rows,
        cols,
        weight.rows,
        len(weight.parts),
        threads,
        PLANES[activations],
        isa or "",
    )
    return out_RO


def rms_norm(x: Floats, weight_C: Floats, eps: float, threads: int, *, isa: str | None = None) -> Floats:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension; the result is contiguous.

    ``x`` is float32 (R, C), or (T, H, C) to normalize heads. Only its last dimension must be contiguous, so
    it may be a slice of a wider tensor.
    """
    return _rms_norm(x, 0, weight_C, eps, threads, isa)


def add_rms_norm(
    x_RC: Floats,
    delta_RC: Floats,
    weight_C: Floats,
    eps: float,
    threads: int,
    *,
    isa: str | None = None,
) -> Floats:
    """Add ``delta_RC`` to the residual stream ``x_RC`` in place, and return the norm of the sum."""
    assert delta_RC.shape == x_RC.shape, f"{delta_RC.shape} added to {x_RC.shape}"
    return _rms_norm(x_RC, contiguous_address(delta_RC), weight_C, eps, threads, isa)


def rope(
    x_THD: Floats,
    positions_T: npt.NDArray[np.int32],
    cos_PD: Floats,
    sin_PD: Floats,
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
    strides = _steps(x_THD)
    assert sin_PD.shape == table, f"tables differ: {table} and {sin_PD.shape}"
    assert 2 * half <= dim, f"{2 * half} features to rotate, but heads have {dim}"
    assert positions_T.dtype == np.int32, f"positions must be int32, not {positions_T.dtype}"
    assert positions_T.shape == (tokens,), f"{positions_T.shape} positions for {tokens} tokens"
    assert positions_T.flags.c_contiguous, "positions must be contiguous"
    in_range = _kernels.rope(
        float_address(x_THD),
        positions_T.ctypes.data,
        contiguous_address(cos_PD),
        contiguous_address(sin_PD),
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


def silu_mul(gate_up_RF: Floats, threads: int, *, isa: str | None = None) -> Floats:
    """silu(gate) * up, float32 (R, F); ``gate_up_RF`` is (R, 2F), gate first, contiguous."""
    out_RF = _gated(gate_up_RF)
    rows, width = out_RF.shape
    _kernels.silu_mul(contiguous_address(gate_up_RF), out_RF.ctypes.data, rows, width, threads, isa or "")
    return out_RF


def gelu_tanh_mul(gate_up_RF: Floats, threads: int, *, isa: str | None = None) -> Floats:
    """gelu(gate) * up (gelu in tanh form), float32 (R, F); ``gate_up_RF`` as in ``silu_mul``."""
    out_RF = _gated(gate_up_RF)
    rows, width = out_RF.shape
    _kernels.gelu_tanh_mul(contiguous_address(gate_up_RF), out_RF.ctypes.data, rows, width, threads, isa or "")
    return out_RF


def _rms_norm(x: Floats, delta: int, weight_C: Floats, eps: float, threads: int, isa: str | None) -> Floats:
    shape, strides = x.shape, _steps(x)
    (outer, width), heads = (shape[0], shape[-1]), len(shape) == 3
    out = np.empty(shape, np.float32)
    _kernels.rms_norm(
        float_address(x),
        delta,
        vector_address(weight_C, width),
        out.ctypes.data,
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


def argmax(x_RV: Floats, threads: int, *, isa: str | None = None) -> npt.NDArray[np.int64]:
    """``x_RV.argmax(axis=1)``: the first of the largest, or the first NaN. (R, V) contiguous -> (R,)."""
    rows, width = x_RV.shape
    assert width, "rows are empty"
    first_R = np.empty(rows, np.int64)
    _kernels.argmax(contiguous_address(x_RV), first_R.ctypes.data, rows, width, threads, isa or "")
    return first_R


def _gated(gate_up_RF: Floats) -> Floats:
    rows, width = gate_up_RF.shape
    assert width % 2 == 0, f"gate and up cannot share {width} features"
    return np.empty((rows, width // 2), np.float32)


def _steps(x: Floats) -> tuple[int, ...]:
    """Strides in values. numpy gives arrays without values strides of 0."""
    strides = tuple(stride // x.itemsize for stride in x.strides)
    assert strides[-1] == 1 or x.size == 0, f"the last dimension must be contiguous: {strides}"
    return strides
