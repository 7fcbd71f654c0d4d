"""Whether a prompt can be fused at all: refused before anything has changed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kvloom.engine.kv.fused import overlay_format
from kvloom.engine.layout import KvLayout
from kvloom.engine.params import SamplingParams
from kvloom.errors import ParamsError
from kvloom.memory.arena import page_stride
from kvloom.model.base import Model
from kvloom.policy.fusion import Fusion


def check_fusion(
    model: Model,
    layout: KvLayout,
    fusion: Fusion,
    documents: Sequence[tuple[int, int]],
    prompt_tokens: int,
    params: SamplingParams,
) -> None:
    """Raises ParamsError when such a prompt can never be fused."""
    if documents[-1][1] >= prompt_tokens:
        raise ParamsError(
            f"documents must leave a question, and end at {documents[-1][1]} in a prompt of {prompt_tokens} tokens",
            param="documents",
        )
    if params.prompt_logprobs is not None:
        raise ParamsError("prompt_logprobs need all rows of the prompt, and fusion leaves some out", param="fusion")
    layers = len(layout.layers)
    if fusion.exact_layers >= layers:
        raise ParamsError(f"check_layer must leave a layer of {layers}, got {fusion.check_layer}", param="check_layer")
    _check_model(model, layout)


def _check_model(model: Model, layout: KvLayout) -> None:
    if any(window is not None for window in layout.windows):
        raise ParamsError("fusion needs layers that see everything, and this model has windows", param="fusion")
    alike = len({(fmt.heads, fmt.k_dim, fmt.v_dim) for fmt in layout.formats}) == 1
    if not alike or not all(layer.owns for layer in layout.layers):
        raise ParamsError("fusion needs layers of one shape, each with KV of its own", param="fusion")
    for fmt in layout.formats:
        if any(not np.array_equal(model.turn(layer), model.turn(fmt.layers[0])) for layer in fmt.layers):
            raise ParamsError("fusion needs layers that turn keys alike, and this model's differ", param="fusion")
        if page_stride(overlay_format(fmt)) > layout.slab_bytes:
            raise ParamsError(
                f"a labelled page of {page_stride(overlay_format(fmt))} bytes does not fit a slab of "
                f"{layout.slab_bytes}",
                hint="a larger slab_bytes",
                param="fusion",
            )
