"""``KvChunk``: the KV of one passage, computed alone, in no page's and no machine's form.

Legend: H KV heads (of this slice), n tokens, d head dim. Keys are unrotated: as they were before RoPE turned them to
their positions, so that they can be turned to any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from kvloom.arrays import Floats
from kvloom.memory.keys import kvchunk_key
from kvloom.memory.kvchunk.numbers import Dtype
from kvloom.memory.kvchunk.refusal import ChunkRefused, Refusal

Kind = Literal["isolated"]
"""Computed alone, as if nothing came before. Other kinds may come with other versions."""


@dataclass(frozen=True, slots=True)
class Turn:
    """How keys of some layers are turned to a position p, counted from 0: each pair (i, i + F) of dimensions by
    ``angles[i]`` * p radians, where F is the number of angles; the product is rounded to float32 before its cosine and
    sine are taken. No angles: they are not.
    """

    layers: tuple[int, ...]
    angles: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Slice:
    """Which KV heads of every layer a file has: part ``rank`` of ``world`` equal ones, in order."""

    rank: int = 0
    world: int = 1


@dataclass(frozen=True, slots=True)
class Identity:
    """What the KV is of. Two chunks with equal identities are interchangeable, but for rounding.

    ``model``: a fingerprint of the weights and all that they run with. ``tokenizer``: of the tokenizer. ``namespace``:
    who may see it, "" for everybody of this store; see ``memory.keys``. ``tokens``: all of them, the first ``lead`` of
    which are the start tokens that the model puts before every text, and not part of the passage.
    """

    model: str
    tokenizer: str
    namespace: str
    tokens: tuple[int, ...]
    lead: int = 0
    kind: Kind = "isolated"
    slice: Slice = Slice()

    @property
    def key(self) -> str:
        """64 hexadecimal digits, from which its file has its name."""
        return kvchunk_key(
            model=self.model,
            tokenizer=self.tokenizer,
            namespace=self.namespace,
            kind=self.kind,
            tokens=self.tokens,
            slice_of=(self.slice.rank, self.slice.world),
        ).hex()


@dataclass(frozen=True, slots=True, eq=False)
class KvChunk:
    """``keys``, ``values``: by the layer that owns them, float32 [H, n, d]. They are stored as ``k_dtype`` and
    ``v_dtype``. ``same_bits``: the layout of pages in which these keys, turned and encoded, have the very bits that
    computing gives; "": none. ``created_by``: for people.
    """

    identity: Identity
    turns: tuple[Turn, ...]
    keys: Mapping[int, Floats]
    values: Mapping[int, Floats]
    k_dtype: Dtype = "F32"
    v_dtype: Dtype = "F16"
    same_bits: str = ""
    created_by: str = field(default="kvloom")

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted(self.keys))

    def turn_of(self, layer: int) -> tuple[float, ...]:
        """The angles of a layer."""
        return next((turn.angles for turn in self.turns if layer in turn.layers), ())


def sliced(chunk: KvChunk, world: int) -> list[KvChunk]:
    """A whole chunk as ``world`` parts, for as many tensor-parallel ranks.

    Raises ChunkRefused when it is a part already, or a layer's heads cannot be divided so.
    """
    if chunk.identity.slice != Slice():
        raise ChunkRefused(Refusal.SLICE, f"{_part(chunk)} is not sliced again: join the parts first")
    odd = next((layer for layer, k in chunk.keys.items() if len(k) % world), None)
    if odd is not None:
        raise ChunkRefused(
            Refusal.SLICE, f"layer {odd} has {len(chunk.keys[odd])} KV heads, which {world} ranks cannot share equally"
        )
    return [_heads(chunk, rank, world) for rank in range(world)]


def joined(parts: Sequence[KvChunk]) -> KvChunk:
    """The inverse of ``sliced``; the parts may come in any order.

    Raises ChunkRefused unless they are all the parts of one chunk.
    """
    ordered = sorted(parts, key=lambda part: part.identity.slice.rank)
    slices = [part.identity.slice for part in ordered]
    if not ordered or slices != [Slice(rank, len(ordered)) for rank in range(len(ordered))]:
        raise ChunkRefused(Refusal.SLICE, f"these are not all parts of one chunk: {', '.join(map(_part, ordered))}")
    first = ordered[0]
    wholes = {replace(part.identity, slice=Slice()) for part in ordered}
    forms = {(part.k_dtype, part.v_dtype, part.layers, part.turns, part.same_bits) for part in ordered}
    if len(wholes) != 1 or len(forms) != 1:
        raise ChunkRefused(Refusal.SLICE, "these are parts of different chunks, or in different formats")
    return replace(
        first,
        identity=wholes.pop(),
        keys={layer: np.concatenate([part.keys[layer] for part in ordered]) for layer in first.layers},
        values={layer: np.concatenate([part.values[layer] for part in ordered]) for layer in first.layers},
    )


def _heads(chunk: KvChunk, rank: int, world: int) -> KvChunk:
    def mine(of_layers: Mapping[int, Floats]) -> dict[int, Floats]:
        return {
            layer: x[rank * len(x) // world : (rank + 1) * len(x) // world].copy() for layer, x in of_layers.items()
        }

    identity = replace(chunk.identity, slice=Slice(rank, world))
    return replace(chunk, identity=identity, keys=mine(chunk.keys), values=mine(chunk.values))


def _part(chunk: KvChunk) -> str:
    return f"part {chunk.identity.slice.rank} of {chunk.identity.slice.world}"
