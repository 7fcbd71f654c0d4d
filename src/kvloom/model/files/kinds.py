"""The tensor types that model files hold: their names, and how many bytes their blocks take."""

from __future__ import annotations

from dataclasses import dataclass

from kvloom.errors import UnsupportedModel


@dataclass(frozen=True, slots=True)
class Kind:
    """``block_values`` consecutive values of a row are stored in ``block_bytes`` bytes."""

    name: str
    block_values: int
    block_bytes: int

    def row_bytes(self, cols: int) -> int:
        """Bytes of one row. Raises UnsupportedModel when ``cols`` is not a whole number of blocks."""
        if cols % self.block_values:
            raise UnsupportedModel(
                f"rows of {cols} values cannot be held in {self.name} blocks of {self.block_values} values"
            )
        return cols // self.block_values * self.block_bytes

    def tensor_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a row-major tensor whose last dimension runs along the blocks."""
        rows = 1
        for size in shape[:-1]:
            rows *= size
        return rows * self.row_bytes(shape[-1] if shape else 1)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("F32", 1, 4),
        Kind("F16", 1, 2),
        Kind("BF16", 1, 2),
        Kind("Q4_0", 32, 18),
        Kind("Q4_1", 32, 20),
        Kind("Q5_0", 32, 22),
        Kind("Q5_1", 32, 24),
        Kind("Q8_0", 32, 34),
        Kind("Q4_K", 256, 144),
        Kind("Q5_K", 256, 176),
        Kind("Q6_K", 256, 210),
    )
}
"""The types that kvloom supports."""

GGML_NAMES: dict[int, str] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip
"""Names of GGUF's type numbers, including unsupported ones, for messages."""


def kind_of(name: str, tensor: str, origin: object) -> Kind:
    """The kind called ``name``; ``tensor`` and ``origin`` are for the message. Raises UnsupportedModel."""
    if name not in KINDS:
        raise UnsupportedModel(
            f"`{origin}`: tensor `{tensor}` has type {name}, which kvloom does not support",
            hint=f"use a model with types among {', '.join(KINDS)}",
        )
    return KINDS[name]
