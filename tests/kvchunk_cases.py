"""Small chunks for tests of the kvchunk format."""

from __future__ import annotations

import numpy as np

from kvloom.memory.kvchunk import Identity, KvChunk, Turn
from kvloom.memory.kvchunk.numbers import Dtype, rounded

TOKENS = (1, 50, 7, 7, 23)


def made_chunk(
    tokens: tuple[int, ...] = TOKENS,
    *,
    heads: int = 4,
    k_dtype: Dtype = "F32",
    v_dtype: Dtype = "F16",
    namespace: str = "",
    layers: tuple[int, ...] = (0, 2),
) -> KvChunk:
    """Of two layers, whose numbers the formats have exactly."""
    rng = np.random.default_rng(sum(tokens))

    def numbers(dtype: str, dim: int) -> np.ndarray:
        return rounded(rng.standard_normal((heads, len(tokens), dim)).astype(np.float32), dtype)

    return KvChunk(
        identity=Identity("0a" * 32, "1b" * 32, namespace, tokens, lead=1),
        turns=(Turn((0,), (1.0, 0.25)), Turn(layers[1:], ())),
        keys={layer: numbers(k_dtype, 8) for layer in layers},
        values={layer: numbers(v_dtype, 6) for layer in layers},
        k_dtype=k_dtype,
        v_dtype=v_dtype,
        created_by="tests",
    )


def assert_same(found: KvChunk, expected: KvChunk) -> None:
    """In everything, bit for bit."""
    assert found.identity == expected.identity
    assert (found.turns, found.layers) == (expected.turns, expected.layers)
    assert (found.k_dtype, found.v_dtype) == (expected.k_dtype, expected.v_dtype)
    assert (found.same_bits, found.created_by) == (expected.same_bits, expected.created_by)
    for layer in expected.layers:
        assert found.keys[layer].dtype == found.values[layer].dtype == np.float32
        assert found.keys[layer].tobytes() == expected.keys[layer].tobytes()
        assert found.values[layer].tobytes() == expected.values[layer].tobytes()
