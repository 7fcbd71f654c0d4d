"""Typed access to a model file's own settings, with errors that name the missing or odd key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kvloom.errors import ModelFileError, UnsupportedModel
from kvloom.model.spec import LinearScaling, Llama3Scaling, RopeSpec, Scaling

_MOST = 1 << 28


@dataclass(frozen=True, slots=True)
class Keys:
    """Settings of one model. ``origin`` names the file, ``prefix`` stands before every key (GGUF's architecture)."""

    values: Mapping[str, Any]
    origin: str
    prefix: str = ""

    def get(self, key: str, default: Any = None) -> Any:
        value = self.values.get(self.prefix + key)
        return default if value is None else value

    def need(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise ModelFileError(f"`{self.origin}` does not say `{self.prefix}{key}`")
        return value

    def size(self, key: str, default: int | None = None, most: int = _MOST) -> int:
        """A whole number from 1 to ``most``: a corrupt file must not make us reserve the earth."""
        value = self.need(key) if default is None else self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise ModelFileError(
                f"`{self.origin}`: `{self.prefix}{key}` should be a number from 1 to {most}, not {value!r}"
            )
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number > 0."""
        value = self.need(key) if default is None else self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ModelFileError(f"`{self.origin}`: `{self.prefix}{key}` should be a positive number, not {value!r}")
        return float(value)

    def refuse(self, key: str, harmless: tuple[Any, ...] = (None, False)) -> None:
        """Raise UnsupportedModel when a feature that kvloom lacks is switched on."""
        value = self.get(key)
        if value not in harmless:
            raise UnsupportedModel(f"`{self.origin}` sets `{self.prefix}{key}` to {value!r}, which kvloom does not run")


def gguf_rope(keys: Keys, head_dim: int, base: float) -> RopeSpec:
    """RoPE of a GGUF model, Llama 3's divisors excepted: they are a tensor."""
    kind = keys.get("rope.scaling.type", "none")
    if kind not in ("none", "linear"):
        raise UnsupportedModel(f"`{keys.origin}` uses RoPE scaling `{kind}`; kvloom runs none, linear and llama3")
    scaling = LinearScaling(keys.number("rope.scaling.factor")) if kind == "linear" else None
    return RopeSpec(keys.size("rope.dimension_count", head_dim), keys.number("rope.freq_base", base), scaling)


def hf_rope(keys: Keys, head_dim: int, base: float, layer_type: str | None = None) -> RopeSpec:
    """RoPE of a config.json, in the old form (rope_theta, rope_scaling) or the new one (rope_parameters)."""
    fields = keys.get("rope_parameters") or {}
    if layer_type is not None and layer_type in fields:
        fields = fields[layer_type] or {}
    elif layer_type != "sliding_attention":  # the old form's scaling is for the full layers
        fields = {**fields, **(keys.get("rope_scaling") or {})}
    theta_key = "rope_local_base_freq" if layer_type == "sliding_attention" else "rope_theta"
    rope = Keys(fields, f"{keys.origin}, RoPE")
    rope.refuse("partial_rotary_factor", (None, 1, 1.0))
    return RopeSpec(head_dim, rope.number("rope_theta", keys.number(theta_key, base)), _hf_scaling(rope))


def _hf_scaling(rope: Keys) -> Scaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return LinearScaling(rope.number("factor"))
    if kind == "llama3":
        return Llama3Scaling(
            rope.number("factor"),
            rope.number("low_freq_factor"),
            rope.number("high_freq_factor"),
            rope.size("original_max_position_embeddings"),
        )
    raise UnsupportedModel(f"`{rope.origin}` uses scaling `{kind}`; kvloom runs default, linear and llama3")
