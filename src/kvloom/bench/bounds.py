"""Upper bounds on a workload's speed: what it must read and compute, at the machine's measured rates.

A step takes at least the time to read its weights and KV once, and at least the time of its float32 arithmetic at
sgemm's rate. Integer arithmetic on quantized weights can be faster than the latter: a share above 1 says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kvloom.bench.limits import Limits, prefill_flop
from kvloom.bench.workloads import MultiTurn, SharedPrefix, Single, Together, Workload
from kvloom.config import CacheConfig
from kvloom.engine.layout import KvLayout
from kvloom.model.decoder import kv_map_of
from kvloom.model.files.manifest import Manifest
from kvloom.model.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Demand:
    """What a model costs the machine. kv_groups: (bytes per position, window or None) of every layer group."""

    spec: ModelSpec
    weight_bytes: int
    kv_groups: tuple[tuple[float, int | None], ...]

    @classmethod
    def of(cls, manifest: Manifest, cache: CacheConfig) -> Demand:
        layout = KvLayout(kv_map_of(manifest.spec), cache, step_tokens=1)
        groups = zip(layout.formats, layout.kv_map.groups, strict=True)
        return cls(
            manifest.spec, manifest.size_bytes, tuple((each.token_bytes, group.window) for each, group in groups)
        )

    def kv_bytes(self, length: int) -> float:
        """Bytes that a row after ``length`` positions must read."""
        return sum(each * min(length, window or length) for each, window in self.kv_groups)

    def prefill_flop(self, start: int, end: int) -> int:
        """Operations of the positions from ``start`` on, with KV of those before at hand."""
        return prefill_flop(self.spec, end) - prefill_flop(self.spec, start)


@dataclass(frozen=True, slots=True)
class Bound:
    """Lower bounds on seconds."""

    demand: Demand
    limits: Limits

    def prefill_s(self, start: int, end: int) -> float:
        return self.demand.prefill_flop(start, end) / 1e9 / self.limits.sgemm_gflop_s

    def decode_s(self, lengths: Sequence[int], shared: int = 0) -> float:
        """One token each after so many positions, the first ``shared`` of which are the same and read once."""
        kv_bytes = self.demand.kv_bytes(shared) + sum(
            self.demand.kv_bytes(length) - self.demand.kv_bytes(shared) for length in lengths
        )
        flop = sum(self.demand.prefill_flop(length, length + 1) for length in lengths)
        return max(
            (self.demand.weight_bytes + kv_bytes) / 1e9 / self.limits.read_gb_s, flop / 1e9 / self.limits.sgemm_gflop_s
        )


def best_rates(workload: Workload, bound: Bound) -> dict[str, float]:
    """The rate of every figure of a workload at the bound, by the figure's name."""
    match workload:
        case Single(context=context, name=name):
            return {
                f"prefill {name}": context / bound.prefill_s(0, context),
                f"decode after {name}": 1 / bound.decode_s([context]),
            }
        case Together(requests=count, prompt=prompt, num_new=new, name=name):
            decoding = sum(bound.decode_s([prompt + n] * count) for n in range(1, new))
            return {name: count * new / (count * bound.prefill_s(0, prompt) + decoding)}
        case SharedPrefix(requests=count, prefix=prefix, tail=tail, num_new=new, name=name):
            filling = count * bound.prefill_s(prefix, prefix + tail)
            decoding = sum(bound.decode_s([prefix + tail + n] * count, shared=prefix) for n in range(1, new))
            return {name: count * new / (filling + decoding)}
        case MultiTurn(turns=turns, question=question, num_new=new, name=name):
            turn = question + new
            filling = sum(bound.prefill_s(n * turn, n * turn + question) for n in range(turns))
            decoding = sum(bound.decode_s([n * turn + question + i]) for n in range(turns) for i in range(1, new))
            return {name: turns * new / (filling + decoding)}
    return {}
