"""The two ends that every method lies between: all entries alike, and none of them or all of them go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kvloom.policy.compression.base import Floats, LayerContext
from kvloom.policy.compression.needs import Need


@dataclass(frozen=True, slots=True)
class _Alike:
    needs: ClassVar[frozenset[Need]] = frozenset()

    def scores(self, context: LayerContext) -> Floats:
        return np.zeros(context.shape, np.float32)


@dataclass(frozen=True, slots=True)
class KeepAll(_Alike):
    """With ratio 0. Everything moves and nothing goes: what differs from exact KV is the noise floor of all methods."""

    name: ClassVar[str] = "keep_all"


@dataclass(frozen=True, slots=True)
class KeepNone(_Alike):
    """With ratio 1. Whatever is still answered did not need the context."""

    name: ClassVar[str] = "keep_none"
