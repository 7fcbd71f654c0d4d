"""What comes back from a generation. Names follow vLLM's where it has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from kvloom.arrays import Floats
from kvloom.errors import KvloomError
from kvloom.segment import Miss, Reused

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True, slots=True)
class Logprob:
    """Log probability of a token under the model's raw distribution (before penalties and temperature).

    ``rank`` 1 is the most likely. ``decoded_token`` is the token's own text.
    """

    logprob: float
    rank: int
    decoded_token: str


TokenLogprobs = dict[int, Logprob]
"""The chosen token and the asked-for number of top alternatives, by token id; the chosen token comes first."""


@dataclass(slots=True)
class CompletionOutput:
    """One of the ``n`` continuations. ``stop_reason``: the stop string or token that ended it, None for end-of-text."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None


@dataclass(frozen=True, slots=True)
class CompressedContext:
    """What a method of compression left of a context.

    ``params``: of the method, and of how what it keeps was divided. ``ratio`` or ``budget``: what was asked for.
    ``tokens``: of the context, with a budget of all that was there when it was compressed for the last time, the number
    ``times``; ``protected``: how many of them were. ``kept``: entries, by layer that owns KV and by KV head.
    ``bytes``: of their pages.
    """

    method: str
    params: Mapping[str, int | float | str]
    ratio: float | None
    tokens: int
    protected: int
    kept: Mapping[int, tuple[int, ...]]
    bytes: int
    budget: int | None = None
    times: int = 1


@dataclass(frozen=True, slots=True)
class GuardReport:
    """What a guard has seen of an answer, and done.

    ``checks``: how often the next token's distribution was compared; ``agreed``: how often its most likely token was
    the same. ``total_kl``, ``max_kl``: KL divergences of what compressed KV says from what exact KV says, in nats.
    ``bytes``: of the pages that the exact KV had at the last check, shared ones included. ``restored_at``: so many
    tokens of the answer came before the request went back to exact KV; None: it has not. ``lost_at``: so many came
    before the exact KV was given up, the last time, to make room; None: it never was.
    """

    checks: int = 0
    agreed: int = 0
    total_kl: float = 0.0
    max_kl: float = 0.0
    bytes: int = 0
    restored_at: int | None = None
    lost_at: int | None = None

    @property
    def mean_kl(self) -> float:
        return self.total_kl / max(1, self.checks)


@dataclass(frozen=True, slots=True)
class FusedPrompt:
    """Documents of a prompt whose KV was that of the documents alone.

    ``selector``: as text. ``documents``: their tokens. ``found``: how many of these had their KV in the cache, alone;
    the others' was computed, alone. ``repaired``: how many were computed again where they stand. ``compression``: of
    each document, as text; None: all of them was read.
    """

    selector: str
    documents: int
    found: int
    repaired: int
    compression: str | None = None

    @property
    def names(self) -> str:
        """Of its selectors, in the order of the alphabet, joined by ``+``."""
        return "+".join(sorted(self.selector.partition(":")[0].split("+")))


@dataclass(slots=True)
class RequestMetrics:
    """Where the time and the memory of one request went.

    cached_tokens: prompt tokens whose KV was reused, exactly as it was; lossy_tokens: whose KV was reused in a format
    that has lost something; reused: which spans, from which tier. computed_tokens: positions run through the model
    (more than the rest of the prompt plus the output when the request was preempted). misses: prompt spans that had to
    be computed, with the reason. kv_bytes: of the pages that continuation 0 held when it ended, shared ones included.
    answer_tokens: of the continuations that are over, by index. compressed: what was left of the context right after it
    was compressed, None while nothing was. fused: what was read of documents that were computed alone, None without
    any. guard: what the guard has seen since then, None without one. Times are seconds since the request was submitted:
    ttft_s to its first token, token_times_s to every token of continuation 0, total_s to the end.
    """

    cached_tokens: int = 0
    lossy_tokens: int = 0
    computed_tokens: int = 0
    preemptions: int = 0
    kv_bytes: int = 0
    answer_tokens: dict[int, int] = field(default_factory=dict)
    compressed: CompressedContext | None = None
    fused: FusedPrompt | None = None
    guard: GuardReport | None = None
    reused: list[Reused] = field(default_factory=list)
    misses: list[Miss] = field(default_factory=list)
    queue_s: float | None = None
    ttft_s: float | None = None
    token_times_s: list[float] = field(default_factory=list)
    total_s: float | None = None


@dataclass(slots=True)
class RequestOutput:
    """The state of a request: complete when ``finished``, else what there is so far.

    ``embedding``: of the prompt, when it is complete and was asked for. ``error`` says why a request could not go on;
    its open continuations then have the finish reason ``error``.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    metrics: RequestMetrics
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    finished: bool = False
    error: KvloomError | None = None
    embedding: Floats | None = None


@dataclass(slots=True)
class CompletionDelta:
    """What one step added to continuation ``index`` of a request. Not frozen, which would cost time for every token."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] | None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None


@dataclass(slots=True)
class RequestUpdate:
    """What a step, or a few of them, changed for a request.

    ``metrics`` and ``prompt_token_ids`` are shared, not copied: read only. With an ``error`` it is the last one.
    ``embedding``: in the last one, of length 1, if the caller asked for it.
    """

    request_id: str
    prompt_token_ids: list[int]
    deltas: tuple[CompletionDelta, ...]
    metrics: RequestMetrics
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    finished: bool = False
    error: KvloomError | None = None
    embedding: Floats | None = None
