"""Gemma 3 (text): norms before and after each part, q/k norms, a window on five of six layers, two RoPE bases."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kvloom.arrays import Floats
from kvloom.model.family import Family
from kvloom.model.keys import Keys
from kvloom.model.layers import Attention, BlockParts, GatedMlp, Norm, Step, Tensors, attention, gated_mlp
from kvloom.model.names import SANDWICH_NORMS
from kvloom.model.ops import gelu_tanh_mul
from kvloom.model.rope import RopeTable
from kvloom.model.rope_settings import hf_ropes_by_layer
from kvloom.model.shapes import BASE_TENSORS, HF_DEFAULTS, QK_NORMS, checked, gguf_spec, hf_spec, with_windows
from kvloom.model.spec import ModelSpec, RopeSpec

_PATTERN = 6
_GLOBAL_BASE, _LOCAL_BASE = 1_000_000.0, 10_000.0
_LAYERS_OF_27B = 62
_HF_DEFAULTS = HF_DEFAULTS | {
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
    "query_pre_attn_scalar": 256,
}
"""As transformers' Gemma3TextConfig has them: published config.json files of the larger sizes leave them out."""


def _layer_types(num_layers: int, pattern: int) -> list[str]:
    return ["sliding_attention" if (layer + 1) % pattern else "full_attention" for layer in range(num_layers)]


def _from_gguf(keys: Keys, vocab_size: int) -> ModelSpec:
    spec = gguf_spec("gemma3", keys, vocab_size, ("rope.freq_base_swa",))
    keys.refuse("final_logit_softcapping", (None, 0.0))
    window = keys.size("attention.sliding_window")
    kinds = _layer_types(spec.num_layers, keys.size("attention.sliding_window_pattern", _PATTERN))
    # The file format has no field for the attention scale; the 27B size alone departs from 1/sqrt(head_dim).
    scale_dim = spec.width / spec.heads if spec.num_layers == _LAYERS_OF_27B else spec.head_dim
    spec = replace(
        spec,
        windows=tuple(window if kind == "sliding_attention" else None for kind in kinds),
        rope=replace(spec.rope, base=keys.number("rope.freq_base", _GLOBAL_BASE)),
        rope_local=RopeSpec(spec.rope.dim, keys.number("rope.freq_base_swa", _LOCAL_BASE)),
        attn_scale=scale_dim**-0.5,
        embed_scale=spec.width**0.5,
    )
    return checked(spec, keys.origin)


def _ropes(keys: Keys, head_dim: int) -> tuple[RopeSpec, RopeSpec]:
    return hf_ropes_by_layer(keys, head_dim, _GLOBAL_BASE, _LOCAL_BASE)


def _from_hf(keys: Keys) -> ModelSpec:
    keys = (keys.section("text_config") or keys).with_defaults(_HF_DEFAULTS)
    spec = hf_spec("gemma3", keys, _ropes)
    keys.refuse("hidden_activation", ("gelu_pytorch_tanh",))
    for feature in ("attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention"):
        keys.refuse(feature)
    kinds = keys.get("layer_types", _layer_types(spec.num_layers, keys.size("sliding_window_pattern", _PATTERN)))
    return replace(
        with_windows(spec, keys, kinds),
        attn_scale=keys.number("query_pre_attn_scalar") ** -0.5,
        embed_scale=spec.width**0.5,
        norm_offset=1.0,
    )


@dataclass(frozen=True, slots=True, eq=False)
class SandwichBlock:
    """x += norm(attention(norm(x))); x += norm(mlp(norm(x)))."""

    attn_norm: Norm
    attention: Attention
    post_attn_norm: Norm
    mlp_norm: Norm
    mlp: GatedMlp
    post_mlp_norm: Norm

    def __call__(self, x_TC: Floats, step: Step, layer: int) -> Floats:
        delta_TC = self.post_attn_norm(self.attention(self.attn_norm(x_TC), step, layer))
        x_TC += self.post_mlp_norm(self.mlp(self.mlp_norm.add(x_TC, delta_TC)))
        return x_TC

    def parts(self) -> BlockParts:
        return BlockParts(
            self.attn_norm, self.attention, self.mlp_norm, self.mlp, self.post_attn_norm, self.post_mlp_norm
        )


def _block(spec: ModelSpec, tensors: Tensors, layer: int, rope_table: RopeTable) -> SandwichBlock:
    at = f"layers.{layer}."
    return SandwichBlock(
        attn_norm=tensors.norm(f"{at}attn_norm"),
        attention=attention(spec, tensors, layer, rope_table),
        post_attn_norm=tensors.norm(f"{at}post_attn_norm"),
        mlp_norm=tensors.norm(f"{at}mlp_norm"),
        mlp=gated_mlp(tensors, layer, gelu_tanh_mul),
        post_mlp_norm=tensors.norm(f"{at}post_mlp_norm"),
    )


GEMMA3 = Family(
    name="gemma3",
    gguf_names=("gemma3",),
    hf_names=("gemma3_text", "gemma3"),
    required=BASE_TENSORS | QK_NORMS | {"post_attn_norm", "post_mlp_norm"},
    gguf_spec=_from_gguf,
    hf_spec=_from_hf,
    block=_block,
    tied_by_default=True,
    hf_tensor_names=SANDWICH_NORMS,
)
