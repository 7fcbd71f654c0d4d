"""shared-prefix: requests on one cached prefix, against the best peer; and every step reads the prefix once.

The proof is kvloom's own count of the KV bytes that its attention reads, which follows the plan that the kernels
follow: read once, eight requests cost little more of it than one; read eight times, eight times as much.
"""

from __future__ import annotations

from typing import Any

from bench.comparison import OURS, Comparison, Counted
from bench.harness import Check, Outcome, at_least, at_most, worst_of
from bench.judging import against_peers, circumstances
from kvloom.bench.workloads import SharedPrefix

GROUPS = frozenset({"shared-prefix"})
GOAL = 1.8
ROUNDING = 1.25
"""Chunks of the prefix that are not full are read by each request for itself."""


def judge(comparison: Comparison) -> Outcome:
    checks = against_peers(comparison, "shared-prefix", comparison.figures("shared-prefix"), GOAL)
    for counted in comparison.counted[:1] if checks else []:
        checks.append(_read_once(counted, comparison))
    return worst_of("shared-prefix", checks, circumstances(comparison), comparison)


def _read_once(counted: Counted, comparison: Comparison) -> Check:
    """KV bytes read per decode step and request, over what a request must read that has the prefix to itself."""
    workload = next(cell for cell in _workloads(comparison.quick) if cell.name == counted.workload)
    facts = comparison.facts(comparison.about[0].model, OURS)
    read = _counter(counted.after) - _counter(counted.before)
    once, apart = _expected_bytes(workload, facts.kv_token_bytes)
    remark = f"{read / 1e6:.0f} MB read; {once / 1e6:.0f} MB if once per step, {apart / 1e6:.0f} MB if once per request"
    name = "KV read, over that of a prefix read once per step"
    return at_most(name, read / once, ROUNDING, "x", remark) if read else at_least(name, 0.0, 1.0, "x", "not counted")


def _expected_bytes(workload: SharedPrefix, token_bytes: int) -> tuple[int, int]:
    """KV bytes that attention reads from the reset on, with the prefix read once per step or once per request.

    The untimed prefix reads its own triangle, in steps of the engine's choice: left out here, and a part of ROUNDING.
    """
    own = sum(workload.tail + n for n in range(workload.num_new)) * workload.requests
    steps = workload.num_new
    return (steps * workload.prefix + own) * token_bytes, (
        steps * workload.requests * workload.prefix + own
    ) * token_bytes


def _counter(counters: dict[str, Any]) -> int:
    return int(counters.get("kv_read_bytes", 0))


def _workloads(quick: bool) -> list[SharedPrefix]:
    from bench.cells import cells

    found = [cell.workload for cell in cells(GROUPS, quick)]
    return [workload for workload in found if isinstance(workload, SharedPrefix)]
