"""From a comparison to checks: the ratio to the best peer in every cell, and the share of the machine's limits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bench.comparison import OURS, Comparison
from bench.harness import Check, Outcome, at_least, worst_of
from bench.random_models import obtain
from kvloom.bench.bounds import Bound, Demand, best_rates
from kvloom.bench.workloads import Single
from kvloom.config import CacheConfig


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


@dataclass(frozen=True, slots=True)
class StreamGoals:
    """Of a group of single streams: multiples of the best peer's rate by context, and a share of the limit."""

    ratios: Mapping[int, float]
    share: float


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


def share_of_limit(comparison: Comparison, model: str, figure: str, group: str) -> float:
    """Of kvloom's prefill or decode rate in the best that the limits of the same run allow."""
    rate = comparison.median(group, figure, OURS)
    if rate is None:
        raise ValueError(f"kvloom was not measured on {figure!r}")
    bound = Bound(Demand.of(obtain(model), CacheConfig()), comparison.limit)
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


def streams_outcome(comparison: Comparison, claim: str, goals: Mapping[str, StreamGoals], limit: str) -> Outcome:
    """The claim's rate in every stream of every group, by its goals."""
    checks = [check for group in goals for check in _stream_checks(comparison, claim, group, goals[group], limit)]
    return worst_of(claim, checks, circumstances(comparison), comparison)


def _stream_checks(comparison: Comparison, claim: str, group: str, goals: StreamGoals, limit: str) -> list[Check]:
    checks: list[Check] = []
    figures = [name for name in comparison.figures(group) if name.startswith(claim)]
    for figure in figures:
        checks += against_peers(comparison, group, [figure], goal_at(goals.ratios, length_of(figure)))
    model = comparison.model_of(group)
    for figure in figures if checks and model else []:
        found = share_of_limit(comparison, model, figure, group)
        checks.append(at_least(f"{figure}, of the limit", found, goals.share, limit))
    return named_by_group(checks, group)


def named_by_group(checks: list[Check], group: str) -> list[Check]:
    """Cells of larger models say which: workloads have the same names.

    >>> [check.name for check in named_by_group([at_least("prefill 512", 1, 1, "")], "streams-1b-q4_0")]
    ['prefill 512 (1b-q4_0)']
    """
    _, _, size = group.partition("-")
    return [replace(check, name=f"{check.name} ({size})") for check in checks] if size else checks
