"""Entries stay to which a model attends that is made to repeat the context: what it needs in order to say it again.

Source: KVzip (Kim et al. 2025, arXiv 2505.23416): the largest attention over the queries of the repetition and over the
query heads of a group. It divides its budget over all heads and layers: ``allocator=global``.
We differ: no words ask for the repetition, the text itself follows the context, in chunks of ``chunk`` tokens (2,000 in
the paper) that begin with the ``overlap`` before them; every query counts for the whole context, not for its own
chunk alone; and no first entries stay for certain. It costs the attention of another prefill and more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kvloom.errors import ParamsError
from kvloom.policy.compression.base import Floats, LayerContext
from kvloom.policy.compression.needs import Attention, Need, Repeated


@dataclass(frozen=True, slots=True)
class KvZip:
    name: ClassVar[str] = "kvzip"
    chunk: int = 1024
    overlap: int = 8

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ParamsError(f"chunk must be a number of tokens, got {self.chunk}", param="chunk")
        if not 0 <= self.overlap < self.chunk:
            raise ParamsError(f"overlap must be from 0 to below chunk, got {self.overlap}", param="overlap")

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Attention(Repeated(self.chunk, self.overlap), "max")})

    def scores(self, context: LayerContext) -> Floats:
        assert context.measured.attention_KS is not None
        return context.measured.attention_KS
