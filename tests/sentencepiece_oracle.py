"""Rebuild a SentencePiece model from a GGUF's vocabulary, so that the original library can be asked."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import sentencepiece

_BPE = 2


def oracle(metadata: Mapping[str, Any]) -> sentencepiece.SentencePieceProcessor:
    """The real SentencePiece over the same pieces, scores and types."""
    model = b"".join(
        _bytes(1, _bytes(1, _spelled(text, kind).encode()) + _float(2, score) + _int(3, kind))
        for text, score, kind in zip(
            metadata["tokenizer.ggml.tokens"],
            metadata["tokenizer.ggml.scores"].tolist(),
            metadata["tokenizer.ggml.token_type"].tolist(),
            strict=True,
        )
    )
    prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    ids = [int(metadata.get(f"tokenizer.ggml.{key}_token_id", -1)) for key in ("unknown", "bos", "eos", "padding")]
    trainer = _int(3, _BPE) + _int(35, 1) + b"".join(_int(40 + n, token) for n, token in enumerate(ids))
    normalizer = _bytes(1, b"identity") + _int(3, int(prefix)) + _int(4, 0) + _int(5, 1)
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(model + _bytes(2, trainer) + _bytes(3, normalizer))
    return processor


def _spelled(text: str, kind: int) -> str:
    return text.replace(" ", "▁") if kind == 4 else text


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _int(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value
