"""KV of a document of a prompt, from wherever it comes: what fusion asks of it."""

from __future__ import annotations

from typing import Protocol

from kvloom.engine.kv.fused import Read
from kvloom.engine.kv.sequence import SequenceKv
from kvloom.segment import Span, SpanSet


class DocumentKv(Protocol):
    """Computed alone (``PassageKv``), and compressed (``CompressedKv``), or in an earlier context (``EarlierKv``)."""

    @property
    def span(self) -> Span:
        """Where the prompt has it."""
        ...

    @property
    def kv(self) -> SequenceKv:
        """Of the text in which it was computed."""
        ...

    @property
    def begun(self) -> bool: ...
    def begin(self) -> bool:
        """Look it up, and hold what is there. False: not yet."""
        ...

    @property
    def lacking(self) -> int:
        """Tokens of it that are neither there nor on their way."""
        ...

    def let_go(self) -> None:
        """Hold nothing, as before ``begin``."""
        ...

    def make_room(self) -> bool:
        """Take room for what is to be computed of it, or work on what a compression leaves. False: there is none."""
        ...

    @property
    def compressing(self) -> bool:
        """Whether a compression has been begun, and goes on in the next call of ``make_room``."""
        ...

    @property
    def left(self) -> SpanSet:
        """Positions of ``kv`` to compute now."""
        ...

    @property
    def complete(self) -> bool:
        """Nothing more is coming."""
        ...

    def reads(self) -> list[Read]:
        """When it is complete: what is there of it."""
        ...
