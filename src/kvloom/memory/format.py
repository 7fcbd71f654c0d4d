"""Page formats: what one page holds, and where.

A page holds ``tokens`` entries of ``heads`` KV heads of ``layers`` layers. Inside, for each (layer, head), keys come
first, then values:

    page = [ cell(layer 0, head 0) | cell(layer 0, head 1) | ... | cell(layer n, head m) ]
    cell = [ K transposed: D_k x tokens ][ V: tokens x D_v ]                    contiguous
    cell = [ K transposed ][ V ][ positions: tokens x int32 ][ bias: tokens x float32 ]   labelled

How K and V of a cell are encoded is up to the codec (``kvloom/codec``), including extra data such as a scale per token.
Keys are stored transposed so that a vector register holds one key component of 16 tokens: scores need no horizontal
sums.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property

from kvloom.codec import BLOCK_TOKENS, CODECS, Codec
from kvloom.errors import ConfigError

PAGE_TOKENS = BLOCK_TOKENS


@dataclass(frozen=True)
class PageFormat:
    """Describes one kind of page. Two equal formats may share slabs.

    Parameters
    ----------
    name:
        For people: ``"full"``, ``"window512"``, ``"per-head"``.
    layers:
        Owning layers (model numbering) in page order. Empty: a page holds one head of any one layer.
    heads:
        KV heads per layer held by one page.
    k_dim, v_dim:
        Width of a key and of a value.
    codec:
        Name in ``codec.CODECS``.
    labelled:
        Entries carry their own absolute position (int32) and an additive score bias (float32).
    """

    name: str
    layers: tuple[int, ...]
    heads: int
    k_dim: int
    v_dim: int
    codec: str
    labelled: bool = False
    tokens: int = PAGE_TOKENS

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise ConfigError(f"unknown KV dtype `{self.codec}`", hint=f"one of {', '.join(CODECS)}")
        if self.tokens != PAGE_TOKENS:
            raise ConfigError(f"pages hold {PAGE_TOKENS} tokens, not {self.tokens}")
        if not self.layers and self.heads != 1:
            raise ConfigError("a page without layers holds one head of any one layer: heads=1")

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Computed once: formats are the keys of all counters, looked up for every page."""
        return hash(tuple(getattr(self, each.name) for each in fields(self)))

    @property
    def in_extents(self) -> bool:
        """Pages of single heads are small, numerous and freed together, so they are recorded as extents."""
        return self.labelled

    @property
    def numbers(self) -> Codec:
        return CODECS[self.codec]

    @cached_property
    def k_bytes(self) -> int:
        """Bytes of the keys of one cell; the values start here."""
        return self.numbers.keys.bytes(self.k_dim)

    @cached_property
    def v_bytes(self) -> int:
        return self.numbers.values.bytes(self.v_dim)

    @cached_property
    def cell_bytes(self) -> int:
        return self.k_bytes + self.v_bytes + (8 * self.tokens if self.labelled else 0)

    @cached_property
    def page_bytes(self) -> int:
        return self.cell_bytes * self.heads * max(1, len(self.layers))

    @property
    def token_bytes(self) -> float:
        return self.page_bytes / self.tokens

    def recoded(self, codec: str) -> PageFormat:
        """The same entries in another codec."""
        return replace(self, codec=codec)

    def cell_offset(self, layer_slot: int, head: int) -> int:
        """Byte offset inside the page of (``layers[layer_slot]``, ``head``)."""
        return 0 if not self.layers else (layer_slot * self.heads + head) * self.cell_bytes


def head_format(dense: PageFormat) -> PageFormat:
    """Pages for single heads of a layer group."""
    return replace(dense, name="per-head", layers=(), heads=1, labelled=True)
