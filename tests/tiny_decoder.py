"""A small random decoder that runs as models from files do: quantized weights, activations in 8 bits, a step in C++.

``ReadsByHead`` is the same decoder with other plans: every layer and head has lists of its own.
"""

from __future__ import annotations

from dataclasses import replace

import gguf
import numpy as np

from kvloom.arrays import Floats
from kvloom.attend.base import Attend
from kvloom.attend.cpu import CpuAttend
from kvloom.attend.observe import NOBODY, Observers
from kvloom.attend.plan import ByHead, BySequence, Contiguous, Ints, Masks, Part, Plan
from kvloom.config import DEFAULT_KV_DTYPE
from kvloom.memory.table import FULL_MASK
from kvloom.model.base import Indices, Scores
from kvloom.model.decoder import Decoder, kv_map_of
from kvloom.model.fused import fuse
from kvloom.model.layers import Norm, Projection, pre_norm_block
from kvloom.model.ops import Precision
from kvloom.model.rope import RopeTable
from kvloom.model.spec import ModelSpec, RopeSpec
from kvloom.model.weight import Weight

Windows = tuple[int | None, ...]

WIDTH, HEADS, KV_HEADS, DIM, HIDDEN, VOCAB = 64, 4, 2, 16, 96, 97


class ReadsByHead(Decoder):
    """Takes every list apart, by layer slot and head, and each of those in two, at a position of its own."""

    __slots__ = ()

    def run(
        self,
        x_TC: Floats,
        plan: Plan,
        attend: Attend,
        layers: range,
        rows_R: Indices | None = None,
        observers: Observers = NOBODY,
    ) -> Floats:
        return super().run(x_TC, by_head(plan), attend, layers, rows_R, observers)

    def forward(
        self,
        tokens_T: Indices,
        plan: Plan,
        attend: Attend,
        rows_R: Indices | None = None,
        observers: Observers = NOBODY,
    ) -> Floats:
        return super().forward(tokens_T, by_head(plan), attend, rows_R, observers)

    def scores(
        self, tokens_T: Indices, plan: Plan, attend: Attend, rows_R: Indices, observers: Observers = NOBODY
    ) -> Scores:
        return super().scores(tokens_T, by_head(plan), attend, rows_R, observers)


def by_head(plan: Plan) -> Plan:
    groups = [
        replace(group, parts=tuple(half for part in group.parts for half in _halves(part)), seams=())
        for group in plan.groups
    ]
    return replace(plan, groups=tuple(groups))


def _halves(part: Part) -> tuple[Part, ...]:
    """What lies below a position that depends on layer slot and head alone, and what lies above it."""
    if isinstance(part.lists, ByHead):
        return (part,)
    assert isinstance(part.lists, BySequence)
    assert isinstance(part.entries, Contiguous)
    below: list[_Pages] = []
    above: list[_Pages] = []
    masks_P = np.full(part.page_ids_P.size, FULL_MASK, np.uint16) if part.masks_P is None else part.masks_P
    for first, last in zip(part.lists.bounds_L1[:-1], part.lists.bounds_L1[1:], strict=True):
        ids, starts, masks = (a[first:last] for a in (part.page_ids_P, part.entries.starts_P, masks_P))
        for number in range(part.slots * part.heads):
            low = starts < 16 * (2 + 3 * number % 7)
            below.append((ids[low], starts[low], masks[low]))
            above.append((ids[~low], starts[~low], masks[~low]))
    return _lists(part, below), _lists(part, above)


_Pages = tuple[Ints, Ints, Masks]


def _lists(part: Part, lists: list[_Pages]) -> Part:
    bounds = np.cumsum([0, *(len(ids) for ids, *_ in lists)], dtype=np.int32)
    ids, starts, masks = (np.concatenate(arrays) for arrays in zip(*lists, strict=True))
    return Part(part.format, ByHead(bounds, part.slots, part.heads), Contiguous(starts), ids, masks)


