"""Predictors of KVzip's scores: what is learned, how it is stored, and that it has the same bits in any company."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import tiny
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.kv.learned_digest import learned_digest
from kvloom.engine.params import SamplingParams
from kvloom.errors import DataFileError, EvalError, ParamsError
from kvloom.eval.subject import Subject
from kvloom.learn.kvzap import Sums, learn
from kvloom.learn.texts import texts_of
from kvloom.policy.compression import compression_of
from kvloom.policy.compression.predictor import Predictor, predictor_for, read_predictor, write_predictor

TEXTS = [tiny.random_prompt(100, seed) for seed in range(12)]


def subject(windows: tuple[int | None, ...] = (None, None)) -> Subject:
    return Subject("tiny", tiny.CharTokenizer(), tiny.make_engine(windows))


@pytest.fixture(scope="module", params=[0, 8], ids=["linear", "hidden"])
def learned(request: pytest.FixtureRequest) -> Predictor:
    return learn(subject(), TEXTS, hidden=request.param, source="random")


@pytest.mark.parametrize("ridge", [1e-4, 0.1])
def test_a_fit_is_that_of_ridge_regression(ridge: float) -> None:
    rng = np.random.default_rng(0)
    x_SC, noise_SK = rng.normal(size=(400, 5)), rng.normal(size=(400, 2))
    y_SK = x_SC @ rng.normal(size=(5, 2)) + 3 + 0.1 * noise_SK
    sums = Sums.empty(6, 2)
    for part in np.split(np.arange(400), 4):
        sums.add(np.concatenate([x_SC[part], np.ones((100, 1))], axis=1), y_SK[part])
    found = sums.solved(ridge)
    augmented = np.concatenate([np.concatenate([x_SC, np.ones((400, 1))], axis=1), np.eye(5, 6) * np.sqrt(ridge * 400)])
    wanted, *_ = np.linalg.lstsq(augmented, np.concatenate([y_SK, np.zeros((5, 2))]), rcond=None)
    assert np.allclose(found, wanted, atol=1e-8)
    residual_SK = y_SK - np.concatenate([x_SC, np.ones((400, 1))], axis=1) @ found
    assert np.allclose(sums.explained(found), 1 - residual_SK.var(axis=0) / y_SK.var(axis=0), atol=1e-3)


def test_what_is_learned_says_more_than_a_mean(learned: Predictor) -> None:
    assert learned.layers == (0, 1)
    hidden = learned.onto_LKM.shape[2]
    assert learned.maps_LNC.shape == (2, tiny.KV_HEADS + hidden, tiny.WIDTH)
    assert learned.onto_LKM.shape == (2, tiny.KV_HEADS, hidden)
    assert learned.learned["texts"] == len(TEXTS)
    assert all(share > 0.2 for share in learned.learned["explained"].values())


def test_a_prediction_does_not_depend_on_its_company(learned: Predictor) -> None:
    x_RC = np.random.default_rng(1).normal(size=(300, tiny.WIDTH)).astype(np.float32) * 30
    digest = learned_digest(learned.by_layer)
    whole_RK = digest(1, x_RC)
    square_R1 = np.square(x_RC, dtype=np.float64).mean(axis=1, keepdims=True)
    wanted_RN = x_RC / np.sqrt(square_R1) @ learned.maps_LNC[1].T + learned.offsets_LN[1]
    hidden_RM = np.maximum(wanted_RN[:, tiny.KV_HEADS :], 0)
    wanted_RK = wanted_RN[:, : tiny.KV_HEADS] + hidden_RM @ learned.onto_LKM[1].T
    assert np.allclose(whole_RK, wanted_RK, atol=1e-4)
    for size in (1, 2, 7, 64):
        pieces = [digest(1, x_RC[start : start + size]) for start in range(0, 300, size)]
        assert np.array_equal(np.concatenate(pieces), whole_RK)


def test_a_predictor_is_read_as_it_was_written(learned: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    write_predictor(learned, path)
    again = read_predictor(path)
    assert (again.weights, again.model, again.layers, again.learned) == (
        learned.weights,
        "tiny",
        learned.layers,
        learned.learned,
    )
    for name in ("maps_LNC", "offsets_LN", "onto_LKM"):
        mine, other = getattr(again, name), getattr(learned, name)
        assert np.array_equal(mine, other)
        assert mine.dtype == other.dtype
    cache = CacheParams(compression=compression_of("kvzap", 0.5, predictor=path, allocator="global"))
    params = SamplingParams(max_tokens=4, ignore_eos=True)
    done = [
        tiny.run(tiny.make_engine(step_tokens=step), {"x": TEXTS[0]}, params, cache=cache)["x"].tokens
        for step in (9, 64)
    ]
    assert done[0] == done[1]


def test_a_predictor_of_another_model_is_refused_before_anything_is_computed(
    learned: Predictor, tmp_path: Path
) -> None:
    write_predictor(learned, tmp_path / "p.npz")
    engine = tiny.make_engine((24, None))
    for words, fault in (
        ({"predictor": tmp_path / "p.npz"}, "the predictor is for `tiny`"),
        ({}, "no predictor of KVzip's scores ships for this model"),
    ):
        compression = compression_of("kvzap", 0.5, **words)
        with pytest.raises(ParamsError, match=fault):
            engine.submit("x", TEXTS[0], SamplingParams(), cache=CacheParams(compression=compression))
    assert not engine.has_work
    assert predictor_for(learned.weights, read_predictor(tmp_path / "p.npz")).model == "tiny"


@pytest.mark.parametrize("fault", ["missing", "text", "cut", "other", "shapes"])
def test_what_is_no_predictor_is_refused(learned: Predictor, tmp_path: Path, fault: str) -> None:
    path = tmp_path / "p.npz"
    broken = dataclasses.replace(learned, offsets_LN=learned.offsets_LN[:1]) if fault == "shapes" else learned
    write_predictor(broken, path)
    if fault == "missing":
        path.unlink()
    elif fault == "text":
        path.write_text("no archive")
    elif fault == "cut":
        path.write_bytes(path.read_bytes()[:300])
    elif fault == "other":
        np.savez(path, about="{}")
    with pytest.raises(DataFileError) as caught:
        read_predictor(path)
    assert str(path) in str(caught.value)


def test_too_few_texts_are_refused() -> None:
    with pytest.raises(EvalError, match="7 texts are too few"):
        learn(subject(), TEXTS[:7])


def test_texts_of_files_are_cut_to_size(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a" * 250)
    (tmp_path / "b.txt").write_text("b" * 120)
    found = texts_of(subject(), [tmp_path / "a.txt", tmp_path / "b.txt"], 100, 10)
    assert [len(text) for text in found] == [100, 100, 100]
    assert found[0] != found[1]
    with pytest.raises(DataFileError, match="fewer than 200 tokens"):
        texts_of(subject(), [tmp_path / "b.txt"], 200, 10)
