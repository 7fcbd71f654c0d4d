"""What a codec promises."""

from __future__ import annotations

from typing import Protocol

import torch


class Codec(Protocol):
    """Encodes float32 values into bytes of a fixed size and back.

    ``relative_error`` bounds ``|decode(encode(x)) - x| <= relative_error * |x|`` for normal x in range.
    """

    @property
    def name(self) -> str: ...
    @property
    def value_bytes(self) -> int: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def relative_error(self) -> float: ...

    def encode(self, values: torch.Tensor) -> torch.Tensor: ...
    def decode(self, stored: torch.Tensor) -> torch.Tensor: ...
