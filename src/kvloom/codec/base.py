"""What a codec promises."""

from __future__ import annotations

from typing import Protocol


class Codec(Protocol):
    """A way to store float32 values in a fixed number of bytes. Kernels and the reference know codecs by name.

    ``relative_error`` bounds ``|stored(x) - x| <= relative_error * |x|`` for normal x in range.
    """

    @property
    def name(self) -> str: ...
    @property
    def value_bytes(self) -> int: ...
    @property
    def relative_error(self) -> float: ...
