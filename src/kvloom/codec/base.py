"""What a codec promises."""

from __future__ import annotations

from typing import Protocol


class Codec(Protocol):
    """A way to store float32 keys and values in a fixed number of bytes. Kernels and the reference know it by name.

    ``key_error`` and ``value_error`` bound ``|stored(x) - x|`` of a component: times ``|x|``, or times the norm of its
    vector where ``by_norm`` says so (keys only), for normal x in range.
    """

    @property
    def name(self) -> str: ...
    @property
    def key_error(self) -> float: ...
    @property
    def value_error(self) -> float: ...
    @property
    def by_norm(self) -> bool: ...
    def key_bytes(self, dim: int) -> int:
        """Bytes of one key of ``dim`` components."""
        ...

    def value_bytes(self, dim: int) -> int:
        """Bytes of one value of ``dim`` components."""
        ...
