"""A hidden layer beside a linear map, for what that leaves unexplained: its units count for what they are above zero.

Legend: K outputs, M hidden units, C inputs, S rows; X is C and a constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kvloom.policy.compression.base import Floats

if TYPE_CHECKING:
    import torch

_STEPS, _BATCH = 1000, 1024
_RATE, _DECAY = 3e-3, 1.0


@dataclass(slots=True, eq=False)
class Rows:
    """Inputs, and what is to be said of them, a text at a time."""

    _x: list[npt.NDArray[np.float16]] = field(default_factory=list)
    _y: list[Floats] = field(default_factory=list)

    def add(self, x_SC: Floats, y_SK: npt.NDArray[np.float64]) -> None:
        self._x.append(x_SC.astype(np.float16))
        self._y.append(y_SK.astype(np.float32))

    def without(self, map_XK: npt.NDArray[np.float64]) -> tuple[Floats, Floats]:
        """(x_SC, what a linear map leaves of y_SK)."""
        x_SC = np.concatenate(self._x).astype(np.float32)
        linear_SK = x_SC @ map_XK[:-1].astype(np.float32) + map_XK[-1].astype(np.float32)
        return x_SC, np.concatenate(self._y) - linear_SK

    @property
    def variance(self) -> Floats:
        """(K,)"""
        variance_K: Floats = np.concatenate(self._y).var(axis=0)
        return variance_K


@dataclass(frozen=True, slots=True, eq=False)
class HiddenLayer:
    """``maps_MC``, ``offsets_M``: of its units. ``onto_KM``: what each adds to the outputs."""

    maps_MC: Floats
    offsets_M: Floats
    onto_KM: Floats

    def of(self, x_SC: Floats) -> Floats:
        """(S, K)"""
        found_SK: Floats = np.maximum(x_SC @ self.maps_MC.T + self.offsets_M, 0) @ self.onto_KM.T
        return found_SK


def beside_linear(
    map_XK: npt.NDArray[np.float64], rows: Rows, held_out: Rows, units: int, seed: int
) -> tuple[HiddenLayer, float]:
    """The layer, and how much of the variance of rows held out it explains with the linear map, the mean over outputs.

    If it does not help there, it adds nothing.
    """
    x_SC, left_SK = rows.without(map_XK)
    tested_SC, wanted_SK = held_out.without(map_XK)
    layer = _trained(x_SC, left_SK, units, seed)
    total_K = np.maximum(held_out.variance, 1e-12)
    with_it, without = (
        float((1 - np.square(wanted_SK - added).mean(axis=0) / total_K).mean())
        for added in (layer.of(tested_SC), np.zeros_like(wanted_SK))
    )
    if with_it > without:
        return layer, with_it
    return HiddenLayer(layer.maps_MC, layer.offsets_M, np.zeros_like(layer.onto_KM)), without


def _trained(x_SC: Floats, y_SK: Floats, units: int, seed: int) -> HiddenLayer:
    """By AdamW on squared errors, outputs over their deviation; the rate falls to zero along a cosine.

    On one thread: a step is too small for more.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _descended(torch.from_numpy(x_SC), y_SK, units, seed)
    finally:
        torch.set_num_threads(threads)


def _descended(x: torch.Tensor, y_SK: Floats, units: int, seed: int) -> HiddenLayer:
    import torch

    order = torch.Generator().manual_seed(seed)
    scale_K = np.maximum(y_SK.std(axis=0), 1e-6)
    y = torch.from_numpy(y_SK / scale_K)
    maps = (torch.randn(units, x.shape[1], generator=order) * x.shape[1] ** -0.5).requires_grad_()
    offsets = torch.zeros(units, requires_grad=True)
    onto = (torch.randn(y.shape[1], units, generator=order) * 0.1 * units**-0.5).requires_grad_()
    weights: Sequence[torch.Tensor] = (maps, offsets, onto)
    optimizer = torch.optim.AdamW(weights, lr=_RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    for _ in range(_STEPS):
        batch = torch.randint(len(x), (min(_BATCH, len(x)),), generator=order)
        said = torch.relu(x[batch] @ maps.T + offsets) @ onto.T
        optimizer.zero_grad()
        torch.autograd.backward(torch.nn.functional.mse_loss(said, y[batch]))
        optimizer.step()
        schedule.step()
    onto_KM = onto.detach().numpy() * scale_K[:, None]
    return HiddenLayer(maps.detach().numpy(), offsets.detach().numpy(), onto_KM.astype(np.float32))
