"""Whether a prompt can be fused at all: refused before anything has changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kvloom.engine.cache_params import CacheParams, Source
from kvloom.engine.kv.carried import hidden_format, pages_for
from kvloom.engine.kv.fused import lists_of, overlay_format
from kvloom.engine.layout import KvLayout
from kvloom.engine.params import SamplingParams
from kvloom.errors import ParamsError
from kvloom.memory.arena import page_stride, slab_cost
from kvloom.memory.format import PageFormat
from kvloom.model.base import Model
from kvloom.policy.compression import Compression
from kvloom.policy.cost_estimate import CostEstimate
from kvloom.policy.fusion import faster
from kvloom.segment import Span


@dataclass(frozen=True, slots=True)
class Worth:
    """Whether a request's fusion takes less time than computing its prompt, by what prefill costs so far."""

    prefill: CostEstimate
    layers: int
    step_tokens: int

    def __call__(self, cache: CacheParams, prompt_tokens: int) -> bool:
        documents = [Span(*span) for span in cache.spans]
        assert cache.fusion is not None
        return faster(cache.fusion, documents, prompt_tokens, self.layers, self.step_tokens, self.prefill.proportions)


def fused_bytes(layout: KvLayout, width: int, lead: int, cache: CacheParams, tokens: int) -> int:
    """Slabs and metadata, in bytes, that a fused prompt and its answer, ``tokens`` together, need when they are alone.

    All documents may be computed again. ``width``: of hidden states.
    """
    fusion, documents, compression = cache.fusion, cache.spans, cache.compression
    assert fusion is not None
    start, stop = documents[0][0], documents[-1][1]
    alone = sum(pages_for(lead + last - first) for first, last in documents)
    needs = [(fmt, alone + pages_for(start) + pages_for(tokens - stop) + 2) for fmt in layout.formats]
    needs += lists_of(layout, fusion.exact_layers, tokens, stop - start)
    if fusion.exact_layers:
        needs.append((hidden_format(width), pages_for(tokens - start)))
    if compression is not None:
        lengths = [lead + last - first for first, last in documents]
        needs += [each for length in lengths for each in lists_left(layout, compression, length)]
    per_slab = [(fmt, -(-pages // max(1, layout.slab_bytes // page_stride(fmt)))) for fmt, pages in needs]
    return sum(slabs * slab_cost(fmt, layout.slab_bytes) for fmt, slabs in per_slab)


def lists_left(layout: KvLayout, compression: Compression, tokens: int) -> Iterator[tuple[PageFormat, int]]:
    """(format, pages) of what a compression leaves of a document of so many tokens, its lead included."""
    assert compression.ratio is not None
    return layout.lists_of(tokens, compression.ratio, compression.compactor.rest)


def check_fusion(
    model: Model, layout: KvLayout, cache: CacheParams, prompt_tokens: int, params: SamplingParams
) -> None:
    """Raises ParamsError when such a prompt can never be fused."""
    fusion, documents = cache.fusion, cache.spans
    assert fusion is not None
    if documents[-1][1] >= prompt_tokens:
        raise ParamsError(
            f"documents must leave a question, and end at {documents[-1][1]} in a prompt of {prompt_tokens} tokens",
            param="fusion",
        )
    if params.prompt_logprobs is not None:
        raise ParamsError("prompt_logprobs need all rows of the prompt, and fusion leaves some out", param="fusion")
    layers = len(layout.layers)
    if fusion.exact_layers >= layers:
        raise ParamsError(f"check_layer must leave a layer of {layers}, got {fusion.check_layer}", param="check_layer")
    if fusion.exact_layers + fusion.filters >= layers:
        raise ParamsError(
            f"{fusion.filters} filters after layer {fusion.check_layer} must leave a layer of {layers}",
            param="filters",
        )
    if cache.compression is not None and fusion.scorers and any(layout.windows):
        raise ParamsError(
            f"a compressed document is repaired over what is left of it, and layers with a window ({_shown(layout)}) "
            "keep its end alone",
            hint="selector `reuse`, or no compression",
            param="compression",
        )
    _check_model(model, layout)


def _shown(layout: KvLayout) -> str:
    return ", ".join(str(window) for window in layout.windows if window is not None)


def check_source(source: Source, documents: Sequence[tuple[int, int]], prompt: Sequence[int]) -> None:
    """Raises ParamsError when a document is not what the source has there."""
    for at, (start, stop) in zip(source.starts, documents, strict=True):
        if source.tokens[at : at + stop - start] != tuple(prompt[start:stop]):
            raise ParamsError(
                f"the prompt's tokens {start} to {stop} are not those of its source from {at} on",
                hint="`llm.edit` makes both",
                param="source",
            )


def _check_model(model: Model, layout: KvLayout) -> None:
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
