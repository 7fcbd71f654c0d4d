"""Random quantized blocks of a chosen size of values, written directly: nothing is quantized.

Values have the mean 0 and are uniform within a block. Scales differ from block to block, and have both signs where the
format knows no minimum: the codes of those formats are not symmetric about 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from kvloom.arrays import Bytes

_JITTER = (0.5, 1.5)
_Q4_K_SCALES, _Q6_K_SCALES = (32, 64), (16, 64)

Random = np.random.Generator


def random_blocks(kind: str, count: int, std: float, rng: Random) -> Bytes:
    """``count`` blocks of ``kind``, (count, bytes of a block), whose values have the standard deviation ``std``."""
    return _MAKERS[kind](count, std, rng)


def _scales(count: int, code_mean_square: float, std: float, rng: Random) -> npt.NDArray[np.float16]:
    """fp16 scales (count, 1) for codes of that mean square."""
    low, high = _JITTER
    jitter_mean_square = (low**2 + low * high + high**2) / 3
    size = std / np.sqrt(code_mean_square * jitter_mean_square)
    return (size * rng.uniform(low, high, (count, 1))).astype(np.float16)


def _signs(shape: tuple[int, ...], rng: Random) -> npt.NDArray[np.int8]:
    return rng.integers(0, 2, shape, dtype=np.int8) * np.int8(2) - np.int8(1)


def _mean_square(values: range) -> float:
    return float(np.mean(np.square(np.array(values, np.float64))))


def _q4_0(count: int, std: float, rng: Random) -> Bytes:
    d = _scales(count, _mean_square(range(-8, 8)), std, rng) * _signs((count, 1), rng)
    return np.hstack([d.astype(np.float16).view(np.uint8), rng.integers(0, 256, (count, 16), dtype=np.uint8)])


def _q8_0(count: int, std: float, rng: Random) -> Bytes:
    d = _scales(count, _mean_square(range(-127, 128)), std, rng)
    return np.hstack([d.view(np.uint8), rng.integers(-127, 128, (count, 32), dtype=np.int8).view(np.uint8)])


def _q4_k(count: int, std: float, rng: Random) -> Bytes:
    """Minima equal the scales, and ``dmin`` is 7.5 times ``d``: the codes' mean."""
    d = _scales(count, 21.25 * _mean_square(range(*_Q4_K_SCALES)), std, rng)
    low, high = np.split(rng.integers(*_Q4_K_SCALES, (count, 8), dtype=np.uint8), 2, axis=1)
    first = low | high >> 4 << 6
    nested = [first, first, (high & 15) | high << 4]
    codes = rng.integers(0, 256, (count, 128), dtype=np.uint8)
    halves = [d.view(np.uint8), (d * np.float16(7.5)).view(np.uint8)]
    return np.hstack([*halves, *nested, codes])


def _q6_k(count: int, std: float, rng: Random) -> Bytes:
    d = _scales(count, _mean_square(range(-32, 32)) * _mean_square(range(*_Q6_K_SCALES)), std, rng)
    scales = rng.integers(*_Q6_K_SCALES, (count, 16), dtype=np.int8) * _signs((count, 16), rng)
    codes = rng.integers(0, 256, (count, 192), dtype=np.uint8)
    return np.hstack([codes, scales.view(np.uint8), d.view(np.uint8)])


_MAKERS: dict[str, Callable[[int, float, Random], Bytes]] = {
    "Q4_0": _q4_0,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q6_K": _q6_k,
}
