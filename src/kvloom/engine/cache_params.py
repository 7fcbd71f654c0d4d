"""Cache parameters of a request. Sampling is controlled by ``SamplingParams``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from kvloom.engine.of_documents import ONE_BY_ONE, check_of_documents
from kvloom.errors import ParamsError
from kvloom.model.text.documents import Spans
from kvloom.policy.compression import Compression
from kvloom.policy.compression.needs import MEASURED
from kvloom.policy.events import DEFAULT_PRIORITY, HIGHEST_PRIORITY, Hints, hints_of, merged
from kvloom.policy.fusion import Fusion, found_by_content

Matching = Literal["tokens", "pages"]
"""Granularity of prefix matching: by token, or by whole page only, so that others' tails cannot be guessed token by
token."""

When = Literal["context", "pressure"]

Where = Literal["marked", "by content"]
"""Which tokens are documents: those of the parts that messages say are documents; or where the tokens themselves say
that a passage begins.
"""

KeptAs = Literal["text", "chunk", "imported"]
"""What a prompt's KV is kept as: that of a text, found by texts that begin alike; that of a chunk, which is a passage
computed alone, found only by who looks for it; or that of a chunk which came in a file."""

_RECENT = 64
"""Entries that stay at the end of what is compressed in the middle of a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """A watch over what compression does to an answer.

    Before the first token of the answer and every ``every``-th one after it, the next token's distribution is computed
    from exact KV as well. When the mean of the KL divergences so far is more than ``drift`` (nats per token), the
    request goes on with exact KV, from that very token on. Raises ParamsError on construction.
    """

    every: int = 8
    drift: float = 0.05

    def __post_init__(self) -> None:
        if type(self.every) is not int or self.every < 1:
            raise ParamsError(f"every must be a number of tokens from 1 on, got {self.every!r}", param="guard.every")
        if type(self.drift) not in (int, float) or not 0 <= self.drift < math.inf:
            raise ParamsError(f"drift must be a number of nats from 0 on, got {self.drift!r}", param="guard.drift")


@dataclass(frozen=True, slots=True)
class Mark:
    """The KV of a prompt's first ``tokens`` tokens, in whole pages, is worth keeping so long after its last use, and is
    pinned as long.
    """

    tokens: int
    ttl_s: float


@dataclass(frozen=True, slots=True)
class Source:
    """An earlier context, parts of which a prompt has elsewhere. ``tokens``: its own; ``starts``: where each of the
    prompt's documents begins in it.
    """

    tokens: tuple[int, ...]
    starts: tuple[int, ...]


