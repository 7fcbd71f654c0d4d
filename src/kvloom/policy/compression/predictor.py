"""What predicts the logarithm of KVzip's scores from hidden states, learned beforehand: by layer, for all KV heads.

It is a linear map, and beside it, if there is any, a hidden layer of M units of which what is above zero counts. Both
are meant for hidden states over their root mean square.

On disk a predictor is a NumPy archive (``.npz``):

    about    JSON: "format", "version", "weights" (id), "model" (its name), "learned" (from what, how well)
    layers   [L] indices of the layers that own KV, ascending
    maps     [L][K + M][C] float16: to the KV heads, then to the hidden units
    offsets  [L][K + M] float32
    onto     [L][K][M] float16: from the hidden units to the KV heads

Legend: L layers, K KV heads, M hidden units, N = K + M, C width of the model.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kvloom.errors import DataFileError, ParamsError
from kvloom.policy.compression.base import Floats
from kvloom.policy.compression.needs import LearnedMaps
from kvloom.policy.learned_files import shipped_files

FORMAT, VERSION = "kvloom-kvzap", 2
FILES = "kvzap-*.npz"
"""Of those that ship."""


@dataclass(frozen=True, eq=False)
class Predictor:
    """``weights``: id of the model's weights. ``learned``: from what, and how well, for people."""

    weights: str
    model: str
    layers: tuple[int, ...]
    maps_LNC: npt.NDArray[np.float16]
    offsets_LN: Floats
    onto_LKM: npt.NDArray[np.float16]
    learned: Mapping[str, Any]

    @cached_property
    def by_layer(self) -> LearnedMaps:
        maps = {layer: map_NC.astype(np.float32) for layer, map_NC in zip(self.layers, self.maps_LNC, strict=True)}
        onto = {layer: map_KM.astype(np.float32) for layer, map_KM in zip(self.layers, self.onto_LKM, strict=True)}
        offsets = dict(zip(self.layers, self.offsets_LN, strict=True))
        return LearnedMaps(maps, offsets, onto if self.onto_LKM.size else {})


def write_predictor(predictor: Predictor, path: Path) -> None:
    about = {"format": FORMAT, "version": VERSION, "weights": predictor.weights, "model": predictor.model}
    arrays: dict[str, Any] = {
        "about": np.array(json.dumps({**about, "learned": dict(predictor.learned)})),
        "layers": np.array(predictor.layers, np.int64),
        "maps": predictor.maps_LNC,
        "offsets": predictor.offsets_LN,
        "onto": predictor.onto_LKM,
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
                maps_LNC=file["maps"].astype(np.float16, casting="safe"),
                offsets_LN=file["offsets"].astype(np.float32, casting="safe"),
                onto_LKM=file["onto"].astype(np.float16, casting="safe"),
                learned=about["learned"],
            )
    except OSError as error:
        raise DataFileError(f"cannot be read: {error.strerror or error}", path=path) from error
    except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataFileError(f"is no predictor: {error}", path=path) from error
    if found.maps_LNC.ndim != 3 or found.onto_LKM.ndim != 3:
        raise DataFileError("is no predictor: its arrays have other dimensions", path=path)
    outputs = len(found.layers), sum(found.onto_LKM.shape[1:])
    if not (found.maps_LNC.shape[:2] == found.offsets_LN.shape == outputs):
        raise DataFileError("is no predictor: its arrays do not fit each other", path=path)
    return found


@cache
def shipped() -> Mapping[str, Predictor]:
    """Those that ship with kvloom, by the id of the weights."""
    return {each.weights: each for each in map(read_predictor, shipped_files(FILES))}


def predictor_for(weights: str, named: Predictor | None) -> Predictor:
    """The one that is named, or the one that ships for a model.

    Raises ParamsError when it is for another model, or when none ships.
    """
    found = named or shipped().get(weights)
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
