"""Weight matrices that stay quantized in memory.

A matrix is packed once, from the bytes of its file, into panels of 32 output rows (``csrc/weights.h``);
neither a copy in the file's order nor a float copy is kept. Codes keep their bits, so a matrix takes at most
3% more memory than in its file. Codes and scales are the file's own, so every value equals the float32 of
``gguf.quants.dequantize`` (but Q4_0 turns -0.0 into 0.0).

Shape suffixes: R rows, C input features (columns of the matrix), O output features (rows of the matrix).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from kvloom import _kernels
from kvloom.arrays import Bytes, Floats, aligned_bytes
from kvloom.errors import ModelFileError, UnsupportedModel

PANEL_ROWS = 32

Raw = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Kind:
    """A ggml type that can be packed. Bytes are those of one block of ``block_cols`` columns."""

    name: str
    code: int
    block_cols: int
    source_bytes: int
    """Of one row, in the file."""
    packed_bytes: int
    """Of one panel."""


@cache
def kinds() -> dict[str, Kind]:
    """Every kind by its ggml name."""
    table = enumerate(_kernels.weight_kinds())
    return {name: Kind(name, code, *sizes) for code, (name, *sizes) in table}


@dataclass(frozen=True, slots=True)
class Part:
    """One packed matrix: uint8, ceil(rows / 32) panels."""

    kind: Kind
    rows: int
    packed: Bytes


class Weight:
    """One matrix of ``rows`` output features by ``cols`` input features, or several stacked along the
    outputs.

    Immutable. ``kind`` is the ggml type, or those of the stack ("Q4_K+Q6_K"). ``table`` is what kernels read:
    int64, one row of (address, kind, rows) per part.
    """

    __slots__ = ("cols", "kind", "parts", "rows", "table")

    def __init__(self, parts: Sequence[Part], cols: int) -> None:
        self.parts = tuple(parts)
        self.rows = sum(part.rows for part in parts)
        self.cols = cols
        self.kind = "+".join(dict.fromkeys(part.kind.name for part in parts))
        entries = [[part.packed.ctypes.data, part.kind.code, part.rows] for part in parts]
        self.table = np.array(entries, np.int64)

    @classmethod
    def pack(
        cls,
        raw: Raw,
        kind: str,
        shape: tuple[int, int],
        *,
        threads: int = 1,
        allocate: Callable[[int], Bytes] = aligned_bytes,
    ) -> Weight:
        """Pack the bytes of a matrix as it lies in its file: row-major, blocks along the columns.

        ``raw`` may have any shape and dtype (a read-only memory map too) as long as it is contiguous; it is
        read once, by groups of 32 rows, and not kept. ``shape`` is (rows, cols). ``allocate`` returns that many bytes
        aligned to a cache line. Raises UnsupportedModel for a type that we do not run or a width that it
        cannot have, ModelFileError when the number of bytes is wrong.
        """
        rows, cols = shape
        layout = _layout(kind, cols)
        assert raw.flags.c_contiguous, f"a weight of shape {raw.shape} is not contiguous"
        expected = rows * (cols // layout.block_cols) * layout.source_bytes
        if raw.nbytes != expected:
            raise ModelFileError(
                f"a {rows} x {cols} {kind} matrix takes {expected} bytes, but {raw.nbytes} are there",
                hint="the file may be truncated: fetch it again",
            )
        panels = -(-rows // PANEL_ROWS)
        packed = allocate(panels * (cols // layout.block_cols) * layout.packed_bytes)
        _kernels.pack_weight(raw.ctypes.data, layout.code, rows, cols, packed.ctypes.data, threads)
        return cls([Part(layout, rows, packed)], cols)

    @classmethod
    def concat(cls, weights: Sequence[Weight]) -> Weight:
        """Stack matrices over the same input features, of any kinds, along the outputs. Copies nothing."""
        widths = {weight.cols for weight in weights}
        assert len(widths) == 1, f"matrices to stack have different input features: {sorted(widths)}"
        return cls([part for weight in weights for part in weight.parts], widths.pop())

    @property
    def nbytes(self) -> int:
        return sum(part.packed.nbytes for part in self.parts)

    def gather(self, ids_R: npt.NDArray[np.int64], *, threads: int = 1) -> Floats:
        """Rows of the matrix as float32 (R, cols): embeddings. ``ids_R`` is int64, each in [0, rows)."""
        assert ids_R.dtype == np.int64, f"ids must be int64, not {ids_R.dtype}"
        ids_R = np.ascontiguousarray(ids_R)
        out_RC = np.empty((len(ids_R), self.cols), np.float32)
        in_range = _kernels.gather_rows(
            self.table.ctypes.data,
            len(self.parts),
            self.cols,
            ids_R.ctypes.data,
            len(ids_R),
            out_RC.ctypes.data,
            threads,
        )
        assert in_range, f"ids outside of a matrix of {self.rows} rows: {ids_R.tolist()}"
        return out_RC

    def dequantize(self) -> Floats:
        """The whole matrix as float32 (rows, cols), made anew: for what is done rarely."""
        return self.gather(np.arange(self.rows))

    def __repr__(self) -> str:
        return f"Weight({self.rows} x {self.cols}, {self.kind}, {self.nbytes} bytes)"


def _layout(kind: str, cols: int) -> Kind:
    layout = kinds().get(kind)
    if layout is None:
        raise UnsupportedModel(
            f"tensor type {kind} is not supported; possible: {', '.join(kinds())}",
            hint="take the model in Q4_K_M, Q8_0 or F16",
        )
    if cols % layout.block_cols:
        raise UnsupportedModel(
            f"a {kind} matrix has {cols} columns, which is not a multiple of {layout.block_cols}",
            hint="take the model in a type with smaller blocks, such as Q8_0 (32) or F16 (1)",
        )
    return layout
