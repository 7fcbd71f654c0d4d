"""Merging by the kernels: what numpy makes in float64, and the same bits however it is computed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from kvloom.kernels import isas
from kvloom.policy.compression.base import Entries, LayerContext
from kvloom.policy.compression.keepkv import KeepKv
from kvloom.policy.compression.merge_kernels import HeadRows, nearest, rows_of, sums, weigh
from kvloom.policy.compression.reference_queries import References
from made_contexts import contexts
from merged_in_numpy import cosines, merged

SHAPES = [(1, 1, 8, 5), (3, 60, 16, 20), (2, 333, 64, 70), (1, 700, 48, 16), (4, 33, 17, 33)]
"""KV heads, entries, head dim, how many stay."""


def context_of(heads: int, count: int, dim: int, seed: int) -> LayerContext:
    """Keys of which many are alike, of any length."""
    (one,) = contexts(1, heads, count, dim, seed)
    rng = np.random.default_rng(seed)
    base_BD = rng.normal(size=(max(1, count // 6), dim)) * rng.uniform(0.2, 3, size=(max(1, count // 6), 1))
    near_SKD = base_BD[rng.integers(0, len(base_BD), (count, heads))] + 0.3 * rng.normal(size=(count, heads, dim))
    q_RHD = one.measured.q_RHD[-9:]
    seen = dataclasses.replace(one.measured, q_RHD=q_RHD, positions_R=one.positions_S[-9:])
    return dataclasses.replace(one, k_SKD=near_SKD.astype(np.float32), measured=seen)


def chosen(context: LayerContext, stay: int, seed: int = 0) -> list[np.ndarray]:
    """Fewer of every further head; of the last of several, none."""
    heads, count = context.shape
    rng = np.random.default_rng(seed)
    counts = [min(count, max(1, stay - 3 * head)) for head in range(heads)]
    if heads > 1:
        counts[-1] = 0
    return [np.sort(rng.permutation(count)[:n]) for n in counts]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("similarity", [-1.0, 0.6, 0.95])
def test_the_kernels_merge_as_numpy_does(shape: tuple[int, int, int, int], similarity: float) -> None:
    heads, count, dim, stay = shape
    context = context_of(heads, count, dim, seed=count)
    kept = chosen(context, stay)
    results = KeepKv(similarity=similarity).stored(context, kept)
    for head, (stays_P, entries) in enumerate(zip(kept, results, strict=True)):
        gone = [int(n) for n in np.setdiff1d(np.arange(count), stays_P)] if len(stays_P) else []
        alike_RP = cosines(context.k_SKD[gone, head], context.k_SKD[stays_P, head])
        nearest_R = zip(gone, alike_RP, strict=True)
        partner = {n: int(alike_P.argmax()) for n, alike_P in nearest_R if alike_P.max() > similarity}
        expected = merged(context, head, stays_P.tolist(), partner, fading=0.9)
        changed = [len(members) > 1 for members in expected.members]
        if entries is None:
            assert not any(changed)
            continue
        assert entries.changed_S.tolist() == changed
        np.testing.assert_allclose(entries.k_SD, expected.k_PD, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(entries.v_SD, expected.v_PD, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(entries.bias_S, expected.bias_P, rtol=1e-4, atol=1e-4)


def test_who_is_nearest_is_found() -> None:
    for seed, (heads, count, dim, stay) in enumerate(SHAPES):
        context = context_of(heads, count, dim, seed)
        kept = chosen(context, stay)
        rows = [np.arange(0, count, 2) if len(stays_P) else stays_P for stays_P in kept]
        found_R, cosines_R = nearest(rows_of(context.k_SKD), HeadRows.of(rows), HeadRows.of(kept), 2)
        bounds = HeadRows.of(rows).bounds_K1
        for head, (rows_R, stays_P) in enumerate(zip(rows, kept, strict=True)):
            of_head = slice(bounds[head], bounds[head + 1])
            alike_RP = cosines(context.k_SKD[rows_R, head], context.k_SKD[stays_P, head])
            if len(rows_R):
                np.testing.assert_allclose(cosines_R[of_head], alike_RP.max(axis=1), atol=1e-6)
                at_R = alike_RP[np.arange(len(rows_R)), found_R[of_head]]
                np.testing.assert_allclose(at_R, alike_RP.max(axis=1), atol=1e-6)


def test_of_equals_the_first_is_nearest_and_nothing_is_like_zeros() -> None:
    k_SKD = np.random.default_rng(0).normal(size=(40, 1, 16)).astype(np.float32)
    k_SKD[20:] = k_SKD[:20]
    k_SKD[7] = 0
    everyone = [np.arange(40)]
    found_R, cosines_R = nearest(rows_of(k_SKD), HeadRows.of(everyone), HeadRows.of(everyone), 1)
    others = [n for n in range(20) if n != 7]
    assert found_R[others].tolist() == others
    assert found_R[[n + 20 for n in others]].tolist() == others
    assert [cosines_R[7], found_R[7]] == [0, 0]


def test_who_points_the_other_way_is_nearest_where_there_is_nobody_else() -> None:
    k_XD = np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32)
    k_XD[1] = -2 * k_XD[0]
    found_R, cosines_R = nearest(k_XD, HeadRows.of([np.array([1])]), HeadRows.of([np.array([0])]), 1)
    assert found_R.tolist() == [0]
    assert cosines_R.tolist() == pytest.approx([-1])


def test_keys_weigh_what_they_weigh_and_large_products_do_not_overflow() -> None:
    context = context_of(2, 50, 32, seed=1)
    seen = dataclasses.replace(context.measured, q_RHD=80 * context.measured.q_RHD)
    references = References.of(dataclasses.replace(context, measured=seen), fading=0.5)
    assert np.exp(references.log_N).sum() == pytest.approx(1)
    rows = [np.arange(50), np.array([4, 2])]
    weights_R = weigh(rows_of(context.k_SKD), HeadRows.of(rows), references, 2)
    for head, entries in enumerate(rows):
        q_ND = references.q_KND[head].astype(np.float64)
        logits_NS = q_ND @ context.k_SKD[entries, head].T + references.log_N[:, None]
        expected_S = np.logaddexp.reduce(logits_NS, axis=0)
        np.testing.assert_allclose(weights_R[50 * head :][: len(entries)], expected_S, rtol=2e-6, atol=1e-5)
    assert np.abs(weights_R).max() > 100


def test_sums_are_of_the_rows_that_are_named() -> None:
    x_XD = np.random.default_rng(0).normal(size=(30, 20)).astype(np.float32)
    rows_R, bounds_G1 = np.array([3, 3, 7, 29, 0]), np.array([0, 2, 2, 5])
    shares_R = np.array([0.5, 2, 1, -1, 3], np.float32)
    found_GD = sums(x_XD, rows_R, shares_R, bounds_G1, 3)
    np.testing.assert_allclose(found_GD[0], 2.5 * x_XD[3], rtol=1e-6)
    assert not found_GD[1].any()
    np.testing.assert_allclose(found_GD[2], x_XD[7] - x_XD[29] + 3 * x_XD[0], rtol=1e-5)


@pytest.mark.parametrize("form", ["bias", "zip"])
def test_neither_threads_nor_the_instruction_set_change_a_bit(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of(3, 500, 64, seed=5)
    kept = chosen(context, 120)

    def bits(threads: int) -> bytes:
        results = KeepKv(similarity=0.5, form=form).stored(dataclasses.replace(context, threads=threads), kept)
        return b"".join(_bytes(entries) for entries in results)

    expected = bits(1)
    assert bits(2) == bits(5) == expected
    for isa in isas():
        monkeypatch.setenv("KVLOOM_ISA", isa)
        assert bits(2) == expected


def _bytes(entries: Entries | None) -> bytes:
    if entries is None:
        return b"-"
    return b"".join(each.tobytes() for each in (entries.k_SD, entries.v_SD, entries.bias_S, entries.changed_S))


@pytest.mark.parametrize(
    ("rows", "others", "fault"),
    [
        (np.array([40]), np.array([0]), "no such row"),
        (np.array([0]), np.array([-1]), "no such row"),
        (np.array([0]), np.zeros(0, np.int64), "nothing to compare with"),
    ],
)
def test_rows_that_are_not_there_are_refused(rows: np.ndarray, others: np.ndarray, fault: str) -> None:
    x_XD = np.zeros((40, 16), np.float32)
    with pytest.raises(ValueError, match=fault):
        nearest(x_XD, HeadRows.of([rows]), HeadRows.of([others]), 1)
