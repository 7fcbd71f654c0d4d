"""GGUF files with random weights in the shapes of real models: ``python -m bench.random_models NAME...``.

Speed and memory depend on shapes and types, not on what the weights say. (What they say is nothing: with the embedding
as the head, a token mostly predicts itself.) Names are ``random-SHAPE-QUANTIZATION``, for
instance ``random-llama-3.2-1b-q4_k_m``. The tokenizer is SmolLM2's, its vocabulary filled up with tokens that no text
becomes. Files go to ``random/`` in kvloom's cache directory; they are written once, in pieces of a few MB, and a name
always gives the same bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from bench.cells import DENSE
from bench.harness import note
from bench.random_blocks import random_blocks
from bench.random_shapes import QUANTIZATIONS, SHAPES, Shape, TensorPlan, tensors
from kvloom.model.files.gguf_file import read_gguf
from kvloom.model.files.manifest import Manifest
from kvloom.model.files.store import home_dir, pull

_PIECE_BYTES = 2**23
_UNUSED_TOKEN = 5
_FILE_TYPES = {
    "Q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
    "Q4_K_M": gguf.LlamaFileType.MOSTLY_Q4_K_M,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}

NAMES = {
    f"random-{shape}-{quantization.lower()}": (shape, quantization)
    for shape in SHAPES
    for quantization in QUANTIZATIONS
}


def obtain(model: str) -> Manifest:
    """A model of a cell: written here if its name is one of ``NAMES``, else pulled."""
    if model not in NAMES:
        return pull(model)
    shape, quantization = NAMES[model]
    path = home_dir() / "random" / f"{model}.gguf"
    if not path.exists():
        note(f"writing {path}")
        write_random(path, SHAPES[shape], quantization, pull(DENSE).weight_path(0))
    return pull(str(path))


def write_random(path: Path, shape: Shape, quantization: str, tokenizer: Path, seed: int = 0) -> None:
    """Write a model with the tokenizer of another GGUF file. Raises ValueError if that has too many tokens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    plans = list(tensors(shape, quantization))
    writer = gguf.GGUFWriter(partial, shape.arch)
    _add_settings(writer, shape, quantization)
    _add_tokenizer(writer, read_gguf(tokenizer).metadata, shape.vocab_size)
    for plan in plans:
        kind = gguf.GGMLQuantizationType[plan.kind]
        writer.add_tensor_info(plan.name, plan.shape, np.dtype(np.float32), planned_bytes(plan), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    assert writer.fout is not None
    (out,) = writer.fout
    for number, plan in enumerate(plans):
        writer.write_padding(out, out.tell())
        _write_tensor(out, plan, np.random.default_rng([seed, number]))
    writer.write_padding(out, out.tell())
    writer.close()
    partial.replace(path)


def planned_bytes(plan: TensorPlan) -> int:
    """Of a tensor, in the file."""
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[plan.kind]]
    return int(np.prod(plan.shape)) // block * size


def _write_tensor(out: Any, plan: TensorPlan, rng: np.random.Generator) -> None:
    if plan.kind == "F32":
        out.write((plan.mean + plan.std * rng.standard_normal(plan.shape)).astype(np.float32).tobytes())
        return
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[plan.kind]][1]
    count, most = planned_bytes(plan) // size, _PIECE_BYTES // size
    for first in range(0, count, most):
        out.write(random_blocks(plan.kind, min(most, count - first), plan.std, rng).tobytes())


def _add_settings(writer: gguf.GGUFWriter, shape: Shape, quantization: str) -> None:
    writer.add_name(f"random weights, {shape.arch}")
    writer.add_file_type(_FILE_TYPES[quantization])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.ffn_width)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_vocab_size(shape.vocab_size)
    if shape.window is not None:
        writer.add_sliding_window(shape.window)


def _add_tokenizer(writer: gguf.GGUFWriter, metadata: dict[str, Any], vocab_size: int) -> None:
    tokens = list(metadata["tokenizer.ggml.tokens"])
    types = [int(kind) for kind in metadata["tokenizer.ggml.token_type"]]
    if len(tokens) > vocab_size:
        raise ValueError(f"a tokenizer of {len(tokens)} tokens for a vocabulary of {vocab_size}")
    more = range(len(tokens), vocab_size)
    writer.add_token_list([*tokens, *(f"[UNUSED{n}]" for n in more)])
    writer.add_token_types([*types, *(_UNUSED_TOKEN for _ in more)])
    writer.add_token_merges(metadata.get("tokenizer.ggml.merges", []))
    for key, value in metadata.items():
        if key.startswith("tokenizer.") and isinstance(value, bool):
            writer.add_bool(key, value)
        elif key.startswith("tokenizer.") and isinstance(value, int):
            writer.add_uint32(key, value)
        elif key.startswith("tokenizer.") and isinstance(value, str):
            writer.add_string(key, value)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.random_models", description="Write models of real shapes.")
    parser.add_argument("names", nargs="+", metavar="NAME", choices=list(NAMES), help=", ".join(NAMES))
    for name in parser.parse_args(arguments).names:
        print(obtain(name).weight_path(0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
