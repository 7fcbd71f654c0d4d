"""A^3: compute again what the question looks at, by its attention in an early layer over keys that are exact there.

Source: A^3, Attention-Aware Accurate KV Cache Fusion (arXiv 2511.17560), by its public code. The logits of all heads
are added before one softmax, with 1 / sqrt(H D) for the usual scale of 1 / sqrt(D): S_ij = sum_h scale q_h.k_h /
sqrt(H). Sums over the question's rows are smoothed by an average over ``kernel`` neighbours, zeros beyond both ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kvloom.errors import ParamsError
from kvloom.policy.compression.algebra import product
from kvloom.policy.fusion.base import Checked, Floats, Need, View


@dataclass(frozen=True, slots=True)
class A3:
    kernel: int = 5

    def __post_init__(self) -> None:
        if type(self.kernel) is not int or self.kernel < 1 or self.kernel % 2 == 0:
            raise ParamsError(f"kernel must be an odd number of entries, got {self.kernel!r}", param="kernel")

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.CHECKED_QUERIES})

    def scores(self, view: View) -> Floats:
        assert view.checked is not None
        attention_S = question_attention(view.checked, view.threads)[: view.question - view.start]
        return pooled(attention_S, self.kernel)


def question_attention(checked: Checked, threads: int = 1) -> Floats:
    """float32 (N,): attention from the question's rows to each entry, with one softmax for all heads, summed over rows.

    The question is the last Q of the N entries, and causal within itself.
    """
    queries_QHD, keys_NKD = checked.queries_QHD, checked.keys_NKD
    rows, heads, dim = queries_QHD.shape
    entries, kv_heads, _ = keys_NKD.shape
    merged_QKD = queries_QHD.reshape(rows, kv_heads, heads // kv_heads, dim).sum(axis=2)
    logits_QN = product(merged_QKD.reshape(rows, -1), keys_NKD.reshape(entries, -1).T, threads)
    logits_QN *= checked.scale / math.sqrt(heads)
    later_QN = np.arange(entries) > np.arange(entries - rows, entries)[:, None]
    logits_QN[later_QN] = -np.inf
    weights_QN = np.exp(logits_QN - logits_QN.max(axis=1, keepdims=True))
    attention_N: Floats = (weights_QN / weights_QN.sum(axis=1, keepdims=True)).sum(axis=0).astype(np.float32)
    return attention_N


def pooled(scores_S: Floats, kernel: int) -> Floats:
    """The mean of each entry and its neighbours, ``kernel`` in all, with zeros beyond both ends."""
    sums_S = np.convolve(scores_S, np.ones(kernel, np.float32))[kernel // 2 :][: len(scores_S)]
    return (sums_S / np.float32(kernel)).astype(np.float32)
