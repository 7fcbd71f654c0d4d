"""Plain floating-point storage: one value, one IEEE (or brain) float."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class FloatCodec:
    """Round-to-nearest conversion to a torch float type."""

    name: str
    dtype: torch.dtype
    value_bytes: int
    relative_error: float

    def encode(self, values: torch.Tensor) -> torch.Tensor:
        return values.to(self.dtype)

    def decode(self, stored: torch.Tensor) -> torch.Tensor:
        return stored.to(torch.float32)


FLOAT32 = FloatCodec("float32", torch.float32, 4, 0.0)
FLOAT16 = FloatCodec("float16", torch.float16, 2, 2.0**-11)
BFLOAT16 = FloatCodec("bfloat16", torch.bfloat16, 2, 2.0**-8)
