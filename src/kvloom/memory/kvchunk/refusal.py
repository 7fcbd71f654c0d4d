"""Why a kvchunk file is not used. Whoever reads one counts this as a miss, and computes."""

from __future__ import annotations

from enum import StrEnum

from kvloom.errors import KvloomError


class Refusal(StrEnum):
    """Of the file itself, then of who reads it, then of writing."""

    GONE = "gone"  # there is no such file, or it cannot be read
    SHORT = "short"  # fewer bytes than it says it has
    MALFORMED = "malformed"  # not a kvchunk file, or one that contradicts itself
    CORRUPT = "corrupt"  # a digest does not fit the bytes
    VERSION = "version"  # of a format that is not known here
    MODEL = "model"  # of other weights
    TOKENIZER = "tokenizer"  # of another tokenizer
    NAMESPACE = "namespace"  # of another salt
    TOKENS = "tokens"  # of another passage
    KIND = "kind"  # not a passage that was computed alone
    SHAPE = "shape"  # other layers, heads or dimensions
    SLICE = "slice"  # a part of the KV heads where all are needed
    FULL = "full"  # no room to write
    FAILED = "failed"  # the medium reported an error


class ChunkRefused(KvloomError):
    """A file was not read or not written, and why. Nothing else is affected."""

    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__(message)
        self.refusal = refusal
