"""Linear maps from hidden states to the logarithm of KVzip's scores, learned beforehand: one per layer and KV head.

A prediction is an integer sum: hidden states are divided by their root mean square and rounded to ``1 / STEPS``, and
maps are stored as 16-bit integers. Thus it has the same bits whatever rows are computed with it.

On disk a predictor is a NumPy archive (``.npz``):

    about    JSON: "format", "version", "weights" (id), "model" (its name), "learned" (from what, how well)
    layers   [L] indices of the layers that own KV, ascending
    maps     [L][K][C] int16
    steps    [L][K] float32: of one unit of a map; offsets [L][K] float32

Legend: L layers, K KV heads, C width of the model, R rows.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kvloom.errors import DataFileError, ParamsError
from kvloom.policy.compression.base import Floats

FORMAT, VERSION = "kvloom-kvzap", 1
STEPS = 1024.0
"""Steps per root mean square. A hidden state has at most sqrt(C) of these, so that sums stay exact in float64."""

SHIPPED = Path(__file__).parent / "learned"
_MOST, _EPSILON = 32767, 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Predictor:
    """``weights``: id of the model's weights. ``learned``: from what, and how well, for people."""

    weights: str
    model: str
    layers: tuple[int, ...]
    maps_LKC: npt.NDArray[np.int16]
    steps_LK: Floats
    offsets_LK: Floats
    learned: Mapping[str, Any]

    @staticmethod
    def of(
        weights: str,
        model: str,
        layers: tuple[int, ...],
        maps_LKC: npt.NDArray[np.float64],
        offsets_LK: Floats,
        learned: Mapping[str, Any],
    ) -> Predictor:
        """``maps_LKC`` is meant for hidden states over their root mean square."""
        steps_LK = np.maximum(np.abs(maps_LKC).max(axis=-1) / _MOST, np.finfo(np.float32).tiny).astype(np.float32)
        rounded_LKC = np.rint(maps_LKC / steps_LK[..., None]).clip(-_MOST, _MOST).astype(np.int16)
        return Predictor(weights, model, layers, rounded_LKC, steps_LK, offsets_LK, learned)

    def digest(self, layer: int, x_RC: Floats) -> Floats:
        """(R, K): logarithms of scores."""
        place = self.layers.index(layer)
        sums_RK = normed(x_RC) @ self.maps_LKC[place].T.astype(np.float64)  # of integers: exact
        logs_RK: Floats = (sums_RK * (self.steps_LK[place] / STEPS) + self.offsets_LK[place]).astype(np.float32)
        return logs_RK


def normed(x_RC: Floats) -> npt.NDArray[np.float64]:
    """Hidden states over their root mean square, as whole numbers of ``1 / STEPS``."""
    square_R1 = np.square(x_RC, dtype=np.float64).mean(axis=1, keepdims=True)
    whole_RC: npt.NDArray[np.float64] = np.rint(x_RC * (STEPS / np.sqrt(square_R1 + _EPSILON)))
    return whole_RC


def write_predictor(predictor: Predictor, path: Path) -> None:
    about = {"format": FORMAT, "version": VERSION, "weights": predictor.weights, "model": predictor.model}
    arrays: dict[str, Any] = {
        "about": np.array(json.dumps({**about, "learned": dict(predictor.learned)})),
        "layers": np.array(predictor.layers, np.int64),
        "maps": predictor.maps_LKC,
        "steps": predictor.steps_LK,
        "offsets": predictor.offsets_LK,
    }
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_predictor(path: Path) -> Predictor:
    """Raises DataFileError when it is none."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            if about["format"] != FORMAT or about["version"] != VERSION:
                raise ValueError(f"is of format {about['format']!r}, version {about['version']!r}")
            found = Predictor(
                weights=str(about["weights"]),
                model=str(about["model"]),
                layers=tuple(int(layer) for layer in file["layers"]),
                maps_LKC=file["maps"].astype(np.int16, casting="safe"),
                steps_LK=file["steps"].astype(np.float32, casting="safe"),
                offsets_LK=file["offsets"].astype(np.float32, casting="safe"),
                learned=about["learned"],
            )
    except OSError as error:
        raise DataFileError(f"cannot be read: {error.strerror or error}", path=path) from error
    except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataFileError(f"is no predictor: {error}", path=path) from error
    heads = (len(found.layers), found.maps_LKC.shape[1] if found.maps_LKC.ndim == 3 else -1)
    if not (found.maps_LKC.shape[:2] == found.steps_LK.shape == found.offsets_LK.shape == heads):
        raise DataFileError("is no predictor: its arrays do not fit each other", path=path)
    return found


@cache
def shipped() -> Mapping[str, Predictor]:
    """Those that ship with kvloom, by the id of the weights."""
    return {each.weights: each for each in map(read_predictor, sorted(SHIPPED.glob("kvzap-*.npz")))}


def predictor_for(weights: str, path: Path | None) -> Predictor:
    """The one of the file, or the one that ships for a model.

    Raises ParamsError when it is for another model, or when none ships.
    """
    found = shipped().get(weights) if path is None else read_predictor(path)
    if found is None:
        names = ", ".join(sorted(each.model for each in shipped().values())) or "none"
        raise ParamsError(
            f"no predictor of KVzip's scores ships for this model; there are some for {names}",
            hint="make one: kvloom profile kvzip MODEL --output FILE, and name it: predictor=FILE",
            param="predictor",
        )
    if found.weights != weights:
        raise ParamsError(
            f"the predictor is for `{found.model}` with weights {found.weights[:12]}, the model has {weights[:12]}",
            hint="kvloom profile kvzip MODEL --output FILE makes one; weights and --activations must be the same",
            param="predictor",
        )
    return found
