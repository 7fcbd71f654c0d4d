"""The two real models, pulled on demand into the user's own store."""

from __future__ import annotations

from functools import cache

import gguf
import numpy as np
import torch

from kvloom.model.files.manifest import Manifest
from kvloom.model.files.store import pull


@cache
def manifest_of(name: str) -> Manifest:
    return pull(name)


def dequantized(manifest: Manifest, name: str) -> torch.Tensor:
    """A tensor by canonical name, as the reference library reads it."""
    entry = manifest.tensors[name]
    raw = np.memmap(manifest.weight_path(entry.file), mode="r", offset=entry.offset, shape=entry.nbytes)
    kind = gguf.GGMLQuantizationType[entry.kind]
    values = gguf.quants.dequantize(np.array(raw).reshape(entry.shape[0], -1), kind)
    return torch.from_numpy(np.asarray(values, dtype=np.float32)).reshape(entry.shape)
