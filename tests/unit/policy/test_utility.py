"""What entries turn out to be good for, by hand and dense, and what a profile of it is worth on other questions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from kvloom.policy.compression.adakv import AdaKv
from kvloom.policy.compression.base import Allocator, Counts, Origin
from kvloom.policy.compression.lukv import LuKv
from kvloom.policy.compression.profile import MadeFor, Profile, write_profile
from kvloom.policy.compression.uniform import Uniform
from kvloom.policy.compression.utility import contribution_norms, loss_curves, utility

SHARES = np.linspace(0, 1, 65)


def test_utility_is_the_largest_contribution_of_any_step_and_head() -> None:
    rng = np.random.default_rng(0)
    kv_heads, group, count, dim, steps = 2, 3, 20, 4, 5
    v_SKD = rng.normal(size=(count, kv_heads, dim)).astype(np.float32)
    w_HDE = rng.normal(size=(kv_heads * group, dim, 7)).astype(np.float32)
    attention_NHS = rng.dirichlet(np.ones(count), size=(steps, kv_heads * group))
    written_HSE = np.stack([v_SKD[:, h // group].astype(float) @ w_HDE[h].astype(float) for h in range(len(w_HDE))])
    norms_HS = np.sqrt((written_HSE**2).sum(-1))
    wanted_NHS = np.sqrt(((attention_NHS[..., None] * written_HSE) ** 2).sum(-1)) / norms_HS.sum()
    wanted_KS = [wanted_NHS[:, group * k : group * (k + 1)].max((0, 1)) for k in range(kv_heads)]
    found_HS = contribution_norms(v_SKD, w_HDE, count)
    assert found_HS.sum() == pytest.approx(1)
    assert np.allclose(utility(attention_NHS.max(0).astype(np.float32), found_HS, kv_heads), wanted_KS, rtol=1e-5)


def test_a_layers_norms_do_not_depend_on_its_scale() -> None:
    rng = np.random.default_rng(0)
    v_SKD, w_HDE = rng.normal(size=(9, 2, 4)).astype(np.float32), rng.normal(size=(4, 4, 6)).astype(np.float32)
    assert np.allclose(contribution_norms(v_SKD * 100, w_HDE, 9), contribution_norms(v_SKD, w_HDE, 9))
    assert (contribution_norms(v_SKD * 0, w_HDE, 9) == 0).all()


def test_an_entry_counts_no_more_for_the_window_of_its_layer() -> None:
    """Where all values are alike, so are all norms, however many entries a layer shows."""
    v_SKD, w_HDE = np.ones((40, 2, 4), np.float32), np.ones((4, 4, 6), np.float32)
    full_HS, window_HS = contribution_norms(v_SKD, w_HDE, 40), contribution_norms(v_SKD[:10], w_HDE, 40)
    assert np.allclose(full_HS, 1 / full_HS.size)
    assert np.allclose(window_HS, full_HS[:, :10])


def test_a_curve_is_the_loss_of_all_that_goes() -> None:
    rng = np.random.default_rng(0)
    utility_KS, scores_KS = rng.exponential(size=(3, 64)), rng.normal(size=(3, 64)).astype(np.float32)
    curves_KG = loss_curves(utility_KS, scores_KS, SHARES)
    for head in range(3):
        order = sorted(range(64), key=lambda n: -scores_KS[head, n])
        assert np.allclose(curves_KG[head], [sum(utility_KS[head, s] for s in order[n:]) for n in range(65)])
    assert (curves_KG[:, -1] == 0).all()
    exact_KG = loss_curves(utility_KS, utility_KS.astype(np.float32), SHARES)  # no ranking loses less at any share
    assert (exact_KG <= curves_KG + 1e-12).all()


def world(layers: int, heads: int, count: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """Utilities for many questions, (Q, L, K, S), and scores that know much in some heads and little in others, however
    loudly they say it."""
    rng = np.random.default_rng(5)
    base = rng.pareto(1.5, size=(layers, heads, count)) * rng.exponential(size=(layers, heads, 1))
    utilities = base * rng.exponential(size=(40, layers, heads, count))
    knows = rng.random((layers, heads, 1))
    scores = knows * base + (1 - knows) * rng.pareto(1.5, size=base.shape)
    return utilities, (scores * rng.exponential(size=(layers, heads, 1))).astype(np.float32)


def test_budgets_learned_from_some_questions_lose_less_on_others(tmp_path: Path) -> None:
    layers, heads, count = 4, 3, 128
    utilities, scores_LKS = world(layers, heads, count)
    origin = Origin(tuple(range(layers)), (1,) * layers, "made", {}, "w")

    def losses(questions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        curves = [[loss_curves(u, s, SHARES) for u, s in zip(one, scores_LKS, strict=True)] for one in questions]
        return np.mean(curves, axis=0)

    learned, others = losses(utilities[:20]), losses(utilities[20:])
    path = tmp_path / "profile.json"
    made = Profile(MadeFor("w", "made"), (count,), origin.layers, SHARES, learned[None].astype(np.float32))
    write_profile(made, path)

    def lost(allocator: Allocator, ratio: float) -> float:
        counts: list[Counts] = allocator.kept(ratio, list(scores_LKS), origin)
        assert sum(int(each.sum()) for each in counts) == layers * heads * round(count * (1 - ratio))
        return sum(
            float(np.interp(n / count, SHARES, others[layer, head]))
            for layer, each in enumerate(counts)
            for head, n in enumerate(each)
        )

    for ratio in (0.5, 0.75, 0.875):
        ours = lost(LuKv(path), ratio)
        assert ours < lost(Uniform(), ratio)
        assert ours < lost(AdaKv(0.2), ratio)
