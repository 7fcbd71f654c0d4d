"""What holds where a request is silent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kvloom.engine.params import SamplingParams


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """What a model's makers recommend, by the names of SamplingParams."""

    values: Mapping[str, Any] = field(default_factory=dict)

    def params(
        self, asked: Mapping[str, Any] | None = None, otherwise: Mapping[str, Any] | None = None
    ) -> SamplingParams:
        """``asked`` wins over these values, these win over ``otherwise``. Raises ParamsError."""
        return SamplingParams(**{**(otherwise or {}), **self.values, **(asked or {})})
