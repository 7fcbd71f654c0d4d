"""Number formats of stored KV. One file per codec; ``CODECS`` is the table that tests walk."""

from __future__ import annotations

from kvloom.codec.base import Codec
from kvloom.codec.floats import BFLOAT16, FLOAT16, FLOAT32
from kvloom.codec.int16 import INT16

CODECS: dict[str, Codec] = {codec.name: codec for codec in (FLOAT32, FLOAT16, BFLOAT16, INT16)}

__all__ = ["BFLOAT16", "CODECS", "FLOAT16", "FLOAT32", "INT16", "Codec"]
