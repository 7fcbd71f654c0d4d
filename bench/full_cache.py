"""A plan over one flat memory with every page of every layer group: what a cache without any policy would hold."""

from __future__ import annotations

import numpy as np
import torch

from kvloom.arrays import aligned_bytes
from kvloom.attend.cpu import CpuAttend
from kvloom.attend.plan import BySequence, Contiguous, Group, Ints, LayerPlan, Part, Plan, Writes
from kvloom.config import KvDtype
from kvloom.memory.arena import GRAIN_BYTES
from kvloom.memory.format import PAGE_TOKENS, PageFormat
from kvloom.model.base import Model
from kvloom.model.kv_map import KvMap


class FullCache:
    """Memory and pages for one sequence of up to ``capacity`` tokens."""

    def __init__(self, kv_map: KvMap, capacity: int, kv_dtype: KvDtype = "float32") -> None:
        self.kv_map = kv_map
        pages = -(-capacity // PAGE_TOKENS)
        self.formats = [PageFormat(g.name, g.layers, g.heads, g.k_dim, g.v_dim, kv_dtype) for g in kv_map.groups]
        self.page_ids: list[Ints] = []
        grain = 0
        for fmt in self.formats:
            step = -(-fmt.page_bytes // GRAIN_BYTES)
            self.page_ids.append(np.arange(grain, grain + pages * step, step, dtype=np.int32))
            grain += pages * step
        self.memory = aligned_bytes(grain * GRAIN_BYTES)
        self.memory[:] = 0

    def plan(self, start: int, stop: int) -> Plan:
        """Rows ``start : stop``, all earlier ones being in the cache."""
        rows = np.arange(start, stop, dtype=np.int32)
        pages = -(-stop // PAGE_TOKENS)
        bounds = np.array([0, pages], np.int32)
        starts = np.arange(pages, dtype=np.int32) * PAGE_TOKENS
        groups = tuple(
            Group(
                group.window,
                (Part(fmt, BySequence(bounds), Contiguous(starts), ids[:pages]),),
                (Writes(fmt, ids[rows // PAGE_TOKENS], rows % PAGE_TOKENS),),
            )
            for group, fmt, ids in zip(self.kv_map.groups, self.formats, self.page_ids, strict=True)
        )
        layers = tuple(
            LayerPlan(*self.kv_map.place(layer), owns=True, scale=kv.scale)
            for layer, kv in enumerate(self.kv_map.layers)
        )
        return Plan(rows, np.array([0, stop - start], np.int32), groups, layers)


def hidden_states(
    model: Model, tokens: list[int], chunks: list[int], threads: int, kv_dtype: KvDtype = "float32"
) -> torch.Tensor:
    """Hidden states of all positions, computed in chunks of the given sizes. float32 (T, width)."""
    assert sum(chunks) == len(tokens)
    cache = FullCache(model.kv_map, len(tokens), kv_dtype)
    attend, out, start = CpuAttend(cache.memory, threads), [], 0
    for size in chunks:
        rows = np.array(tokens[start : start + size], np.int64)
        out.append(model.forward(rows, cache.plan(start, start + size), attend))
        start += size
    return torch.from_numpy(np.concatenate(out))


def full_logits(model: Model, tokens: list[int], chunks: list[int], keep: int | None = None) -> torch.Tensor:
    """Logits of the last ``keep`` positions (None: all), computed in chunks of the given sizes. float32 (T, vocab)."""
    hidden_TC = hidden_states(model, tokens, chunks, threads=2)[-(keep or len(tokens)) :]
    return torch.from_numpy(model.logits(hidden_TC.numpy()))
