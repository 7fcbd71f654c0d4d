"""From a comparison to checks: the ratio to the best peer in every cell, and the share of the machine's limits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bench.cells import DENSE
from bench.comparison import OURS, Comparison
from bench.harness import Check, Outcome, at_least, worst_of
from kvloom.bench.bounds import Bound, Demand, best_rates
from kvloom.bench.workloads import Single
from kvloom.config import CacheConfig
from kvloom.model.files.store import resolve


def against_peers(comparison: Comparison, group: str, figures: list[str], goal: float) -> list[Check]:
    """One check per figure that a peer was measured on."""
    ratios = [ratio for figure in figures if (ratio := comparison.ratio(group, figure)) is not None]
    return [
        at_least(
            ratio.figure,
            ratio.value,
            goal,
            "x the best peer",
            f"{ratio.ours:.1f} against {ratio.best:.1f} of {ratio.peer}; by round {ratio.low:.2f} to {ratio.high:.2f}",
        )
        for ratio in ratios
    ]


def length_of(figure: str) -> int:
    """
    >>> length_of("decode after 2048 of text")
    2048
    """
    found = re.match(r"(?:prefill|decode after) (\d+)", figure)
    if found is None:
        raise ValueError(f"no length in {figure!r}")
    return int(found[1])


def goal_at(goals: Mapping[int, float], length: int) -> float:
    """The goal of the longest length up to this one; below the shortest, the shortest's.

    >>> goal_at({512: 1.05, 2048: 1.1}, 2000), goal_at({512: 1.05}, 128)
    (1.05, 1.05)
    """
    below = [each for each in goals if each <= length]
    return goals[max(below) if below else min(goals)]


def share_of_limit(comparison: Comparison, model: str, figure: str, group: str = "streams") -> float:
    """Of kvloom's prefill or decode rate in the best that the limits of the same run allow."""
    rate = comparison.median(group, figure, OURS)
    if rate is None:
        raise ValueError(f"kvloom was not measured on {figure!r}")
    bound = Bound(Demand.of(resolve(model), CacheConfig()), comparison.limit)
    kind, length = "prefill" if figure.startswith("prefill") else "decode after", length_of(figure)
    return rate / best_rates(Single(length), bound)[f"{kind} {length}"]


def circumstances(comparison: Comparison) -> dict[str, Any]:
    """What every such claim reports beside its figure."""
    peers = dict.fromkeys(about.peer for about in comparison.about if about.peer != OURS)
    return {
        "quick": comparison.quick,
        "threads": comparison.threads,
        "peers": list(peers),
        "absent": comparison.absent,
        "read_gb_s": round(comparison.limit.read_gb_s, 1),
        "sgemm_gflop_s": round(comparison.limit.sgemm_gflop_s),
    }


def streams_outcome(comparison: Comparison, claim: str, goals: dict[int, float], share: float, limit: str) -> Outcome:
    """The claim's rate in every stream: against the best peer by context, and at least ``share`` of the limit."""
    checks: list[Check] = []
    figures = [name for name in comparison.figures("streams") if name.startswith(claim)]
    for figure in figures:
        checks += against_peers(comparison, "streams", [figure], goal_at(goals, length_of(figure)))
    for figure in figures if checks else []:
        found = share_of_limit(comparison, DENSE, figure)
        checks.append(at_least(f"{figure}, of the limit", found, share, limit))
    return worst_of(claim, checks, circumstances(comparison), comparison)
