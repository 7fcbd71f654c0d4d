"""The divergence of two next-token distributions, against torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kvloom.engine.sampling import Logits
from kvloom.engine.shadow import kl_divergence


def logits(size: int, seed: int) -> Logits:
    return np.random.default_rng(seed).normal(0, 4, size).astype(np.float32)


def in_torch(exact_V: Logits, other_V: Logits) -> float:
    exact, other = (torch.log_softmax(torch.from_numpy(each).double(), 0) for each in (exact_V, other_V))
    return float(torch.nn.functional.kl_div(other, exact, reduction="sum", log_target=True))


@pytest.mark.parametrize("size", [1, 2, 8191, 8192, 8193, 49152])
def test_as_torch_has_it(size: int) -> None:
    exact_V, other_V = logits(size, 1), logits(size, 2)
    assert kl_divergence(exact_V, other_V) == pytest.approx(in_torch(exact_V, other_V), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("ruled_out", [slice(0), slice(None, None, 7), slice(100, 20_000)])
def test_the_same_to_the_last_bit_is_exactly_zero(ruled_out: slice) -> None:
    exact_V = logits(30_000, 3)
    exact_V[ruled_out] = -np.inf
    assert kl_divergence(exact_V, exact_V.copy()) == 0.0


def test_tokens_that_exact_kv_rules_out_do_not_count() -> None:
    exact_V, other_V = logits(20_000, 4), logits(20_000, 5)
    exact_V[9000:], other_V[9000:] = -np.inf, -np.inf
    assert kl_divergence(exact_V, other_V) == pytest.approx(in_torch(exact_V[:9000], other_V[:9000]), rel=1e-9)
    other_V[5] = -np.inf
    assert kl_divergence(exact_V, other_V) == np.inf
