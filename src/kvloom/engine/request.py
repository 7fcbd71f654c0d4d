"""A request and its sequences: what a caller asked for, and what has come of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from kvloom.arrays import Floats
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.kv import Documents, SequenceKv
from kvloom.engine.layer_pass import Layerwise
from kvloom.engine.layout import Blocks
from kvloom.engine.outputs import CompressedContext, FinishReason, RequestMetrics, TokenLogprobs
from kvloom.engine.params import SamplingParams
from kvloom.engine.prompt_mean import PromptMean
from kvloom.engine.sampling import Sampler
from kvloom.engine.shadow import Shadow
from kvloom.engine.text import TextState
from kvloom.errors import KvloomError
from kvloom.policy.compression import Compression
from kvloom.policy.fusion import Fusion
from kvloom.segment import PageId, PageKey

if TYPE_CHECKING:
    from kvloom.engine.grammar.compiled import Grammar


class Status(Enum):
    WAITING = "waiting"  # holds no KV, and of documents what was loaded ahead
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(eq=False)
class Request:
    """What a caller asked for. ``turn``, then ``arrival`` order requests; ``submitted_s``: on the engine's clock.

    ``boundary``: tokens of the context that is compressed, or compressed first, None when nothing is asked for; or what
    comes before the documents of a ``fusion``, if there is one; ``of_documents``: how each of them is compressed, None:
    not at all. ``blocks``: how it goes on from there. ``method_id``:
    what the result is kept under; None: it is not. ``grammar``: the form that its answers must have. ``ended``: over as
    a whole, whatever its sequences say; ``error``: because of this. ``prompt_mean``: what is gathered of its hidden
    states; ``embedding``: what it came to.
    """

    id: str
    prompt: str | None
    prompt_token_ids: list[int]
    params: SamplingParams
    root: PageKey
    arrival: int
    turn: int
    submitted_s: float
    max_tokens: int
    cache: CacheParams = field(default_factory=CacheParams)
    boundary: int | None = None
    fusion: Fusion | None = None
    of_documents: Compression | None = None
    blocks: Blocks | None = None
    method_id: bytes | None = None
    grammar: Grammar | None = None
    metrics: RequestMetrics = field(default_factory=RequestMetrics)
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    prompt_mean: PromptMean | None = None
    embedding: Floats | None = None
    sequences: list[Sequence] = field(default_factory=list)
    ended: bool = False
    error: KvloomError | None = None

    @property
    def streaming_since_s(self) -> float | None:
        """When its first token was drawn, on the engine's clock."""
        return None if self.metrics.ttft_s is None else self.submitted_s + self.metrics.ttft_s

    @property
    def finished(self) -> bool:
        """All continuations are there and over, or the request was ended from outside."""
        whole = len(self.sequences) == self.params.n
        return self.ended or (whole and all(s.status is Status.FINISHED for s in self.sequences))


@dataclass(eq=False)
class Sequence:
    """One continuation: how it is sampled and told, and ``kv``, the home of its tokens and their KV.

    ``tokens`` are those of ``kv``. ``started_over_at``: how many they were when it last had to begin again from an
    empty arena. ``shadow``: exact KV beside it, for its guard. ``layerwise``: computes what it lacks in layer passes;
    None: in chunks. ``by_bands``: whether it was ever begun by bands. ``documents``: of a fused prompt, while it waits,
    what is loaded ahead; None: nothing was begun.
    """

    request: Request
    index: int
    kv: SequenceKv
    sampler: Sampler
    text: TextState
    tokens: list[int] = field(init=False)
    status: Status = Status.WAITING
    started: bool = False
    started_over_at: int | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    shadow: Shadow | None = None
    layerwise: Layerwise | None = None
    by_bands: bool = False
    documents: Documents | None = None

    def __post_init__(self) -> None:
        self.tokens = self.kv.tokens

    @property
    def owner(self) -> str:
        """Name under which the ledger knows it."""
        return self.kv.owner

    @property
    def order(self) -> tuple[int, int, int]:
        """Its place among all sequences: never two in one."""
        return self.request.turn, self.request.arrival, self.index

    @property
    def num_prompt(self) -> int:
        return len(self.request.prompt_token_ids)

    @property
    def num_generated(self) -> int:
        return self.length - self.num_prompt

    @property
    def length(self) -> int:
        """Tokens of the prompt and the answer."""
        return len(self.tokens) - self.kv.repeated

    def was_compressed(self, kept: Mapping[int, tuple[int, ...]]) -> None:
        """Tell the metrics, of continuation 0, what is left. ``kept``: entries, by layer and KV head."""
        compression, metrics, stop = self.request.cache.method, self.request.metrics, self.kv.replaced
        assert compression is not None
        if self.index > 0:
            return
        metrics.compressed = CompressedContext(
            method=compression.name,
            params=compression.params,
            ratio=compression.ratio,
            budget=compression.budget,
            times=1 + (0 if metrics.compressed is None else metrics.compressed.times),
            tokens=stop,
            protected=int(compression.protect.mask(np.arange(stop)).sum()),
            kept=kept,
            bytes=self.kv.lists_bytes,
        )

    def restore(self) -> None:
        """Go on with the shadow's KV in place of its own."""
        assert self.shadow is not None
        self.kv.release()
        self.kv, self.shadow = self.shadow.kv, None
        self.tokens = self.kv.tokens

    @property
    def in_passes(self) -> bool:
        """Whether what it lacks next is computed in layer passes: of a fused prompt, what comes after its prefix."""
        kv = self.kv
        return self.layerwise is not None and (not kv.fuses or kv.fused or kv.prefix_done)

    def lose_shadow(self) -> None:
        if self.shadow is not None:
            self.shadow.kv.release()
            self.shadow = None

    def end_layerwise(self) -> None:
        """Go on in chunks, if anything is missing."""
        if self.layerwise is not None:
            self.layerwise.release()
            self.layerwise = None

    def release(self) -> None:
        """Release all KV: see ``SequenceKv.release``."""
        self.end_layerwise()
        if self.documents is not None:
            self.documents.release()
            self.documents = None
        self.kv.release()
        self.lose_shadow()

    def abandon(self) -> None:
        """Release all KV after a failure, whatever the state."""
        self.kv.abandon()
        if self.shadow is not None:
            self.shadow.kv.abandon()
            self.shadow = None
        if self.layerwise is not None:
            self.layerwise.abandon()
            self.layerwise = None
        if self.documents is not None:
            self.documents.abandon()
            self.documents = None

    def holdings(self) -> Iterator[tuple[PageId, str]]:
        yield from self.kv.holdings()
        if self.shadow is not None:
            yield from self.shadow.kv.holdings()
        if self.layerwise is not None:
            yield from self.layerwise.holdings()
        if self.documents is not None:
            yield from self.documents.holdings()

    @property
    def wants_prompt_rows(self) -> bool:
        """True until what the caller asked to know of every prompt position is known."""
        request = self.request
        if self.index > 0:
            return False
        if request.prompt_mean is not None and request.prompt_mean.count < self.num_prompt:
            return True
        scores = request.prompt_logprobs
        return request.params.prompt_logprobs is not None and (scores is None or None in scores[1:])
