"""A request and its sequences: what is wanted, what is covered, and where its KV is."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from kvloom.engine.cache_params import CacheParams
from kvloom.engine.outputs import FinishReason, RequestMetrics, TokenLogprobs
from kvloom.engine.params import SamplingParams
from kvloom.engine.sampling import Sampler
from kvloom.engine.text import TextState
from kvloom.errors import KvloomError
from kvloom.memory.index import content_hash
from kvloom.memory.keys import extend_keys
from kvloom.memory.table import PageTable
from kvloom.segment import RAM, Absent, Context, PageKey, Resident, Segment, Span, SpanSet, Why


class Status(Enum):
    WAITING = "waiting"  # holds no pages
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(eq=False)
class Request:
    """What a caller asked for. ``turn``, then ``arrival`` order requests; ``submitted_s``: on the engine's clock.

    ``ended``: over as a whole, whatever its sequences say; ``error``: because of this.
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
    metrics: RequestMetrics = field(default_factory=RequestMetrics)
    prompt_logprobs: list[TokenLogprobs | None] | None = None
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
    """One continuation.

        positions   0                                        len(tokens)
                    [ covered | gap | covered | gap ......... )
                                 ^ every step computes the lowest positions of ``gaps``

    ``keys`` and ``contents`` name the whole pages of ``tokens``; ``announced`` are those it has promised to compute.
    ``started_over_at``: its length when it last had to begin again from an empty arena.
    """

    request: Request
    index: int
    tokens: list[int]
    tables: tuple[PageTable, ...]
    sampler: Sampler
    text: TextState
    status: Status = Status.WAITING
    gaps: SpanSet = field(default_factory=SpanSet)
    keys: list[PageKey] = field(default_factory=list)
    contents: list[int] = field(default_factory=list)
    announced: set[PageKey] = field(default_factory=set)
    started: bool = False
    started_over_at: int | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None

    @property
    def owner(self) -> str:
        """Name under which the ledger knows it."""
        return f"{self.request.id}/{self.index}"

    @property
    def order(self) -> tuple[int, int, int]:
        """Its place among all sequences: never two in one."""
        return self.request.turn, self.request.arrival, self.index

    @property
    def num_prompt(self) -> int:
        return len(self.request.prompt_token_ids)

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def wants_prompt_scores(self) -> bool:
        """True until every prompt position's log probability is known, if the caller asked for them."""
        if self.request.params.prompt_logprobs is None or self.index > 0:
            return False
        scores = self.request.prompt_logprobs
        return scores is None or None in scores[1:]

    def extend_identity(self) -> None:
        """Name the whole pages that ``tokens`` has grown by."""
        extend_keys(self.keys, self.request.root, self.tokens)
        for index in range(len(self.contents), len(self.keys)):
            before = self.contents[index - 1] if index else 0
            self.contents.append(content_hash(before, self.page_tokens(index)))

    def parent_key(self, index: int) -> PageKey:
        """Identity of everything before page ``index``."""
        return self.keys[index - 1] if index else self.request.root

    def parent_content(self, index: int) -> int:
        return self.contents[index - 1] if index else 0

    def page_tokens(self, index: int) -> list[int]:
        size = self.tables[0].format.tokens
        return self.tokens[index * size : (index + 1) * size]

    def context(self, tier: str = RAM) -> Context:
        """The sequence as segments, for people and policies."""
        resident = self.tables[0].resident() - self.gaps
        name = self.tables[0].format.name
        segments = [Segment(span, Resident(tier, name)) for span in resident]
        absent = SpanSet.full(len(self.tokens)) - resident
        segments += [Segment(Span(span.start, span.stop), Absent(Why.NEW)) for span in absent]
        return tuple(sorted(segments, key=lambda segment: segment.span))
