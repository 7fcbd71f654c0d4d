"""Plain floating-point storage: one number, one IEEE (or brain) float."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FloatCodec:
    """Round-to-nearest conversion to the float type of that name, ``size`` bytes each."""

    name: str
    size: int
    relative_error: float
    by_norm: bool = False

    @property
    def key_error(self) -> float:
        return self.relative_error

    @property
    def value_error(self) -> float:
        return self.relative_error

    def key_bytes(self, dim: int) -> int:
        return dim * self.size

    def value_bytes(self, dim: int) -> int:
        return dim * self.size


FLOAT32 = FloatCodec("float32", 4, 0.0)
FLOAT16 = FloatCodec("float16", 2, 2.0**-11)
BFLOAT16 = FloatCodec("bfloat16", 2, 2.0**-8)
