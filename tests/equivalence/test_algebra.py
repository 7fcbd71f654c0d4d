"""The kernels' linear algebra and the fits made of it, against numpy's; and the same bits however it is computed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from kvloom import _kernels
from kvloom.kernels import isas
from kvloom.policy.compression.algebra import product, products, solved
from kvloom.policy.compression.matching import Matching
from made_contexts import contexts
from matched_in_numpy import matched

SHAPES = [(1, 1, 1), (7, 5, 3), (6, 0, 4), (0, 3, 2), (13, 40, 33), (6, 9, 32), (50, 17, 64), (192, 64, 205)]


@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_numpys(shape: tuple[int, int, int]) -> None:
    rows, inner, columns = shape
    rng = np.random.default_rng(rows)
    a_MN, b_NP = rng.normal(size=(rows, inner)), rng.normal(size=(inner, columns))
    np.testing.assert_allclose(product(a_MN, b_NP, 2), a_MN @ b_NP, rtol=1e-12, atol=1e-12)
    turned_NP = np.asfortranarray(b_NP.astype(np.float32))
    np.testing.assert_allclose(product(a_MN, turned_NP, 2), a_MN @ turned_NP, rtol=1e-12, atol=1e-12)
    a_KMN, b_KNP = np.stack([a_MN, -a_MN, 2 * a_MN]), np.stack([b_NP, 3 * b_NP, b_NP])
    np.testing.assert_allclose(products(a_KMN, b_KNP, 2), a_KMN @ b_KNP, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 17, 100])
@pytest.mark.parametrize("columns", [1, 3, 64])
def test_systems_are_solved(size: int, columns: int) -> None:
    rng = np.random.default_rng(size)
    x_KNP, y_KND = rng.normal(size=(3, size, size + 1)), rng.normal(size=(3, size, columns))
    a_KNN = x_KNP @ x_KNP.transpose(0, 2, 1) + 0.1 * np.eye(size)
    before = a_KNN.copy(), y_KND.copy()
    found_KND = solved(a_KNN, y_KND, 2)
    np.testing.assert_allclose(found_KND, np.linalg.solve(a_KNN, y_KND), rtol=1e-8, atol=1e-8)
    assert np.array_equal(a_KNN, before[0])
    assert np.array_equal(y_KND, before[1])


def test_a_system_that_is_hardly_definite_has_a_finite_solution() -> None:
    x_NP = np.random.default_rng(0).normal(size=(20, 3))
    found_KND = solved((x_NP @ x_NP.T)[None], np.ones((1, 20, 2)), 1)
    assert np.isfinite(found_KND).all()
    assert np.isfinite(solved(np.zeros((1, 4, 4)), np.zeros((1, 4, 1)), 1)).all()


def test_neither_threads_nor_the_instruction_set_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    a_MN, b_NP = rng.normal(size=(101, 37)), rng.normal(size=(37, 59))
    gram_KNN = np.stack([a_MN.T @ a_MN, 2 * a_MN.T @ a_MN])
    y_KND = rng.normal(size=(2, 37, 5))
    expected = product(a_MN, b_NP, 1), solved(gram_KNN, y_KND, 1)
    for isa in isas():
        monkeypatch.setenv("KVLOOM_ISA", isa)
        for threads in (1, 2, 5):
            assert np.array_equal(product(a_MN, b_NP, threads), expected[0])
            assert np.array_equal(solved(gram_KNN, y_KND, threads), expected[1])


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="shapes of a product"):
        product(np.ones((2, 3)), np.ones((4, 2)), 1)
    with pytest.raises(ValueError, match="shapes of a product"):
        _kernels.multiply(np.ones((1, 2, 3)), np.ones((1, 3, 2)), np.ones((1, 2, 3)), 1)
    with pytest.raises(ValueError, match="shapes of a system"):
        solved(np.ones((1, 3, 3)), np.ones((1, 2, 1)), 1)


@pytest.mark.parametrize("ridge", [1e-6, 0.1, 3.0])
@pytest.mark.parametrize("stay", [3, 40, 199])
def test_matching_fits_as_numpy_does(ridge: float, stay: int) -> None:
    (one,) = contexts(1, 3, 200, dim=16, seed=stay)
    context = dataclasses.replace(
        one, threads=2, measured=dataclasses.replace(one.measured, q_RHD=one.measured.q_RHD[-20:])
    )
    rng = np.random.default_rng(0)
    kept = [np.sort(rng.permutation(200)[:count]) for count in (stay, 200, max(1, stay - 2))]
    results = Matching(ridge=ridge).stored(context, kept)
    assert results[1] is None
    for head in (0, 2):
        entries = results[head]
        assert entries is not None
        v_PD, bias_P = matched(context, head, kept[head], ridge)
        np.testing.assert_allclose(entries.v_SD, v_PD, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(entries.bias_S, bias_P, rtol=1e-5, atol=1e-5)
        assert np.array_equal(entries.k_SD, context.k_SKD[kept[head], head])
