"""peak-memory: peak resident memory in every workload, against the least of the peers, for the same KV capacity.

Workloads run in growing order of the KV they need, in one process per engine; the peak is counted anew for each.
"""

from __future__ import annotations

from statistics import median

from bench.comparison import OURS, Comparison
from bench.harness import Check, Outcome, at_most, worst_of
from bench.judging import circumstances, named_by_group

GROUPS = frozenset({"streams", "together", "shared-prefix", "multi-turn", "streams-8b"})


def judge(comparison: Comparison) -> Outcome:
    measured = dict.fromkeys((peak.group, peak.workload) for peak in comparison.peaks)
    checks = [check for where in measured for check in _checks(comparison, *where)]
    details = circumstances(comparison) | {"kv_tokens": comparison.kv_tokens}
    return worst_of("peak-memory", checks, details, comparison)


def _checks(comparison: Comparison, group: str, workload: str) -> list[Check]:
    """Empty when there is nobody to compare with."""
    by_peer: dict[str, list[int]] = {}
    for peak in comparison.peaks:
        if (peak.group, peak.workload) == (group, workload):
            by_peer.setdefault(peak.peer, []).append(peak.peak_bytes)
    medians = {peer: median(values) for peer, values in by_peer.items()}
    ours = medians.pop(OURS, None)
    if ours is None or not medians:
        return []
    best = min(medians, key=lambda peer: medians[peer])
    remark = f"{ours / 2**20:.0f} MiB against {medians[best] / 2**20:.0f} MiB of {best}"
    check = at_most(workload, ours / medians[best], 1.0, "x the least peer", remark)
    return named_by_group([check], group)
