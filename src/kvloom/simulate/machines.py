"""What is simulated: a model on a machine, as measured here or as data sheets have it.

Machines of which nothing was measured get costs from what their data sheets promise, times what prefill and decoding
commonly reach of that: products ``_COMPUTE_SHARE`` of the peak in bfloat16 without sparsity, reads of weights and KV
``_READ_SHARE`` of the memory's bandwidth. By these, Llama 3.1 8B on an H20 takes 9 s for a prompt of 34,800 tokens;
AsymCache's authors (arXiv 2606.02964, table 2) report mean times to the first token of 5.5 to 8.7 s there, for such
prompts of which 2 to 29% of the blocks are found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kvloom.config import CacheConfig, KvDtype, SchedulerConfig
from kvloom.engine.cost_profile import CostProfile
from kvloom.engine.layout import KvLayout
from kvloom.model.decoder import kv_map_of
from kvloom.model.kv_map import KvMap, LayerKv
from kvloom.model.shapes import layer_parameters
from kvloom.model.spec import ModelSpec
from kvloom.policy.cost import PrefillCost
from kvloom.policy.tier_cost import TierCost
from kvloom.simulate.model import Shape
from kvloom.simulate.step_cost import StepCost

_COMPUTE_SHARE, _READ_SHARE, _MEMORY_SHARE = 0.6, 0.8, 0.9
_STEP_S = 2e-3
"""Of planning, starting kernels and sampling, in every step."""


_BUS = {4: TierCost(0.8 * 31.5e9, 1e-5), 5: TierCost(0.8 * 63e9, 1e-5)}
"""Of host memory, 16 lanes of PCI Express by generation: so much of the data rate is commonly reached."""

_DISK = TierCost(6e9, 1e-4)
"""Of an NVMe disk: what those of the fourth generation read at least."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A model, what its steps take, and the memory that there is for KV. ``tiers``: what reading a page from a ``warm``
    one takes, and from ``disk``.
    """

    name: str
    shape: Shape
    cost: StepCost
    kv_dtype: KvDtype
    kv_bytes: int
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    tiers: Mapping[str, TierCost] = field(default_factory=lambda: {"warm": _BUS[4], "disk": _DISK})


def measured(
    name: str, spec: ModelSpec, profile: CostProfile, cache: CacheConfig, scheduler: SchedulerConfig
) -> Machine:
    """A model where its prefill was measured. A token of an answer is taken to cost what one of a prompt does."""
    shape = Shape(kv_map_of(spec), spec.heads, layer_parameters(spec), spec.context_length, profile.measured_on.weights)
    kv_bytes = KvLayout(shape.kv_map, cache, scheduler.step_tokens).budget_bytes(spec.context_length)
    cost, tiers = StepCost(profile.prefill, profile.prefill), {"warm": profile.tiers.copy, "disk": profile.tiers.read}
    return Machine(name, shape, cost, cache.kv_dtype, kv_bytes, scheduler, tiers)


@dataclass(frozen=True, slots=True)
class DataSheet:
    """Of an accelerator: operations a second at most, in bfloat16 without sparsity, and of its memory bytes a second,
    and bytes. ``bus``: the generation of PCI Express that host memory, its warm tier, is reached by.
    """

    flops: float
    bytes_per_s: float
    memory_bytes: float
    bus: int

    def llama_8b(self, name: str) -> Machine:
        """Llama 3.1 8B in bfloat16: 32 layers of 8 KV heads, 128 KiB of KV a token."""
        layers, kv_heads, dim, heads, width, vocab = 32, 8, 128, 32, 4096, 128_256
        kv_map = KvMap(tuple([LayerKv(n, kv_heads, dim, dim, dim**-0.5) for n in range(layers)]))
        parameters = 6_979_321_856
        weights, token_bytes = 2 * (parameters + 2 * width * vocab), 2 * layers * kv_heads * 2 * dim
        token_s = 2 * parameters / (self.flops * _COMPUTE_SHARE)
        attended_s = 4 * layers * heads * dim / (self.flops * _COMPUTE_SHARE)
        read = self.bytes_per_s * _READ_SHARE
        cost = StepCost(
            prefill=PrefillCost(_STEP_S, token_s, attended_s),
            decode=PrefillCost(_STEP_S + weights / read, token_s, token_bytes / read),
        )
        return Machine(
            name=name,
            shape=Shape(kv_map, heads, parameters, 131_072, "llama-3.1-8b"),
            cost=cost,
            kv_dtype="bfloat16",
            kv_bytes=math.floor(_MEMORY_SHARE * self.memory_bytes - weights),
            scheduler=SchedulerConfig(step_tokens=2048, max_seqs=256),
            tiers={"warm": _BUS[self.bus], "disk": _DISK},
        )


MACHINES: Mapping[str, Callable[[], Machine]] = {
    "llama-8b-a100": lambda: DataSheet(312e12, 2.04e12, 80e9, bus=4).llama_8b("llama-8b-a100"),
    "llama-8b-h100": lambda: DataSheet(989e12, 3.35e12, 80e9, bus=5).llama_8b("llama-8b-h100"),
    "llama-8b-h20": lambda: DataSheet(148e12, 4.0e12, 96e9, bus=5).llama_8b("llama-8b-h20"),
}
"""By name: Llama 3.1 8B on NVIDIA's A100 and H100 (SXM) with 80 GB, and on H20 with 96 GB."""
