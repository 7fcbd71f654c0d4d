"""What a model's shape says of the cost of prefill."""

from __future__ import annotations

import math

import pytest

import tiny
import tiny_decoder
from kvloom.engine.retention import shape_cost
from kvloom.policy.cost import PrefillCost, estimated


@pytest.mark.parametrize(
    ("parameters", "heads", "dim", "layers", "doubled_at"),
    [
        (6_979_321_856, 32, 128, 32, 27_000),  # Llama 3.1 8B
        (68_451_041_280, 64, 128, 80, 52_000),  # 70B
        (973_078_528, 32, 64, 16, 15_000),  # Llama 3.2 1B
        (357_826_560, 14, 64, 24, 8_000),  # Qwen2.5 0.5B
    ],
)
def test_the_position_at_which_attention_doubles_the_cost(
    parameters: int, heads: int, dim: int, layers: int, doubled_at: int
) -> None:
    cost = estimated(parameters, heads * dim * layers)
    assert cost.token_s / cost.position_s == pytest.approx(doubled_at, rel=0.04)
    assert cost.block(round(cost.token_s / cost.position_s), 1) == pytest.approx(2 * cost.block(0, 1), rel=1e-4)


def test_windows_cost_the_same_everywhere() -> None:
    dense, hybrid, windows = (tiny.TinyModel(kinds) for kinds in ((None, None), (8, None), (8, 8)))
    weights = 4 * tiny.DIM * tiny.WIDTH * 2 + 2 * tiny.KV_HEADS * tiny.DIM * tiny.WIDTH
    assert dense.layer_parameters == 2 * weights
    slopes = [shape_cost(model).position_s for model in (dense, hybrid, windows)]
    assert slopes == [pytest.approx(2 * slopes[1]), slopes[1], 0.0]
    assert shape_cost(dense) == estimated(2 * weights, 2 * tiny.HEADS * tiny.DIM)


def test_a_decoder_counts_the_matrices_of_its_layers() -> None:
    """Gate, up and down; queries and output; keys and values."""
    width, heads, kv_heads = tiny_decoder.WIDTH, tiny_decoder.HEADS, tiny_decoder.KV_HEADS
    rows = 3 * tiny_decoder.HIDDEN + 2 * heads * tiny_decoder.DIM + 2 * kv_heads * tiny_decoder.DIM
    assert tiny_decoder.decoder((None, 8, None)).layer_parameters == 3 * rows * width


def test_a_block_costs_what_its_tokens_cost_one_by_one() -> None:
    cost = PrefillCost(1.0, 1e-3, 1e-6)
    assert cost.block(100, 16) == pytest.approx(math.fsum(1e-3 + 1e-6 * position for position in range(100, 116)))
