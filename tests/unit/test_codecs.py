"""Codecs keep their bounds whatever comes, and integer keys what makes their scores exact."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from kvloom.arrays import Floats
from kvloom.codec import BLOCK_TOKENS, CODECS, INT8, INT16, Stream
from kvloom.codec.int16 import in_steps, steps_of

DIM = 64
STREAMS = {
    f"{kind} of {name}": stream
    for name, codec in CODECS.items()
    for kind, stream in (("keys", codec.keys), ("values", codec.values))
}
every_stream = pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)


def vectors(seed: int, count: int = 192) -> Floats:
    """Of norms from 2^-12 to 2^15, half of them with one component that outweighs the others."""
    rng = np.random.default_rng(seed)
    x_SD = rng.standard_normal((count, DIM)) * 2.0 ** rng.uniform(-15, 6, (count, 1))
    x_SD[::2, 7] *= 100
    return x_SD.astype(np.float32)


def stored(stream: Stream, x_SD: Floats) -> Floats:
    """What comes back of whole blocks."""
    blocks_NSD = x_SD.reshape(-1, BLOCK_TOKENS, x_SD.shape[-1])
    return stream.decode(stream.encode(blocks_NSD), x_SD.shape[-1]).reshape(x_SD.shape)


NUMBERS = [0.0, -0.0, 1e-45, -1e-40, 1.2e-38, 2.0**-100, -(2.0**-99), 2.0**-106, 6e-8, 6.1e-5, 1.0, -127.0, 127.5]
NUMBERS += [65504.0, 65519.0, -65520.0, 1e9, 2.0**62, -(2.0**63), 1e30, 3.3e38, -3.4028235e38]


@st.composite
def odd_blocks(draw: st.DrawFn) -> Floats:
    """Of vectors that are little, huge, nothing, or have one component that outweighs the others."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    scales = draw(st.lists(st.sampled_from(NUMBERS), min_size=BLOCK_TOKENS, max_size=BLOCK_TOKENS))
    x_SD = np.clip(rng.standard_normal((BLOCK_TOKENS, DIM)) / 4, -1, 1) * np.array(scales)[:, None]
    for row in range(BLOCK_TOKENS):
        if draw(st.booleans()):
            x_SD[row, draw(st.integers(0, DIM - 1))] = draw(st.sampled_from(NUMBERS))
    return x_SD.astype(np.float32)


@every_stream
@given(x_SD=odd_blocks())
def test_rounding_stays_within_the_bound(stream: Stream, x_SD: Floats) -> None:
    with np.errstate(all="ignore"):
        error_SD, bound_SD = np.abs(stored(stream, x_SD).astype(np.float64) - x_SD), stream.bound(x_SD)
    promised_SD = np.isfinite(bound_SD)
    assert bound_SD.shape == x_SD.shape
    assert (error_SD <= bound_SD)[promised_SD].all(), (error_SD / bound_SD)[promised_SD].max()


@every_stream
def test_bounds_are_promised_and_not_idle(stream: Stream) -> None:
    x_SD = vectors(0)
    error_SD, bound_SD = np.abs(stored(stream, x_SD) - x_SD), stream.bound(x_SD)
    assert np.isfinite(bound_SD[np.abs(x_SD) < 60_000]).all()
    assert (error_SD <= bound_SD).all()
    assert (error_SD > bound_SD / 4).any() or not bound_SD.any(), "a bound that nothing comes near says little"


@every_stream
@given(seed=st.integers(0, 2**31), count=st.integers(1, BLOCK_TOKENS))
def test_entries_that_come_one_by_one_are_those_of_a_block(stream: Stream, seed: int, count: int) -> None:
    x_SD = vectors(seed, BLOCK_TOKENS)
    whole_B = stream.encode(x_SD[None])[0]
    assert whole_B.size == stream.bytes(DIM)
    order = np.random.default_rng(seed).permutation(BLOCK_TOKENS)
    block_B = np.zeros_like(whole_B)
    for places in np.array_split(order, count):
        stream.put(x_SD[places], block_B, places.tolist())
    np.testing.assert_array_equal(block_B, whole_B)
    entries_1SE = stream.entries(whole_B[None], DIM)
    np.testing.assert_array_equal(stream.blocks(entries_1SE, DIM), whole_B[None])
    moved_1SE = entries_1SE[:, order]
    np.testing.assert_array_equal(stream.entries(stream.blocks(moved_1SE, DIM), DIM), moved_1SE)


