"""Write a small GGUF file from a transformers model, as the usual converters do, in any tensor type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers

LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GEMMA_NAMES = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
# Scales that give random codes values of about 0.1: (byte offset in the block, value).
K_SCALES = {
    "Q4_K": [(0, 4e-4), (2, 3e-3)],
    "Q5_K": [(0, 2e-4), (2, 3e-3)],
    "Q6_K": [(208, 5e-5)],
}


SMALL: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


def tiny_llama(**changes: Any) -> transformers.PreTrainedModel:
    """A random Llama of 40 tokens and one layer."""
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL | changes))


def encode(values: np.ndarray, kind: str, seed: int) -> np.ndarray:
    """The bytes (rows, row bytes) that hold ``values``; K types, which gguf cannot quantize, get random blocks."""
    qtype = gguf.GGMLQuantizationType[kind]
    if kind not in K_SCALES:
        return gguf.quants.quantize(np.ascontiguousarray(values, dtype=np.float32), qtype).view(np.uint8)
    block, size = gguf.GGML_QUANT_SIZES[qtype]
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (values.size // block, size), dtype=np.uint8)
    for at, scale in K_SCALES[kind]:
        raw[:, at : at + 2] = (scale * rng.uniform(0.5, 1.5, (len(raw), 1))).astype(np.float16).view(np.uint8)
    return raw.reshape(values.shape[0], -1)


def decode(raw: np.ndarray, kind: str) -> np.ndarray:
    return gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind]).astype(np.float32)


def pair_rows(values: np.ndarray, heads: int) -> np.ndarray:
    """The order of q and k rows in GGUF's Llama: component i beside component i + half."""
    return values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def unpair_rows(values: np.ndarray, heads: int) -> np.ndarray:
    return values.reshape(heads, -1, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def write_gguf(path: Path, model: transformers.PreTrainedModel, arch: str, kind: str, **extra: Any) -> None:
    """Write ``model`` to ``path`` and put into ``model`` the values that the file really holds."""
    config = model.config
    writer = gguf.GGUFWriter(path, arch)
    add_settings(writer, config, arch, extra)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    with torch.no_grad():
        for index, (name, parameter) in enumerate(model.named_parameters()):
            values = parameter.detach().numpy().copy()
            paired = next((n for part, n in heads.items() if part in name and arch == "llama"), None)
            if paired is not None:
                values = pair_rows(values, paired)
            if values.ndim == 1:
                writer.add_tensor(gguf_name(name, arch), values + float(arch == "gemma3"))
                continue
            raw = encode(values, kind, index)
            writer.add_tensor(gguf_name(name, arch), raw, raw_dtype=gguf.GGMLQuantizationType[kind])
            held = decode(raw, kind)
            parameter.copy_(torch.from_numpy(held if paired is None else unpair_rows(held, paired)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str, arch: str) -> str:
    top = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in top:
        return top[name]
    _, _, layer, *part, leaf = name.split(".")
    names = LAYER_NAMES | (GEMMA_NAMES if arch == "gemma3" else {})
    return f"blk.{layer}.{names['.'.join(part)]}.{leaf}"


def add_settings(writer: gguf.GGUFWriter, config: Any, arch: str, extra: dict[str, Any]) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    rope = config.rope_parameters
    writer.add_rope_freq_base(float(rope.get("full_attention", rope)["rope_theta"]))
    if arch == "gemma3":
        writer.add_sliding_window(config.sliding_window)
    for key, value in extra.items():
        (writer.add_float32 if isinstance(value, float) else writer.add_string)(f"{arch}.{key}", value)
    letters = [f"t{index}" for index in range(config.vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(letters)
    writer.add_token_types([1] * len(letters))
    writer.add_token_merges([])
    writer.add_eos_token_id(1)


def write_parts(whole: Path, target: Path) -> list[Path]:
    """Split a file as the format's own package does."""
    reader = gguf.GGUFReader(whole)
    writer = gguf.GGUFWriter(target, "llama", split_max_tensors=5)
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            kind = field.types[0]
            sub = field.types[1] if kind == gguf.GGUFValueType.ARRAY and len(field.types) > 1 else None
            value = field.contents()
            if value != []:
                writer.add_key_value(key, value, kind, sub)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(target.parent.glob(f"{target.stem}-*.gguf"))
