"""Random weights as a GGUF file holds them."""

from __future__ import annotations

import gguf
import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

KINDS = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
# Where the fp16 scales (and minima) stand in a block; every other byte may be anything.
HALVES = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
}


def block_cols(kind: str) -> int:
    return gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0]


def random_raw(kind: str, rows: int, cols: int, seed: int = 0) -> Bytes:
    """Bytes (rows, bytes per row) of a valid matrix: any codes, scales of both signs and many sizes."""
    rng = np.random.default_rng(seed)
    if kind not in HALVES:
        values = rng.standard_normal((rows, cols)).astype(np.float32)
        return gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind]).view(np.uint8)
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    raw = rng.integers(0, 256, (rows * cols // block, size), dtype=np.uint8)
    for at in HALVES[kind]:
        scales = (rng.standard_normal(len(raw)) * 10.0 ** rng.uniform(-6, -1, len(raw))).astype(np.float16)
        raw[:, at : at + 2] = scales[:, None].view(np.uint8)
    return raw.reshape(rows, -1)


def dequantized(raw: Bytes, kind: str) -> Floats:
    """What the reference library reads from them, float32 (rows, cols)."""
    qtype = gguf.GGMLQuantizationType[kind]
    if kind == "F32":
        return raw.view(np.float32)
    if kind == "F16":
        return raw.view(np.float16).astype(np.float32)
    return gguf.quants.dequantize(raw, qtype)
