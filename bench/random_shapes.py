"""The shapes of models that people run, and which tensors, of which types, a file of each has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

QUANTIZATIONS = ("Q4_0", "Q4_K_M", "Q8_0")
"""As llama.cpp names its mixes."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model. ``tied``: the head is the embedding. ``window``: of five layers in six."""

    arch: str
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_width: int
    vocab_size: int
    context: int
    rope_base: float
    tied: bool = True
    window: int | None = None


SHAPES = {
    "llama-3.2-1b": Shape("llama", 2048, 16, 32, 8, 64, 8192, 128256, 131072, 5e5),
    "llama-3.2-3b": Shape("llama", 3072, 28, 24, 8, 128, 8192, 128256, 131072, 5e5),
    "llama-3.1-8b": Shape("llama", 4096, 32, 32, 8, 128, 14336, 128256, 131072, 5e5, tied=False),
    "qwen2.5-1.5b": Shape("qwen2", 1536, 28, 12, 2, 128, 8960, 151936, 32768, 1e6),
    "qwen2.5-7b": Shape("qwen2", 3584, 28, 28, 4, 128, 18944, 152064, 32768, 1e6, tied=False),
    "gemma-3-4b": Shape("gemma3", 2560, 34, 8, 4, 256, 10240, 262144, 131072, 1e6, window=1024),
}


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """A tensor of a file. ``kind`` F32: a vector; values have the mean ``mean`` and the standard deviation ``std``."""

    name: str
    shape: tuple[int, ...]
    kind: str
    std: float
    mean: float = 0.0


def tensors(shape: Shape, quantization: str) -> Iterator[TensorPlan]:
    """All tensors, in a file's order.

    Matrices are scaled by what they read, so that normed rows stay of size 1; what is added to the residual stream is
    of the embedding's size over all layers together; logits have a standard deviation of 2.
    """
    embedded = 2 * shape.width**-0.5
    yield TensorPlan("token_embd.weight", _embedding(shape), _top_kind(quantization, shape.tied), embedded)
    for layer in range(shape.layers):
        yield from _layer(shape, layer, quantization, embedded * (2 * shape.layers) ** -0.5)
    yield TensorPlan("output_norm.weight", (shape.width,), "F32", 0.0, 1.0)
    if not shape.tied:
        yield TensorPlan("output.weight", _embedding(shape), _top_kind(quantization, True), embedded)


def _embedding(shape: Shape) -> tuple[int, int]:
    return shape.vocab_size, shape.width


def _top_kind(quantization: str, head: bool) -> str:
    """llama.cpp keeps the head in 6 bits, and so an embedding that is the head as well."""
    return {"Q4_0": "Q6_K" if head else "Q4_0", "Q4_K_M": "Q6_K" if head else "Q4_K", "Q8_0": "Q8_0"}[quantization]


def _layer(shape: Shape, layer: int, quantization: str, added: float) -> Iterator[TensorPlan]:
    width, q_rows, kv_rows = shape.width, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    usual = "Q4_K" if quantization == "Q4_K_M" else quantization
    better = "Q6_K" if quantization == "Q4_K_M" and _more_bits(layer, shape.layers) else usual

    def matrix(name: str, rows: int, cols: int, kind: str = usual, size: float = 1.0) -> TensorPlan:
        return TensorPlan(f"blk.{layer}.{name}.weight", (rows, cols), kind, size * cols**-0.5)

    def norm(name: str, size: int = width) -> TensorPlan:
        return TensorPlan(f"blk.{layer}.{name}.weight", (size,), "F32", 0.0, 1.0)

    yield from (norm("attn_norm"), matrix("attn_q", q_rows, width), matrix("attn_k", kv_rows, width))
    yield matrix("attn_v", kv_rows, width, better)
    if shape.arch == "qwen2":
        for name, rows in (("attn_q", q_rows), ("attn_k", kv_rows), ("attn_v", kv_rows)):
            yield TensorPlan(f"blk.{layer}.{name}.bias", (rows,), "F32", 0.1)
    if shape.arch == "gemma3":
        yield from (norm("attn_q_norm", shape.head_dim), norm("attn_k_norm", shape.head_dim))
        yield from (norm("post_attention_norm"), norm("post_ffw_norm"))
    yield from (matrix("attn_output", width, q_rows, size=added), norm("ffn_norm"))
    yield from (matrix("ffn_gate", shape.ffn_width, width), matrix("ffn_up", shape.ffn_width, width))
    yield matrix("ffn_down", width, shape.ffn_width, better, added)


def _more_bits(layer: int, layers: int) -> bool:
    """llama.cpp's rule for values and down projections in Q4_K_M: the first and last eighth, and every third."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
