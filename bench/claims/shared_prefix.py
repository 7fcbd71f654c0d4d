"""shared-prefix: requests on one cached prefix, against the best peer; and every step reads the prefix once.

The proof is kvloom's own count of the KV bytes that its attention reads, which follows the plan that the kernels
follow: read once, eight requests cost little more of it than one; read eight times, eight times as much.
"""

from __future__ import annotations

from bench.cells import cells
from bench.comparison import OURS, Comparison, Counted
from bench.harness import Check, Outcome, at_least, at_most, worst_of
from bench.judging import against_peers, circumstances
from kvloom.bench.workloads import SharedPrefix

GROUPS = frozenset({"shared-prefix"})
GOAL = 1.8
ROUNDING = 1.25
"""Pages at the end of a prefix and of an answer are read whole."""
_COUNTER = "decode_kv_read_bytes"


def judge(comparison: Comparison) -> Outcome:
    checks = against_peers(comparison, "shared-prefix", comparison.figures("shared-prefix"), GOAL)
    for counted in comparison.counted[:1] if checks else []:
        checks.append(_read_once(counted, comparison))
    return worst_of("shared-prefix", checks, circumstances(comparison), comparison)


def _read_once(counted: Counted, comparison: Comparison) -> Check:
    """KV bytes read in decode steps, over what they must read when each reads the prefix once."""
    workload = next(cell for cell in _workloads(comparison.quick) if cell.name == counted.workload)
    facts = comparison.facts(comparison.about[0].model, OURS)
    once, apart = expected_bytes(workload, facts.kv_token_bytes)
    read = int(counted.after[_COUNTER] - counted.before[_COUNTER])
    remark = f"{read / 1e6:.0f} MB read; {once / 1e6:.0f} MB if once per step, {apart / 1e6:.0f} MB if once per request"
    name = "KV read in decode steps, over that of a prefix read once per step"
    return at_most(name, read / once, ROUNDING, "x", remark) if read else at_least(name, 0.0, 1.0, "x", "not counted")


def expected_bytes(workload: SharedPrefix, token_bytes: int) -> tuple[int, int]:
    """KV bytes that decode steps read, with the prefix read once per step or once per request.

    The first token comes out of the prefill: there is one decode step less than there are tokens.
    """
    steps = range(1, workload.num_new)
    own = sum(workload.tail + step for step in steps) * workload.requests
    shared = len(steps) * workload.prefix
    return (shared + own) * token_bytes, (workload.requests * shared + own) * token_bytes


def _workloads(quick: bool) -> list[SharedPrefix]:
    found = [cell.workload for cell in cells(GROUPS, quick)]
    return [workload for workload in found if isinstance(workload, SharedPrefix)]
