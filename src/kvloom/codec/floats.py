"""Plain floating-point storage: one value, one IEEE (or brain) float."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FloatCodec:
    """Round-to-nearest conversion to the float type of that name."""

    name: str
    value_bytes: int
    relative_error: float


FLOAT32 = FloatCodec("float32", 4, 0.0)
FLOAT16 = FloatCodec("float16", 2, 2.0**-11)
BFLOAT16 = FloatCodec("bfloat16", 2, 2.0**-8)
