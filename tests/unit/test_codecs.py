"""Codecs keep their bounds, and int16 keys what makes their scores exact."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from in_torch import rounded_keys, rounded_values
from kvloom.arrays import Floats
from kvloom.codec import CODECS
from kvloom.codec.int16 import decode_keys, encode_keys, steps_of
from kvloom.memory.format import PageFormat

DIM = 64


def vectors(seed: int, count: int = 200) -> Floats:
    """Of norms from 2^-12 to 2^15, half of them with one component that outweighs the others."""
    rng = np.random.default_rng(seed)
    x_SD = rng.standard_normal((count, DIM)) * 2.0 ** rng.uniform(-15, 6, (count, 1))
    x_SD[::2, 7] *= 100
    return x_SD.astype(np.float32)


@pytest.mark.parametrize("codec", CODECS)
def test_rounding_stays_within_the_bound(codec: str) -> None:
    promised, fmt = CODECS[codec], PageFormat("full", (0,), 1, DIM, DIM, codec)
    x_SD = torch.from_numpy(vectors(0))
    keys, values = rounded_keys(fmt, x_SD), rounded_values(fmt, x_SD)
    scale = x_SD.norm(dim=1, keepdim=True) if promised.by_norm else x_SD.abs()
    normal = x_SD.abs() > 2.0**-14  # in float16
    assert bool(((keys - x_SD).abs() <= promised.key_error * scale)[normal | promised.by_norm].all())
    assert bool(((values - x_SD).abs() <= promised.value_error * x_SD.abs())[normal].all())


@given(seed=st.integers(0, 2**31))
def test_norms_have_15_bits_and_sums_of_products_fit_into_32(seed: int) -> None:
    words_SW = encode_keys(vectors(seed))
    integers_SD = np.ascontiguousarray(words_SW[:, :-1]).view(np.int16).astype(np.int64)
    norms = np.sqrt((integers_SD**2).sum(axis=1))
    assert bool((norms > 0.999 * 2**14).all())
    assert bool((norms < 2**15 + 4).all())  # half a step for each of 64 components
    partial = np.abs(np.cumsum(integers_SD[:100, None] * integers_SD[None, 100:], axis=2))
    assert int(partial.max()) < 2**31


@given(seed=st.integers(0, 2**31))
def test_large_components_of_float16_lose_nothing(seed: int) -> None:
    x_SD = vectors(seed).astype(np.float16).astype(np.float32)
    large = np.abs(x_SD) * 16 >= np.linalg.norm(x_SD, axis=1, keepdims=True)
    assert bool(large.any())
    np.testing.assert_array_equal(decode_keys(encode_keys(x_SD))[large], x_SD[large])


def test_steps_are_powers_of_two() -> None:
    mantissas, _ = np.frexp(steps_of(vectors(1)))
    assert set(mantissas.flat) == {0.5}


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 3e38])
def test_a_key_that_has_no_norm_is_nan(odd: float) -> None:
    x_SD = vectors(2, 3)
    x_SD[1, 5] = odd
    found_SD = decode_keys(encode_keys(x_SD))
    assert np.isnan(found_SD[1]).all()
    assert np.isfinite(found_SD[[0, 2]]).all()


def test_nothing_and_little_are_kept() -> None:
    x_SD = np.zeros((2, DIM), np.float32)
    x_SD[1, 3] = 2.0**-70
    np.testing.assert_array_equal(decode_keys(encode_keys(x_SD)), x_SD)
