"""A hidden layer learns what no linear map can say, and never makes it worse."""

from __future__ import annotations

import numpy as np

from kvloom.learn.hidden_layer import Rows, beside_linear


def rows(count: int, bent: float, seed: int) -> Rows:
    """Two outputs of four inputs: linear, and ``bent`` times an absolute value."""
    rng = np.random.default_rng(seed)
    made = Rows()
    for part in np.split(rng.normal(size=(count, 4)).astype(np.float32), 4):
        linear = part @ np.array([[1.0, 0.0], [0.0, 2.0], [0.5, 0.0], [0.0, 0.0]], np.float32)
        noise = 0.1 * rng.normal(size=linear.shape)
        made.add(part, (linear + bent * np.abs(part[:, 2:]) + noise).astype(np.float64))
    return made


MAP = np.array([[1.0, 0.0], [0.0, 2.0], [0.5, 0.0], [0.0, 0.0], [0.8, 0.8]])
"""The linear part, and a constant."""


def test_what_is_bent_is_learned() -> None:
    layer, explained = beside_linear(MAP, rows(4000, 1.0, 0), rows(800, 1.0, 1), 16, seed=0)
    _, left_SK = rows(800, 1.0, 1).without(MAP)
    total_K = rows(800, 1.0, 1).variance
    assert explained > 0.98 > float((1 - np.square(left_SK).mean(axis=0) / total_K).mean())
    assert (layer.maps_MC.shape, layer.offsets_M.shape, layer.onto_KM.shape) == ((16, 4), (16,), (2, 16))
    again, _ = beside_linear(MAP, rows(4000, 1.0, 0), rows(800, 1.0, 1), 16, seed=0)
    assert np.array_equal(layer.onto_KM, again.onto_KM)


def test_where_it_does_not_help_it_adds_nothing() -> None:
    rng = np.random.default_rng(0)
    noise, held_out = Rows(), Rows()
    for made, count in ((noise, 60), (held_out, 400)):
        made.add(rng.normal(size=(count, 4)).astype(np.float32), rng.normal(size=(count, 2)))
    layer, explained = beside_linear(np.zeros((5, 2)), noise, held_out, 64, seed=0)
    assert not layer.onto_KM.any()
    assert abs(explained) < 0.05
