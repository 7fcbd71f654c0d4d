"""Whether a fusion takes less time than computing the prompt: by what prefill costs, and from nothing but lengths.

Documents are taken to be there. What is not has to be computed once, for all who ask for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from kvloom.policy.cost import PrefillCost
from kvloom.policy.fusion.base import Need
from kvloom.policy.fusion.fusion import Fusion
from kvloom.segment import Span

CHECK_SHARE = 0.2
"""What keys and values of a layer take, as a part of all that it takes."""

_STEPS = 2
"""That a fusion takes beside those in which it computes: a row is chosen in one, and computed in a later one."""


def faster(
    fusion: Fusion, documents: Sequence[Span], length: int, layers: int, step_tokens: int, cost: PrefillCost
) -> bool:
    """``length``: tokens of the prompt. ``step_tokens``: of a step at most."""
    start, question = documents[0].start, documents[-1].stop
    whole_s = cost.block(start, length - start) + cost.start_s * _steps(length - start, step_tokens)
    inside = sum(map(len, documents))
    *filtered, repaired = [min(count, inside) for count in fusion.counts(question)]
    going = layers - max(0, fusion.exact_layers - 1)
    above, extra = going / layers, sum(count - repaired for count in filtered) / going
    rows = repaired + extra + (question - start - inside)
    fused_s = _STEPS * cost.start_s
    if fusion.exact_layers:
        share = (fusion.exact_layers - 1 + CHECK_SHARE) / layers
        steps = _steps(length - start, step_tokens)
        fused_s += share * (cost.block(start, length - start) + cost.start_s * steps)
    asked_s = cost.block(question, length - question)
    if fusion.needs & {Need.LAST_ATTENTION, Need.ALL_ATTENTION}:
        fused_s += above * (asked_s + cost.start_s)
    middle = (start + question) // 2
    again_s = cost.token_s * rows + cost.position_s * rows * middle
    fused_s += above * (again_s + asked_s + cost.start_s * _steps(rows + length - question, step_tokens))
    fused_s += cost.start_s * len(filtered)
    return fused_s < whole_s


def _steps(rows: float, step_tokens: int) -> int:
    return math.ceil(rows / step_tokens)
