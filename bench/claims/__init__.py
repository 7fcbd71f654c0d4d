"""The published figures, each reproduced by one file. ``make claim NAME=x`` runs one; CONTRIBUTING.md lists them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from bench.harness import Judge, Measure

CLAIMS = {
    "identical-tokens": "bench.claims.identical_tokens",
    "hit-equals-miss": "bench.claims.hit_equals_miss",
    "storm": "bench.claims.storm",
    "int8-kl": "bench.claims.int8_kl",
    "prefill": "bench.claims.prefill",
    "decode": "bench.claims.decode",
    "throughput": "bench.claims.throughput",
    "shared-prefix": "bench.claims.shared_prefix",
    "multi-turn": "bench.claims.multi_turn",
    "gemma": "bench.claims.gemma",
    "server-overhead": "bench.claims.server_overhead",
    "first-token": "bench.claims.first_token",
    "peak-memory": "bench.claims.peak_memory",
    "eval-signal": "bench.claims.eval_signal",
    "eval-speed": "bench.claims.eval_speed",
    "kl-exact": "bench.claims.kl_exact",
    "soak": "bench.claims.soak",
    "mixed-traffic": "bench.claims.mixed_traffic",
    "kv-int8": "bench.claims.kv_int8",
    "lukv-memory": "bench.claims.lukv_memory",
    "lukv-speed": "bench.claims.lukv_speed",
    "beyond-the-pool": "bench.claims.beyond_the_pool",
    "guard": "bench.claims.guard",
    "lukv-quality-50": "bench.claims.lukv_quality_50",
    "lukv-quality-80": "bench.claims.lukv_quality_80",
    "oracle-gap": "bench.claims.oracle_gap",
    "kvpress-agreement": "bench.claims.kvpress_agreement",
    "simulator": "bench.claims.simulator",
    "restart-warm": "bench.claims.restart_warm",
    "faults": "bench.claims.faults",
    "asymcache-ttft": "bench.claims.asymcache_ttft",
    "agent-hints": "bench.claims.agent_hints",
    "mixed-load": "bench.claims.mixed_load",
    "bands": "bench.claims.bands",
    "structured": "bench.claims.structured",
    "schema-suite": "bench.claims.schema_suite",
    "a3-ttft": "bench.claims.a3_ttft",
    "matkv": "bench.claims.matkv",
    "sustained-reuse": "bench.claims.sustained_reuse",
    "edits": "bench.claims.edits",
    "window": "bench.claims.window",
    "schema-fuzz": "bench.claims.schema_fuzz",
    "load": "bench.claims.load",
    "a3-quality": "bench.claims.a3_quality",
    "clients": "bench.claims.clients",
}
SPEED = tuple(CLAIMS)[4:13]
"""What ``make bench`` measures in one sitting."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A claim about a comparison. ``groups``: the cells of ``bench.cells`` that it needs."""

    groups: frozenset[str]
    judge: Judge


def claim_of(name: str) -> Measure | Compared:
    """How a claim is measured. Imports its file only now: each needs heavy libraries. Raises KeyError."""
    module = importlib.import_module(CLAIMS[name])
    if hasattr(module, "judge"):
        return Compared(module.GROUPS, module.judge)
    measure: Measure = module.measure
    return measure