def _is_text(value: object) -> bool:
    """A string that can be encoded (lone surrogates cannot)."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _are_spans(value: object) -> bool:
    """Pairs of positions, each before the next; or a word for where they are."""
    if value in get_args(Where):
        return True
    if not isinstance(value, tuple):
        return False
    reached = 0
    for span in value:
        pair = isinstance(span, tuple) and len(span) == 2 and all(type(each) is int for each in span)
        if not pair or not reached <= span[0] < span[1]:
            return False
        reached = span[1]
    return True


def _takes(allowed: str, fits: Callable[[Any], bool]) -> dict[str, Any]:
    """Metadata of a field: a description of valid values, and the check."""
    return {"allowed": allowed, "fits": fits}


_FLAG = _takes("True or False", lambda value: isinstance(value, bool))
_TEXT = _takes("a string", lambda value: value is None or _is_text(value))
_MATCHING = _takes("'tokens' or 'pages'", lambda value: value in get_args(Matching))
_PRIORITY = _takes(
    f"a whole number from 0 to {HIGHEST_PRIORITY}", lambda value: type(value) is int and 0 <= value <= HIGHEST_PRIORITY
)
_SECONDS = _takes(
    "a number of seconds", lambda value: value is None or (type(value) in (int, float) and 0 <= value < math.inf)
)
_COMPRESSION = _takes("a Compression", lambda value: value is None or isinstance(value, Compression))
_GUARD = _takes("a Guard", lambda value: value is None or isinstance(value, Guard))
_WHEN = _takes("'context' or 'pressure'", lambda value: value in get_args(When))
_MARKS = _takes(
    "a tuple of Mark", lambda value: isinstance(value, tuple) and all(isinstance(each, Mark) for each in value)
)
_KEPT_AS = _takes("'text', 'chunk' or 'imported'", lambda value: value in get_args(KeptAs))
_FUSION = _takes("a Fusion", lambda value: value is None or isinstance(value, Fusion))
_SPANS = _takes(
    "spans (start, stop) of the prompt's tokens, one after another, or 'marked' or 'by content'",
    lambda value: _are_spans(value),
)
_SOURCE = _takes("a Source", lambda value: value is None or isinstance(value, Source))
_TOKENS = _takes("a number of tokens", lambda value: value is None or (type(value) is int and value >= 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheParams:
    """How a request uses the cache. Only ``compression``, ``fusion`` and ``lossy`` change the answer.

    Raises ParamsError on construction when a value is out of range.

    salt: KV is shared only between requests with equal salts. session: names the conversation, or the agent, that the
    request belongs to: what a session that comes again has stored is not evicted for requests of nobody while these
    have their share (``session_share``); who may find what is decided by the salt alone. session_number: the engine's
    own, of a session that has come before. read: False skips the lookup; every position of the prompt is computed.
    write: False publishes nothing, during the request or after it; continuations of one prompt still share its pages.
    match: granularity of prefix matching. priority: unused KV is evicted before KV of higher priority; KV shared by
    several requests has the highest priority among them. ttl_s: how long the request's KV is worth keeping after its
    last use, such as the time that a tool takes: heeded by the retention policies ``ttl`` and ``pause``, which evict
    what expires first; None leaves it to them. Of several requests the longest counts. pin_s: how long after its last
    use the request's KV is evicted after all that is not pinned, by whatever policy, while pins take no more than their
    part of the budget (``max_pinned_share``): what does not is kept like any other KV. marks: the same for beginnings
    of the prompt, beside what holds for all of it; the longer time counts.
    compression: beside a fusion, what is left of each document, by a method that is content with what is stored of it:
    that is kept for all who ask for the same, and read in place of the document's KV. Otherwise what is done to the
    context's KV before the rest of the prompt is computed over what is left; it needs
    the context's exact KV, which is found and published as ever, unless what is left of the context is found: that is
    published too. compress_after: how many tokens of the prompt are the context; all but the last one unless told. With
    a budget, prompt and answer are one context, which is compressed whenever it would take more. compress_when:
    ``context``, when it is complete; or ``pressure``, only where the request, prompt and answer so far, would be
    preempted for want of memory otherwise, and as often as it would be: the answer then depends on what else is served,
    and the method must be content with what is stored.
    kept_as: under which names the KV is found and published. ``chunk``: the prompt is a passage that is computed alone,
    for ``engine.chunks``; no other request finds it, whatever it begins with.
    lossy: KV that is kept nowhere exactly any more may be taken from a tier that has it in fewer bits (``TierConfig.
    warm_int8_bytes``): the answer then differs, is counted apart, and leaves nothing for others. Not beside a
    compression. guard: what is compressed by a ratio is compared with exact KV, which is kept for it while there is
    room, and is gone back to when the answer drifts.
    fusion: the KV of ``documents`` is that of each of them computed alone, found or computed for others to find, and is
    repaired as the fusion says. Where that would not be faster, the prompt is computed as ever. documents: which tokens
    of the prompt these are, as pairs (start, stop); what comes before the first is exact, and what comes after the last
    is the question. ``marked``: the documents among the parts of messages, or of a prompt. ``by content``: they are
    found, where the tokens themselves say that a passage begins (``policy.fusion.boundaries``); a prompt without any is
    exact. source: an earlier context of which the documents are parts; then their KV is that which is kept of it, as
    far as it is, and the rest is computed (``kvloom.engine.edits`` makes it).
    """

    salt: str | None = field(default=None, metadata=_TEXT)
    session: str | None = field(default=None, metadata=_TEXT)
    session_number: int | None = field(default=None, metadata=_TOKENS)
    read: bool = field(default=True, metadata=_FLAG)
    write: bool = field(default=True, metadata=_FLAG)
    match: Matching = field(default="tokens", metadata=_MATCHING)
    kept_as: KeptAs = field(default="text", metadata=_KEPT_AS)
    priority: int = field(default=DEFAULT_PRIORITY, metadata=_PRIORITY)
    ttl_s: float | None = field(default=None, metadata=_SECONDS)
    pin_s: float | None = field(default=None, metadata=_SECONDS)
    marks: tuple[Mark, ...] = field(default=(), metadata=_MARKS)
    compression: Compression | None = field(default=None, metadata=_COMPRESSION)
    compress_after: int | None = field(default=None, metadata=_TOKENS)
    compress_when: When = field(default="context", metadata=_WHEN)
    lossy: bool = field(default=False, metadata=_FLAG)
    guard: Guard | None = field(default=None, metadata=_GUARD)
    fusion: Fusion | None = field(default=None, metadata=_FUSION)
    documents: Spans | Where = field(default=(), metadata=_SPANS)
    source: Source | None = field(default=None, metadata=_SOURCE)

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not each.metadata["fits"](value):
                allowed = each.metadata["allowed"]
                raise ParamsError(f"{each.name} must be {allowed}, got {value!r}", param=each.name)
        if self.compress_after is not None and self.compression is None:
            raise ParamsError("compress_after says when, but there is no compression", param="compress_after")
        if self.compress_after is not None and self.budget is not None:
            raise ParamsError("compress_after says when, and so does the compression's budget", param="compress_after")
        if self.lossy and self.compression is not None:
            raise ParamsError("lossy takes KV that a compression, which needs the exact one, cannot use", param="lossy")
        if self.guard is not None and self.compression is None:
            raise ParamsError("a guard watches over a compression, but there is none", param="guard")
        if self.guard is not None and self.budget is not None:
            raise ParamsError(
                "a guard keeps exact KV, for which a compression's budget has no room",
                hint="a ratio in place of the budget",
                param="guard",
            )
        if self.guard is not None and self.compress_when == "pressure":
            raise ParamsError("a guard keeps exact KV, for which there is no room under pressure", param="guard")
        if self.compress_when == "pressure":
            self._check_pressure()
        if (self.fusion is None) != (not self.documents):
            raise ParamsError("a fusion needs documents, and documents a fusion", param="documents")
        if self.fusion is not None and self.compression is not None:
            self._check_of_documents(self.fusion, self.compression)
        if self.fusion is not None and self.lossy:
            raise ParamsError(
                "what comes before the documents of a fusion is exact, and lossy KV is not", param="lossy"
            )
        if self.fusion is not None and self.kept_as != "text":
            raise ParamsError("a passage is computed alone, and a fusion is over several", param="fusion")
        if self.source is not None:
            self._check_source(self.source)

    def _check_source(self, source: Source) -> None:
        if len(source.starts) != len(self.spans) or not self.spans:
            raise ParamsError(
                f"a source says where each document begins in it: {len(source.starts)} starts, "
                f"{len(self.spans)} documents",
                param="source",
            )
        if not set(map(type, source.tokens)) <= {int}:
            raise ParamsError("tokens of a source must be whole numbers", param="source")
        for at, (start, stop) in zip(source.starts, self.spans, strict=True):
            if not 0 <= at <= at + stop - start <= len(source.tokens):
                raise ParamsError(
                    f"a document of {stop - start} tokens from {at} on is not within a source of {len(source.tokens)}",
                    param="source",
                )

    def _check_of_documents(self, fusion: Fusion, compression: Compression) -> None:
        if compression.ratio is None or self.compress_after is not None or self.compress_when == "pressure":
            raise ParamsError(f"{ONE_BY_ONE}: a compression of them has a ratio, and nothing else", param="compression")
        if self.guard is not None:
            raise ParamsError("a guard watches over one context, and documents are several", param="guard")
        if self.source is not None:
            raise ParamsError(
                f"{ONE_BY_ONE}, and parts of an earlier context are none",
                hint="no source, or no compression",
                param="compression",
            )
        check_of_documents(fusion, compression)

    def _check_pressure(self) -> None:
        if self.compression is None or self.compression.ratio is None or self.compress_after is not None:
            what = "needs a compression with a ratio, and nothing that says when"
            raise ParamsError(f"compress_when='pressure' {what}", param="compress_when")
        if self.compression.compactor.rest is not None:
            what = "drops nothing, and what pressure asks for again and again is less"
            raise ParamsError(f"compactor `{self.compression.compactor.name}` {what}", param="compress_when")
        if any(isinstance(need, MEASURED) for need in self.compression.needs):
            raise ParamsError(
                f"`{self.compression.name}` looks on while a context is computed, and pressure cannot be foreseen",
                hint="a method that is content with keys and values, such as knorm or keydiff",
                param="compress_when",
            )

    def over(self, marked: Spans) -> CacheParams:
        """For a prompt in which these tokens are marked as documents. Raises ParamsError where that is none, or twice.

        Without a fusion they are tokens like others.
        """
        if self.documents == "marked":
            if not marked:
                raise ParamsError(
                    "a fusion needs documents, and the prompt marks none",
                    hint="parts of type `document`; or `documents`: spans of tokens, or 'by content'",
                    param="fusion",
                )
            return replace(self, documents=marked)
        if self.documents and marked:
            raise ParamsError("the prompt marks documents, and `documents` says other ones", param="fusion")
        return self

    def placed(self, prompt: Sequence[int]) -> CacheParams:
        """With spans of this prompt, where documents are to be found by content. Raises ParamsError when they were to
        be marked, and are not.
        """
        if self.documents != "by content":
            return self.over(())
        spans = tuple((span.start, span.stop) for span in found_by_content(prompt))
        return replace(self, documents=spans) if spans else self.unfused()

    def unfused(self) -> CacheParams:
        """For a prompt whose documents are tokens like others: what was to be done to them is not done to it."""
        return replace(self, fusion=None, documents=(), source=None, compression=None)

    @property
    def spans(self) -> Spans:
        """The documents, where it is known where they are."""
        return () if isinstance(self.documents, str) else self.documents

    @property
    def method(self) -> Compression | None:
        """The compression; in the middle of a text at least a few last entries stay."""
        if self.compression is None or (self.budget is None and self.compress_when == "context"):
            return self.compression
        protect = self.compression.protect
        recent = replace(protect, protect_last=max(_RECENT, protect.protect_last))
        return replace(self.compression, protect=recent)

    @property
    def hints(self) -> Hints:
        """Hints attached to all KV that the request stores or uses."""
        return hints_of(self.priority, self.ttl_s, self.pin_s, self.kept_as != "text", self.session_number)

    def hints_from(self, position: int) -> Hints:
        """Hints attached to a page that begins at this position: those of all KV, and of the marks that reach it."""
        hints = self.hints
        for mark in self.marks:
            if position < mark.tokens:
                hints = merged(hints, hints_of(self.priority, mark.ttl_s, mark.ttl_s))
        return hints

    @property
    def budget(self) -> int | None:
        """Bytes that the KV of a sequence may take; None: as many as it needs."""
        return None if self.compression is None else self.compression.budget

    def boundary(self, prompt_tokens: int) -> int | None:
        """How many tokens of a prompt are compressed at once; None when none are.

        Raises ParamsError when none would be left, from whose KV the answer could begin.
        """
        if self.compression is None or self.fusion is not None:
            return None
        if self.budget is not None or self.compress_when == "pressure":
            return None
        after = prompt_tokens - 1 if self.compress_after is None else self.compress_after
        if after >= prompt_tokens:
            raise ParamsError(
                f"compress_after must leave a token of the prompt, which has {prompt_tokens}; got {after}",
                param="compress_after",
            )
        return after or None
