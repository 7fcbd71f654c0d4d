"""Sampling follows its parameters and nothing else."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from kvloom.engine.params import SamplingParams
from kvloom.engine.sampling import Sampler, token_logprobs
from kvloom.errors import ParamsError

LOGITS = np.array([1.0, 3.0, 2.0, 0.0, -1.0, 2.5], np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64))
    return weights / weights.sum()


def draws(params: SamplingParams, count: int = 4000, logits: np.ndarray = LOGITS) -> Counter[int]:
    sampler = Sampler.start(params, [], (1,))
    return Counter(sampler.draw(logits) for _ in range(count))


def test_greedy_takes_the_first_of_the_largest() -> None:
    logits = np.array([0.0, 5.0, 5.0], np.float32)
    assert Sampler.start(SamplingParams(temperature=0.0), [], (0,)).draw(logits) == 1


def test_frequencies_follow_the_softmax() -> None:
    drawn = draws(SamplingParams(temperature=0.7), 20_000)
    for token, probability in enumerate(softmax(LOGITS / 0.7).tolist()):
        error = 4 * math.sqrt(probability * (1 - probability) / 20_000) + 1e-9
        assert drawn[token] / 20_000 == pytest.approx(probability, abs=error)


def test_top_k_keeps_the_k_likeliest() -> None:
    assert set(draws(SamplingParams(top_k=2))) == {1, 5}


def test_top_p_keeps_the_smallest_set_that_reaches_p() -> None:
    # softmax: 1 -> 0.46, 5 -> 0.28, 2 -> 0.17
    assert set(draws(SamplingParams(top_p=0.45))) == {1}
    assert set(draws(SamplingParams(top_p=0.5))) == {1, 5}
    assert set(draws(SamplingParams(top_p=0.8))) == {1, 5, 2}


def test_top_p_is_over_the_whole_distribution_of_a_large_vocabulary() -> None:
    logits = np.zeros(5000, np.float32)  # flat: 90% of the mass is 4500 tokens, more than the quick path looks at
    assert len(draws(SamplingParams(top_p=0.9), 3000, logits)) > 1500


def test_min_p_is_relative_to_the_likeliest() -> None:
    assert set(draws(SamplingParams(min_p=0.5))) == {1, 5}  # exp(2.5 - 3) = 0.61, exp(2 - 3) = 0.37


def test_same_seed_same_draws_and_another_seed_others() -> None:
    def sequence(seed: int) -> list[int]:
        sampler = Sampler.start(SamplingParams(), [], (seed,))
        return [sampler.draw(LOGITS) for _ in range(50)]

    assert sequence(3) == sequence(3)
    assert sequence(3) != sequence(4)


def test_streams_that_share_a_sum_differ() -> None:
    """Request 1, continuation 0 is not request 0, continuation 1."""

    def sequence(*seeds: int) -> list[int]:
        sampler = Sampler.start(SamplingParams(), [], seeds)
        return [sampler.draw(LOGITS) for _ in range(50)]

    assert sequence(0, 0, 1) != sequence(0, 1, 0)


@pytest.mark.parametrize("temperature", [1e-3, 1e-5, 1e-6, 1e-38, 1e-46])
def test_tiny_temperatures_are_greedy(temperature: float) -> None:
    assert set(draws(SamplingParams(temperature=temperature), 20)) == {1}


def test_vllms_ways_of_saying_nothing() -> None:
    params = SamplingParams(top_k=-1, stop=None, stop_token_ids=None, logit_bias=None)
    assert (params.top_k, params.stop_strings, params.stop_tokens, params.biases) == (0, (), (), {})


def test_logit_bias_moves_a_token() -> None:
    params = SamplingParams(temperature=0.0, logit_bias={3: 100.0})
    assert Sampler.start(params, [], (0,)).draw(LOGITS) == 3


def test_frequency_and_presence_penalties_count_generated_tokens_only() -> None:
    params = SamplingParams(temperature=0.0, presence_penalty=0.3, frequency_penalty=0.3)
    sampler = Sampler.start(params, [1, 1, 1], (0,))
    assert [sampler.draw(LOGITS) for _ in range(3)] == [1, 5, 1]  # 3.0 -> 2.4 < 2.5; then 2.5 -> 1.9 < 2.4


def test_repetition_penalty_counts_the_prompt_too() -> None:
    params = SamplingParams(temperature=0.0, repetition_penalty=2.0)
    assert Sampler.start(params, [1], (0,)).draw(LOGITS) == 5


def test_drawing_does_not_change_the_logits() -> None:
    before = LOGITS.copy()
    draws(SamplingParams(repetition_penalty=2.0, frequency_penalty=1.0, logit_bias={0: 1.0}), 5)
    assert np.array_equal(before, LOGITS)


def test_logprobs_are_raw_ranked_and_complete() -> None:
    result = token_logprobs(LOGITS, 2, 2, lambda token: f"<{token}>")
    expected = np.log(softmax(LOGITS))
    assert list(result) == [2, 1, 5]
    assert [entry.rank for entry in result.values()] == [3, 1, 2]
    for token, entry in result.items():
        assert entry.logprob == pytest.approx(float(expected[token]), abs=1e-5)
        assert entry.decoded_token == f"<{token}>"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", float("nan")), ("temperature", -0.1), ("temperature", "hot"), ("top_p", 0.0),
        ("top_p", 1.1), ("top_k", -2), ("min_p", 2.0), ("n", 0), ("n", 10_000), ("max_tokens", -1),
        ("max_tokens", -5), ("max_tokens", 1.5), ("repetition_penalty", 0.0), ("presence_penalty", 3.0),
        ("frequency_penalty", float("inf")), ("seed", 1.5), ("logprobs", -1), ("logprobs", 1000),
        ("stop", ["x"] * 65), ("stop", [""]), ("stop", [3]), ("stop_token_ids", [-2]), ("logit_bias", {-1: 0.0}),
        ("logit_bias", {1: 1e9}), ("stop", 5), ("stop_token_ids", 5),
        ("repetition_penalty", 1e-38), ("prompt_logprobs", True),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ParamsError, match=field) as caught:
        SamplingParams(**{field: value})
    assert caught.value.param == field
