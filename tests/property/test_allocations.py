"""Whatever the scores, the layers and the ratio: an allocator keeps its total, its bounds, and what it kept before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvloom.errors import ParamsError
from kvloom.policy.compression.adakv import AdaKv
from kvloom.policy.compression.allocators import ALLOCATORS
from kvloom.policy.compression.base import REQUIRED, Allocator, Floats, Origin
from kvloom.policy.compression.depthkv import DepthKv
from kvloom.policy.compression.global_top import GlobalTop
from kvloom.policy.compression.head_classes import HeadClasses
from kvloom.policy.compression.lukv import LuKv
from kvloom.policy.compression.pyramid import Pyramid
from kvloom.policy.compression.uniform import Uniform, kept_of
from kvloom.policy.compression.xkv import Xkv
from made_contexts import WEIGHTS, files, in_a_row

LAYERS, HEADS = 3, 2
ORIGIN = Origin((2, 0, 1), (1, 1, 1), "random", {"seed": 0}, WEIGHTS)

RATIO = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 0.75, 0.9, 1.0]))


@st.composite
def layers(draw: st.DrawFn, alike: bool = False) -> list[Floats]:
    """Of different lengths unless alike, with ties, and some entries that are required."""
    sizes = [draw(st.integers(0, 40))] * LAYERS if alike else draw(st.lists(st.integers(0, 40), min_size=3, max_size=3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kinds = draw(st.sampled_from(["spread", "ties", "flat", "zero"]))
    scores = []
    for size in sizes:
        spread = rng.exponential(size=(HEADS, size)) * 10.0 ** rng.integers(-3, 4)
        made = {"spread": spread, "ties": np.floor(3 * spread), "flat": spread * 0 + 1, "zero": spread * 0}[kinds]
        made[rng.random(size=made.shape) < rng.choice([0, 0, 0.2])] = REQUIRED
        scores.append(made.astype(np.float32))
    return scores


@pytest.fixture(scope="module")
def allocators(tmp_path_factory: pytest.TempPathFactory) -> list[Allocator]:
    folder: Path = tmp_path_factory.mktemp("files")
    made = files(folder, LAYERS, HEADS, "random", {"seed": 0})
    some = [
        Uniform(),
        Pyramid(),
        Pyramid(2.0),
        AdaKv(),
        AdaKv(0.0),
        Xkv(),
        GlobalTop(),
        GlobalTop(0.3),
        DepthKv(cap=1.0),
        DepthKv(cap=0.8, spared_first=0, spared_middle=1),
        HeadClasses(made["head_classes"]["gates"], streaming=5),
        LuKv(made["lukv"]["profile"]),
        LuKv(made["lukv"]["profile"], floor=0.2),
    ]
    assert {one.name for one in some} == set(ALLOCATORS)
    return some


def kept(allocator: Allocator, ratio: float, scores: list[Floats]) -> list[int] | None:
    """None: DepthKV says that it cannot."""
    try:
        return in_a_row(allocator.kept(ratio, scores, ORIGIN))
    except ParamsError:
        if isinstance(allocator, DepthKv):
            return None
        raise


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scores=layers(), ratio=RATIO)
def test_totals_and_bounds(allocators: list[Allocator], scores: list[Floats], ratio: float) -> None:
    even = [kept_of(one.shape[1], ratio) for one in scores for _ in range(HEADS)]
    sizes = [one.shape[1] for one in scores for _ in range(HEADS)]
    required = [int((row == REQUIRED).sum()) for one in scores for row in one]
    for allocator in allocators:
        counts = kept(allocator, ratio, scores)
        if counts is None:
            continue
        assert sum(counts) == sum(even), allocator
        for count, size, n, least in zip(counts, sizes, even, required, strict=True):
            assert min(n, max(1, least)) <= count <= size, allocator
        assert counts == kept(allocator, ratio, scores)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scores=layers(alike=True), ratios=st.lists(RATIO, min_size=2, max_size=2))
def test_who_removes_more_keeps_no_more_of_any_head(
    allocators: list[Allocator], scores: list[Floats], ratios: list[float]
) -> None:
    """Where layers are of different lengths, their even shares round differently, and it may be an entry.

    LU-KV's hulls begin where what is safe ends. When an even share has no room for that, they are other hulls.
    """
    size, most = scores[0].shape[1], max(int((row == REQUIRED).sum()) for one in scores for row in one)
    for allocator in allocators:
        safe = max(most, round(allocator.floor * size)) if isinstance(allocator, LuKv) else 0
        if safe > kept_of(size, max(ratios)):
            continue
        less, more = (kept(allocator, ratio, scores) for ratio in sorted(ratios))
        if less is None or more is None:
            continue
        assert all(b <= a for a, b in zip(less, more, strict=True)), (allocator, less, more)
