"""A transformers model with the very weights of a GGUF file, dequantized to float32 by the gguf library.

``python -m bench.peers.dequantized GGUF DIRECTORY`` saves it as transformers does, for engines that read no GGUF.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

Values = np.ndarray[Any, np.dtype[np.float32]]

_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NORMS = {
    "llama": {"ffn_norm": "post_attention_layernorm"},
    "gemma3": {
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
}
_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_GEMMA_PATTERN = 6
"""Every so many layers one sees everything: GGUF files of Gemma 3 do not say."""


def model_from_gguf(path: Path) -> Any:
    """A causal language model in eval mode, float32: Llama or Gemma 3, by what the file says it is."""
    import gguf
    from transformers import Gemma3ForCausalLM, LlamaForCausalLM

    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items() if "tokenizer" not in name}
    family = fields["general.architecture"]
    if family not in _NORMS:
        raise ValueError(f"{path} is a {family} model; there are {', '.join(_NORMS)}")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    config = _CONFIGS[family]({name.removeprefix(family + "."): value for name, value in fields.items()}, tensors)
    state = dict(_state(family, tensors, config))
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    with torch.device("meta"):
        model = (LlamaForCausalLM if family == "llama" else Gemma3ForCausalLM)(config)
    model.load_state_dict(state, assign=True, strict=True)
    model.tie_weights()
    _remake_tables(model, config)
    model.train(False)
    return model.requires_grad_(False)


def _remake_tables(model: Any, config: Any) -> None:
    """Tables and scales are no weights: the meta device left them out."""
    inner = model.model
    inner.rotary_emb = type(inner.rotary_emb)(config)
    scale = getattr(inner.embed_tokens, "embed_scale", None)
    if scale is not None:
        inner.embed_tokens.embed_scale = torch.tensor(inner.embed_tokens.scalar_embed_scale)


def _state(family: str, tensors: dict[str, Any], config: Any) -> Iterator[tuple[str, torch.Tensor]]:
    import gguf

    for name, tensor in tensors.items():
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if family == "llama" and ".attn_q." in name:
            values = _half_split(values, config.num_attention_heads)
        elif family == "llama" and ".attn_k." in name:
            values = _half_split(values, config.num_key_value_heads)
        elif family == "gemma3" and "norm" in name:
            values = values - np.float32(1)  # GGUF stores what is multiplied by, transformers one less
        yield _hf_name(family, name), torch.from_numpy(np.ascontiguousarray(values))


def _llama_config(settings: dict[str, Any], tensors: dict[str, Any]) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        **_shared_settings(settings, tensors),
        rope_parameters={"rope_type": "default", "rope_theta": settings["rope.freq_base"]},
    )


def _gemma3_config(settings: dict[str, Any], tensors: dict[str, Any]) -> Any:
    from transformers import Gemma3TextConfig

    layers = settings["block_count"]
    return Gemma3TextConfig(
        **_shared_settings(settings, tensors),
        head_dim=settings["attention.key_length"],
        query_pre_attn_scalar=settings["attention.key_length"],
        sliding_window=settings["attention.sliding_window"],
        layer_types=["sliding_attention" if (n + 1) % _GEMMA_PATTERN else "full_attention" for n in range(layers)],
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": settings["rope.freq_base"]},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
    )


_CONFIGS = {"llama": _llama_config, "gemma3": _gemma3_config}


def _shared_settings(settings: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    return {
        "vocab_size": int(tensors["token_embd.weight"].shape[1]),
        "hidden_size": settings["embedding_length"],
        "intermediate_size": settings["feed_forward_length"],
        "num_hidden_layers": settings["block_count"],
        "num_attention_heads": settings["attention.head_count"],
        "num_key_value_heads": settings["attention.head_count_kv"],
        "max_position_embeddings": settings["context_length"],
        "rms_norm_eps": settings["attention.layer_norm_rms_epsilon"],
        "tie_word_embeddings": "output.weight" not in tensors,
    }


def _hf_name(family: str, name: str) -> str:
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{(_NAMES | _NORMS[family])[parts[2]]}.{parts[3]}"
    return f"{_TOP[parts[0]]}.{parts[1]}"


def _half_split(rows: Values, heads: int) -> Values:
    """Undo GGUF's interleaving of the rotary pairs: per head, from (pair, member) to (member, pair)."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, half, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def main() -> int:
    gguf_file, directory = map(Path, sys.argv[1:])
    model_from_gguf(gguf_file).save_pretrained(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