@every_stream
def test_a_query_meets_keys_as_they_are_or_nearly_so(stream: Stream) -> None:
    q_TD = vectors(3)
    error_TD = np.abs(stream.met(q_TD) - q_TD)
    assert (error_TD <= 2.0**-15 * np.linalg.norm(q_TD, axis=1, keepdims=True)).all()


@given(seed=st.integers(0, 2**31))
def test_norms_have_15_bits_and_sums_of_products_fit_into_32(seed: int) -> None:
    integers_SD = in_steps(vectors(seed))[0].astype(np.int64)
    norms = np.sqrt((integers_SD**2).sum(axis=1))
    assert bool((norms > 0.999 * 2**14).all())
    assert bool((norms < 2**15 + 4).all())  # half a step for each of 64 components
    partial = np.abs(np.cumsum(integers_SD[:96, None] * integers_SD[None, 96:], axis=2))
    assert int(partial.max()) < 2**31


def test_sums_of_products_of_bytes_fit_into_32_at_any_dim() -> None:
    """A query has a norm of less than 2^15 + 8 steps, and with bytes of 127 it meets the longest key of 256."""
    assert 127 * 16 * (2**15 + 8) < 2**31


@given(seed=st.integers(0, 2**31))
def test_large_components_of_float16_lose_nothing(seed: int) -> None:
    x_SD = vectors(seed).astype(np.float16).astype(np.float32)
    large = np.abs(x_SD) * 16 >= np.linalg.norm(x_SD, axis=1, keepdims=True)
    assert bool(large.any())
    np.testing.assert_array_equal(stored(INT16.keys, x_SD)[large], x_SD[large])


def test_steps_are_powers_of_two() -> None:
    mantissas, _ = np.frexp(steps_of(vectors(1)))
    assert set(mantissas.flat) == {0.5}


@pytest.mark.parametrize("stream", [INT16.keys, INT8.keys, INT8.values])
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_a_vector_without_a_step_is_nan(stream: Stream, odd: float) -> None:
    x_SD = vectors(2, BLOCK_TOKENS)
    x_SD[1, 5] = odd
    found_SD = stored(stream, x_SD)
    assert np.isnan(found_SD[1]).all()
    assert np.isfinite(np.delete(found_SD, 1, axis=0)).all()


def test_a_key_of_16_bits_that_has_no_norm_is_nan() -> None:
    x_SD = vectors(2, BLOCK_TOKENS)
    x_SD[1, 5] = 3e38
    assert np.isnan(stored(INT16.keys, x_SD)[1]).all()
    assert np.isfinite(stored(INT8.keys, x_SD)).all()


@every_stream
def test_nothing_and_little_are_kept(stream: Stream) -> None:
    x_SD = np.zeros((BLOCK_TOKENS, DIM), np.float32)
    x_SD[1, 3] = 2.0**-70
    found_SD = stored(stream, x_SD)
    if stream in (CODECS["float16"].keys, CODECS["float16"].values, INT16.values):
        assert not found_SD.any(), "float16 ends at 2^-24"
    else:
        np.testing.assert_allclose(found_SD, x_SD, rtol=1e-6, atol=0)


@pytest.mark.parametrize("stream", [INT8.keys, INT8.values])
def test_the_largest_component_of_bytes_is_kept(stream: Stream) -> None:
    x_SD = vectors(4)
    largest = np.arange(len(x_SD)), np.abs(x_SD).argmax(axis=1)
    np.testing.assert_allclose(stored(stream, x_SD)[largest], x_SD[largest], rtol=2.0**-22)
