"""RoPE settings of model files. Every key under rope is either used or refused by name, never ignored."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from kvloom.errors import ModelFileError, UnsupportedModel
from kvloom.model.keys import Keys
from kvloom.model.spec import LinearScaling, Llama3Scaling, RopeSpec, Scaling

_GGUF_USED = frozenset(
    {
        "rope.dimension_count",
        "rope.freq_base",
        "rope.scaling.type",
        "rope.scaling.factor",
        "rope.scale_linear",
        "rope.scaling.attn_factor",
    }
)
_GGUF_REMARKS = frozenset({"rope.scaling.original_context_length", "rope.scaling.finetuned"})
"""Written by converters for scalings that extend the context; those we support do not need it."""

_HF_TOP_KEYS = frozenset({"rope_parameters", "rope_scaling", "rope_theta"})
_HF_PREFIXES = ("rope_", "rotary_", "partial_rotary", "no_rope", "use_rope", "use_mrope")
_HF_ALWAYS = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor"})
_HF_REMARKS = frozenset({"original_max_position_embeddings"})
_HF_OF_TYPE: dict[str, frozenset[str]] = {
    "default": _HF_REMARKS,
    "linear": _HF_REMARKS | {"factor"},
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}),
}
_NESTED = ("full_attention", "sliding_attention")


def gguf_rope(keys: Keys, head_dim: int, base: float, used_elsewhere: Collection[str] = ()) -> RopeSpec:
    """RoPE of a GGUF model, Llama 3's divisors excepted: they are a tensor.

    ``used_elsewhere``: keys that the family itself reads. Raises UnsupportedModel for others that we do not know.
    """
    known = {keys.prefix + key for key in _GGUF_USED | _GGUF_REMARKS | set(used_elsewhere)}
    for key in keys.values:
        if (key.startswith("rope.") or ".rope." in key) and key not in known:
            Keys(keys.values, keys.origin).refuse(key, (None,))
    keys.refuse("rope.scaling.attn_factor", (None, 1.0))
    return RopeSpec(
        keys.size("rope.dimension_count", head_dim), keys.number("rope.freq_base", base), _gguf_scaling(keys)
    )


def _gguf_scaling(keys: Keys) -> Scaling | None:
    """A factor without a type is linear, as in llama.cpp; ``rope.scale_linear`` is its old name."""
    kind = keys.text("rope.scaling.type", "linear")
    if kind not in ("none", "linear"):
        raise UnsupportedModel(f"`{keys.origin}` uses RoPE scaling `{kind}`; kvloom supports none, linear and llama3")
    said = {keys.number(key) for key in ("rope.scaling.factor", "rope.scale_linear") if keys.get(key) is not None}
    if kind == "none" and said - {1.0}:
        raise ModelFileError(f"`{keys.origin}` has RoPE scaling none, and a factor of {max(said)}")
    if len(said) > 1:
        raise ModelFileError(f"`{keys.origin}` has two RoPE factors: {min(said)} and {max(said)}")
    if not said and keys.get("rope.scaling.type") == "linear":
        keys.need("rope.scaling.factor")
    factor = max(said, default=1.0)
    return None if factor == 1.0 else LinearScaling(factor)


def hf_rope(keys: Keys, head_dim: int, base: float) -> RopeSpec:
    """RoPE of a config.json, in the old form (rope_theta, rope_scaling), the new one (rope_parameters) or both."""
    _refuse_unknown_top(keys, _HF_TOP_KEYS)
    fields = _merged(keys, _fields(keys, "rope_parameters"), _fields(keys, "rope_scaling"))
    return _hf_spec(keys, fields, head_dim, keys.number("rope_theta", base))


def hf_ropes_by_layer(keys: Keys, head_dim: int, base: float, local_base: float) -> tuple[RopeSpec, RopeSpec]:
    """Of the full layers and of the window layers. The old form's scaling is for the full ones."""
    _refuse_unknown_top(keys, _HF_TOP_KEYS | {"rope_local_base_freq"})
    nested = Keys(_fields(keys, "rope_parameters"), f"{keys.origin}, rope_parameters")
    for key in nested.values:
        if key not in _NESTED:
            nested.refuse(key, (None,))
    full, local = (_fields(nested, kind) for kind in _NESTED)
    full = _merged(keys, full, _fields(keys, "rope_scaling"))
    return (
        _hf_spec(keys, full, head_dim, keys.number("rope_theta", base)),
        _hf_spec(keys, local, head_dim, keys.number("rope_local_base_freq", local_base)),
    )


def _refuse_unknown_top(keys: Keys, known: Collection[str]) -> None:
    for key in keys.values:
        if key.startswith(_HF_PREFIXES) and key not in known:
            keys.refuse(key, (None, False, 1.0) if key == "partial_rotary_factor" else (None, False))


def _fields(keys: Keys, key: str) -> dict[str, Any]:
    section = keys.section(key)
    return {} if section is None else dict(section.values)


def _merged(keys: Keys, new: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """``rope_parameters`` and ``rope_scaling`` of one file: they may complete, never contradict each other."""
    for key in new.keys() & old.keys():
        if new[key] != old[key]:
            raise ModelFileError(f"`{keys.origin}`: rope_parameters and rope_scaling differ in `{key}`")
    return {**new, **old}


def _hf_spec(keys: Keys, fields: dict[str, Any], head_dim: int, base: float) -> RopeSpec:
    rope = Keys(fields, f"{keys.origin}, RoPE")
    rope.refuse("partial_rotary_factor", (None, 1, 1.0))
    return RopeSpec(head_dim, rope.number("rope_theta", base), _hf_scaling(rope, keys))


def _hf_scaling(rope: Keys, keys: Keys) -> Scaling | None:
    kind = rope.text("rope_type", rope.text("type", "default"))
    if kind not in _HF_OF_TYPE or rope.get("type", kind) != kind:
        other = f"{kind}` and `{rope.get('type')}" if kind in _HF_OF_TYPE else kind
        raise UnsupportedModel(f"`{rope.origin}` uses scaling `{other}`; kvloom supports default, linear and llama3")
    for key in rope.values:
        if key not in _HF_ALWAYS | _HF_OF_TYPE[kind]:
            rope.refuse(key, (None, False, 1.0) if key == "factor" else (None, False))
    if kind == "default":
        return None
    if kind == "linear":
        return LinearScaling(rope.number("factor"))
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if low >= high:
        raise ModelFileError(f"`{rope.origin}`: low_freq_factor {low} should be less than high_freq_factor {high}")
    context = rope.size("original_max_position_embeddings", keys.size("max_position_embeddings"))
    return Llama3Scaling(rope.number("factor"), low, high, context)