class _RandomTensors:
    """Keeps the promise of ``layers.Tensors``: whatever is asked for is there, biases and q/k norms excepted."""

    def __init__(self, spec: ModelSpec, seed: int, activations: Precision) -> None:
        self.spec, self.rng, self.activations = spec, np.random.default_rng(seed), activations
        heads = spec.heads * spec.head_dim
        kv = spec.kv_heads * spec.head_dim
        self.shapes = {
            "q": (heads, spec.width),
            "k": (kv, spec.width),
            "v": (kv, spec.width),
            "o": (spec.width, heads),
            "gate": (spec.ffn_width, spec.width),
            "up": (spec.ffn_width, spec.width),
            "down": (spec.width, spec.ffn_width),
        }

    def __contains__(self, name: object) -> bool:
        return False

    def projection(self, names: tuple[str, ...], bias_names: tuple[str, ...] = ()) -> Projection:
        weights = [self.weight(*self.shapes[name.rpartition(".")[2]]) for name in names]
        return Projection(Weight.concat(weights), None, 1, self.activations)

    def norm(self, name: str) -> Norm:
        return Norm(self.rng.uniform(0.5, 1.5, self.spec.width).astype(np.float32), 1e-5, 1)

    def weight(self, rows: int, cols: int, scale: float = 2.0) -> Weight:
        values = (self.rng.standard_normal((rows, cols)) * scale / np.sqrt(cols)).astype(np.float32)
        raw = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
        return Weight.pack(raw, "Q8_0", (rows, cols))


def decoder(
    windows: Windows,
    cls: type[Decoder] = Decoder,
    seed: int = 3,
    *,
    vocab_size: int = VOCAB,
    context_length: int = 512,
    activations: Precision = "int8",
    local_base: float | None = None,
) -> Decoder:
    """Every layer of ``windows`` attends over so many positions, None: over all. ``local_base``: of the rotary
    embedding of layers with a window, if it differs, as in Gemma 3.
    """
    spec = ModelSpec(
        family="tiny",
        width=WIDTH,
        num_layers=len(windows),
        heads=HEADS,
        kv_heads=KV_HEADS,
        head_dim=DIM,
        ffn_width=HIDDEN,
        vocab_size=vocab_size,
        context_length=context_length,
        norm_eps=1e-5,
        windows=windows,
        rope=RopeSpec(DIM, 10_000.0),
        rope_local=None if local_base is None else RopeSpec(DIM, local_base),
        attn_scale=DIM**-0.5,
    )
    tensors, rope = _RandomTensors(spec, seed, activations), RopeTable(spec.rope)
    embedding, norm = tensors.weight(vocab_size, WIDTH, scale=4.0), tensors.norm("norm")
    head = Projection(
        tensors.weight(vocab_size, WIDTH, scale=3.0), None, 1, "int16" if activations == "int8" else activations
    )
    local = rope if spec.rope_local is None else RopeTable(spec.rope_local)
    ropes = (rope,) if local is rope else (rope, local)
    turned = [rope if window is None else local for window in windows]
    blocks = tuple(pre_norm_block(spec, tensors, layer, turned[layer]) for layer in range(spec.num_layers))
    return cls(
        spec=spec,
        weights_id=f"tiny-decoder-{windows}-{vocab_size}-{seed}-{cls.__name__}-{activations}-{local_base}",
        kv_map=kv_map_of(spec),
        embedding=embedding,
        blocks=blocks,
        ropes=ropes,
        norm=norm,
        head=head,
        threads=1,
        fused=fuse(spec, embedding, head, blocks, norm, ropes, threads=1),
    )


def oracle(model: Decoder, prompt: list[int], count: int) -> list[int]:
    """Greedy continuation with everything computed again for every token, out of one flat memory."""
    from bench.full_cache import FullCache  # brings torch, which processes that only serve do without

    tokens = list(prompt)
    for _ in range(count):
        cache = FullCache(model.kv_map, len(tokens), DEFAULT_KV_DTYPE)
        attend, last = CpuAttend(cache.memory, threads=1), np.array([len(tokens) - 1])
        scores = model.scores(np.array(tokens), cache.plan(0, len(tokens)), attend, last)
        tokens += scores.argmax_R
    return tokens[len(prompt) :]
