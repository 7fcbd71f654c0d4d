"""How a model's makers recommend to sample it: generation_config.json, or general.sampling in a GGUF."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kvloom.errors import ModelFileError

Recommended = dict[str, float | int]
"""Values by their names in SamplingParams."""


@dataclass(frozen=True, slots=True)
class _Range:
    """What a value may be; ``open``: above ``low``, not equal."""

    low: float
    high: float = math.inf
    whole: bool = False
    open: bool = False

    def holds(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        above = value > self.low if self.open else value >= self.low
        return math.isfinite(value) and above and value <= self.high

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        if math.isinf(self.high):
            return f"{kind}, at least {self.low:g}"
        between = f"above {self.low:g} and at most" if self.open else f"from {self.low:g} to"
        return f"{kind} {between} {self.high:g}"


_RANGES = {
    "temperature": _Range(0, 100),
    "top_k": _Range(-1, whole=True),
    "top_p": _Range(0, 1, open=True),
    "min_p": _Range(0, 1),
    "repetition_penalty": _Range(0.01, 100),
    "max_tokens": _Range(1, whole=True),
}
_HF_NAMES = {name: name for name in _RANGES if name != "max_tokens"} | {"max_new_tokens": "max_tokens"}
_GGUF = "general.sampling."
_GGUF_NAMES = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}


def hf_recommended(values: Mapping[str, Any], where: str) -> Recommended:
    """Read a generation_config.json. ``do_sample`` is ignored, as in vLLM. Raises ModelFileError."""
    return _checked({name: values.get(name) for name in _HF_NAMES}, _HF_NAMES, where)


def gguf_recommended(metadata: Mapping[str, Any], where: str) -> Recommended:
    """Read the ``general.sampling.*`` that kvloom supports. Raises ModelFileError."""
    found = {_GGUF + name: metadata.get(_GGUF + name) for name in _GGUF_NAMES}
    if metadata.get(f"{_GGUF}penalty_last_n") == 0:  # the penalty applies to no token
        del found[f"{_GGUF}penalty_repeat"]
    return _checked(found, {_GGUF + name: ours for name, ours in _GGUF_NAMES.items()}, where)


def _checked(found: Mapping[str, Any], names: Mapping[str, str], where: str) -> Recommended:
    told = {name: value for name, value in found.items() if value is not None}
    for name, value in told.items():
        allowed = _RANGES[names[name]]
        if not allowed.holds(value):
            raise ModelFileError(
                f"{where}: `{name}` should be {allowed}, not {value!r}", hint="fix or delete the entry"
            )
    return {names[name]: value for name, value in told.items()}
