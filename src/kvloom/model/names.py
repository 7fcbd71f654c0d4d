"""Canonical tensor names: one vocabulary for both file formats.

``embed``, ``norm``, ``head``, ``rope_divisors``, and per layer ``layers.7.q`` and so on. Biases end in ``_bias``.
"""

from __future__ import annotations

import re

_GGUF_TOP = {
    "token_embd.weight": "embed",
    "output_norm.weight": "norm",
    "output.weight": "head",
    "rope_freqs.weight": "rope_divisors",
}
_GGUF_LAYER = {
    "attn_norm": "attn_norm",
    "attn_q": "q",
    "attn_k": "k",
    "attn_v": "v",
    "attn_output": "o",
    "attn_q_norm": "q_norm",
    "attn_k_norm": "k_norm",
    "post_attention_norm": "post_attn_norm",
    "ffn_norm": "mlp_norm",
    "post_ffw_norm": "post_mlp_norm",
    "ffn_gate": "gate",
    "ffn_up": "up",
    "ffn_down": "down",
}
_HF_TOP = {"embed_tokens.weight": "embed", "norm.weight": "norm", "lm_head.weight": "head"}
_HF_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.o_proj": "o",
    "self_attn.q_norm": "q_norm",
    "self_attn.k_norm": "k_norm",
    "post_attention_layernorm": "mlp_norm",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "up",
    "mlp.down_proj": "down",
}
SANDWICH_NORMS = {
    "post_attention_layernorm": "post_attn_norm",
    "pre_feedforward_layernorm": "mlp_norm",
    "post_feedforward_layernorm": "post_mlp_norm",
}
"""Where Gemma's safetensors names differ: its second norm comes after attention, not before the MLP."""

_HF_PREFIX = re.compile(r"^(model\.)?(language_model\.)?(model\.)?")
_HF_IGNORED = ("vision_tower.", "multi_modal_projector.")


def gguf_name(name: str) -> str | None:
    """Canonical name of a GGUF tensor; None for one that no family knows."""
    if name in _GGUF_TOP:
        return _GGUF_TOP[name]
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    return _layer_name(match, _GGUF_LAYER)


def hf_name(name: str, layer_names: dict[str, str]) -> str | None:
    """Canonical name of a safetensors tensor, None for an unknown one; ``layer_names`` goes before the usual names."""
    rest = _HF_PREFIX.sub("", name)
    if rest in _HF_TOP:
        return _HF_TOP[rest]
    match = re.fullmatch(r"layers\.(\d+)\.([\w.]+)\.(weight|bias)", rest)
    return _layer_name(match, _HF_LAYER | layer_names)


def hf_ignored(name: str) -> bool:
    """Tensors that text generation does not use: vision parts, and RoPE frequencies that old files carry."""
    return any(part in name for part in _HF_IGNORED) or name.endswith("rotary_emb.inv_freq")


def _layer_name(match: re.Match[str] | None, table: dict[str, str]) -> str | None:
    if match is None or match[2] not in table:
        return None
    return f"layers.{match[1]}.{table[match[2]]}{'_bias' if match[3] == 'bias' else ''}"
