"""Merge partial attention results: associative, commutative, with identity (0, -inf)."""

from __future__ import annotations

import torch

State = tuple[torch.Tensor, torch.Tensor]
"""(out_THD, lse_TH) over some set of KV entries."""


def merge(a: State, b: State) -> State:
    """Combine attention over two disjoint sets of entries into attention over their union.

    Source: FlashInfer, Recursive Attention; lse in natural log.

    >>> out, lse = merge((torch.ones(1, 1, 2), torch.zeros(1, 1)), (torch.zeros(1, 1, 2), torch.zeros(1, 1)))
    >>> out.tolist(), round(lse.item(), 4)
    ([[[0.5, 0.5]]], 0.6931)
    """
    (out_a, lse_a), (out_b, lse_b) = a, b
    top = torch.maximum(lse_a, lse_b)
    top = torch.where(torch.isinf(top), torch.zeros_like(top), top)  # both empty: avoid inf - inf
    weight_a, weight_b = torch.exp(lse_a - top), torch.exp(lse_b - top)
    total = weight_a + weight_b
    safe = torch.where(total > 0, total, torch.ones_like(total))
    out = (out_a * weight_a[..., None] + out_b * weight_b[..., None]) / safe[..., None]
    return out, torch.log(total) + top
