"""A model's shape, in one form for every family and file format. Plain data: no tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Every frequency divided by ``factor``."""

    factor: float
    kind: Literal["linear"] = "linear"


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Long wavelengths divided by ``factor``, short ones kept, a ramp between. Source: Llama 3.1's reference code."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int
    kind: Literal["llama3"] = "llama3"


@dataclass(frozen=True, slots=True)
class DivisorScaling:
    """Frequency i divided by ``divisors[i]``: the form in which GGUF stores Llama 3's scaling."""

    divisors: tuple[float, ...]
    kind: Literal["divisors"] = "divisors"


Scaling = LinearScaling | Llama3Scaling | DivisorScaling


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary embedding over the first ``dim`` components of a head, half-split."""

    dim: int
    base: float
    scaling: Scaling | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What a family needs to build a model.

    Parameters
    ----------
    windows:
        Per layer: None for full attention, else how many positions a row sees, itself included.
    rope, rope_local:
        For full layers; for window layers (None: the same).
    interleaved_qk:
        The rows of q and k lie in pairs, as GGUF writes Llama; loading brings them to the half-split order.
    norm_offset:
        Added to every stored norm weight (1.0 for Gemma's safetensors).
    """

    family: str
    width: int
    num_layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_width: int
    vocab_size: int
    context_length: int
    norm_eps: float
    windows: tuple[int | None, ...]
    rope: RopeSpec
    rope_local: RopeSpec | None = None
    attn_scale: float
    embed_scale: float = 1.0
    interleaved_qk: bool = False
    norm_offset: float = 0.0
