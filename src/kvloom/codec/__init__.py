"""Number formats of stored KV. One file per codec; ``CODECS`` is the table that tests walk."""

from __future__ import annotations

from kvloom.codec.base import BLOCK_TOKENS, Codec, Stream
from kvloom.codec.bfloat16 import BFLOAT16
from kvloom.codec.float16 import FLOAT16
from kvloom.codec.float32 import FLOAT32
from kvloom.codec.int8 import INT8
from kvloom.codec.int16 import INT16

CODECS: dict[str, Codec] = {codec.name: codec for codec in (FLOAT32, FLOAT16, BFLOAT16, INT16, INT8)}

__all__ = ["BFLOAT16", "BLOCK_TOKENS", "CODECS", "FLOAT16", "FLOAT32", "INT8", "INT16", "Codec", "Stream"]
