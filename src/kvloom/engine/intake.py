"""Intake: what is asked becomes a request with its sequences, or is refused before anything has changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from kvloom.engine.cache_params import CacheParams
from kvloom.engine.fusible import check_fusion, check_source, fused_bytes
from kvloom.engine.grammar import Constraint, Grammars
from kvloom.engine.kv import PageNames, Seen, SequenceKv, Watch
from kvloom.engine.layout import Blocks, KvLayout
from kvloom.engine.params import SamplingParams
from kvloom.engine.prompt_mean import PromptMean
from kvloom.engine.reasoning import ReasoningLimit
from kvloom.engine.request import Request, Sequence
from kvloom.engine.returning import Returning
from kvloom.engine.sampling import Sampler
from kvloom.engine.scheduler.turns import Turns
from kvloom.engine.text import TextState, TokenStream
from kvloom.errors import ParamsError, PromptTooLong, RequestError, context_overflow
from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.keys import chunk_root, imported_root, root_key
from kvloom.memory.ledger import Ledger
from kvloom.model.base import Model
from kvloom.policy.compression.identity import identity_of
from kvloom.segment import PageKey

if TYPE_CHECKING:
    from kvloom.engine.grammar.compiled import Grammar


class Tokenizer(Protocol):
    """What the engine needs of a tokenizer."""

    @property
    def eos_token_ids(self) -> frozenset[int]: ...
    @property
    def special_token_ids(self) -> frozenset[int]: ...
    def token_text(self, token_id: int) -> str: ...
    def token_bytes(self, token_id: int, /) -> bytes: ...
    def encode(self, text: str, add_special_tokens: bool | None = True, max_tokens: int | None = None) -> list[int]: ...
    def stream(self, skip_special_tokens: bool, after: list[int]) -> TokenStream:
        """Decode what continues ``after``."""
        ...


@dataclass
class Intake:
    """Makes requests.

    context_limit, max_len: tokens that the model, and that the KV budget too, allow a sequence. seed: of requests that
    bring none. seen: by its tokens, what was seen of a context before; methods that need no more see nothing again.
    worth: whether a request's fusion takes less time than computing so long a prompt. lead: tokens before a
    document that is computed alone.
    """

    model: Model
    tokenizer: Tokenizer
    layout: KvLayout
    ledger: Ledger
    seed: int
    context_limit: int
    max_len: int
    clock: Callable[[], float]
    turns: Turns = field(default_factory=Turns)
    sessions: Returning = field(default_factory=Returning)
    arrivals: int = 0
    seen: dict[tuple[int, ...], Watch] = field(default_factory=dict)
    worth: Callable[[CacheParams, int], bool] = lambda cache, prompt_tokens: True
    lead: int = 0
    grammars: Grammars = field(init=False)

    def __post_init__(self) -> None:
        self.grammars = Grammars(self.tokenizer, self.model.vocab_size)

    def request(
        self,
        name: str,
        prompt_ids: list[int],
        params: SamplingParams,
        prompt: str | None,
        client: str,
        cache: CacheParams,
        grammar: Grammar | None = None,
    ) -> Request:
        """A request with its first sequence, at its client's turn. Raises RequestError when it can never be served.

        ``grammar``: of ``params.structured_outputs``; None compiles it here.
        """
        cache = cache.placed(prompt_ids)
        self.validate(prompt_ids, params, cache)
        if cache.session is not None:
            cache = replace(cache, session_number=self.sessions.number(cache.session))
        if cache.fusion is not None:
            cache = replace(cache, fusion=cache.fusion.for_model(self.model.weights_id))
        if grammar is None and params.structured_outputs is not None:
            grammar = self.grammars.of(params.structured_outputs)
        fusion = cache.fusion if cache.fusion is not None and self.worth(cache, len(prompt_ids)) else None
        of_documents = None if fusion is None else cache.compression
        if cache.fusion is not None:  # whether the prompt is fused or not, it is no context to be compressed
            cache = replace(cache, compression=None)
        boundary, blocks = cache.boundary(len(prompt_ids)), self._blocks(cache)
        if fusion is not None:
            boundary = cache.spans[0][0]
        room = self.longest(cache) - len(prompt_ids)
        max_tokens = room if params.max_tokens is None else min(params.max_tokens, room)
        if blocks is not None and len(prompt_ids) + max_tokens > blocks.first:
            boundary = blocks.first
        request = Request(
            id=name,
            prompt=prompt,
            prompt_token_ids=prompt_ids,
            params=params,
            root=self.root(cache),
            arrival=self.arrivals,
            turn=self.turns.take(client, params.n),
            submitted_s=self.clock(),
            max_tokens=max_tokens,
            cache=cache,
            boundary=boundary,
            fusion=fusion,
            of_documents=of_documents,
            blocks=blocks,
            method_id=_identity(cache) if boundary else None,
            grammar=grammar,
            prompt_mean=PromptMean() if params.prompt_embedding else None,
        )
        request.sequences.append(self.sequence(request, 0))
        self.arrivals += 1
        return request

    def sequence(self, request: Request, index: int) -> Sequence:
        """Continuation ``index`` of a request: it holds nothing yet."""
        params = request.params
        seeds = (self.seed, request.arrival) if params.seed is None else (params.seed,)
        eos = () if params.ignore_eos else self.tokenizer.eos_token_ids
        ends = sorted(token for token in {*eos, *params.stop_tokens} if token < self.model.vocab_size)
        return Sequence(
            request=request,
            index=index,
            kv=SequenceKv(
                self.ledger,
                f"{request.id}/{index}",
                PageNames(
                    request.root, list(request.prompt_token_ids), limit=request.boundary, method_id=request.method_id
                ),
                self.layout.new_tables(),
                request.cache,
                self._watch(request.prompt_token_ids, request.cache, request.boundary, request.blocks),
                0 if request.blocks is None else request.blocks.stride,
                request.fusion is not None,
            ),
            sampler=Sampler.start(
                params,
                request.prompt_token_ids,
                (*seeds, index),
                self._constraint(request, ends),
                ends,
                None if params.reasoning is None else ReasoningLimit.of(params.reasoning, self.tokenizer),
            ),
            text=TextState(
                self.tokenizer.stream(params.skip_special_tokens, request.prompt_token_ids),
                params.stop_strings,
                params.include_stop_str_in_output,
                params.min_tokens,
            ),
        )

    def _constraint(self, request: Request, ends: list[int]) -> Constraint | None:
        if request.grammar is None:
            return None
        eos = (token for token in self.tokenizer.eos_token_ids if token < self.model.vocab_size)
        never = set(eos).difference(ends)  # with ``ignore_eos``
        return request.grammar.constraint(ends, never)

    def root(self, cache: CacheParams) -> PageKey:
        """Key of the empty prefix of such a request."""
        text = root_key(weights=self.model.weights_id, formats=self.layout.identity, salt=cache.salt)
        match cache.kept_as:
            case "text":
                return text
            case "chunk":
                return chunk_root(text)
            case "imported":
                return imported_root(chunk_root(text))

    def longest(self, cache: CacheParams) -> int:
        """Tokens that a request may have, its answer included: those of one with a budget need not fit the memory."""
        return self.max_len if cache.budget is None else self.context_limit

    def validate(self, prompt_ids: list[int], params: SamplingParams, cache: CacheParams) -> None:
        """Raise RequestError when such a request can never be served. May be called from any thread."""
        if not prompt_ids:
            raise RequestError("the prompt is empty: at least one token is needed", param="prompt")
        vocab = self.model.vocab_size
        if set(map(type, prompt_ids)) != {int}:
            raise RequestError("token ids must be whole numbers", param="prompt")
        if min(prompt_ids) < 0 or max(prompt_ids) >= vocab:
            outside = next(token for token in prompt_ids if not 0 <= token < vocab)
            raise RequestError(f"token id {outside} is outside the vocabulary of {vocab}", param="prompt")
        for name, tokens in (("logit_bias", params.biases), ("stop_token_ids", params.stop_tokens)):
            bad = next((t for t in tokens if t >= vocab), None)
            if bad is not None:
                raise ParamsError(f"{name}: token id {bad} is outside the vocabulary of {vocab}", param=name)
        if cache.guard is not None and params.n > 1:
            raise ParamsError(f"a guard watches over one answer, and n is {params.n}", hint="n requests", param="n")
        whole = len(prompt_ids) + (params.max_tokens != 0)  # with a token of the answer, if there is to be one
        if whole > self.context_limit:
            detail = f"it has {len(prompt_ids)} tokens, and the answer needs at least one"
            words = context_overflow(self.context_limit, detail)
            raise PromptTooLong(words, hint="shorten the prompt", param="prompt")
        if whole > self.longest(cache):
            needed = self.layout.bytes_for(whole)
            detail = (
                f"it has {len(prompt_ids)} tokens and needs {needed} bytes of KV memory; the budget has "
                f"{self.ledger.arena.budget_bytes} bytes"
            )
            words = context_overflow(self.max_len, detail)
            raise PromptTooLong(words, hint="raise kv_bytes or shorten the prompt", param="prompt")
        if params.prompt_embedding and (cache.compression is not None or cache.fusion is not None):
            raise ParamsError(
                "an embedding is made of exact KV", hint="no compression, and no fusion", param="prompt_embedding"
            )
        cache = cache.placed(prompt_ids)
        if cache.fusion is not None:
            cache.fusion.for_model(self.model.weights_id)
            check_fusion(self.model, self.layout, cache, len(prompt_ids), params)
            if cache.source is not None:
                check_source(cache.source, cache.spans, prompt_ids)
            before = self.lead if cache.source is None else PAGE_TOKENS - 1  # on the first page of a document, at most
            asked = self.layout, self.model.width, before, cache, whole
            self._check_room(fused_bytes(*asked), "fused", "shorter documents", "fusion")
            return
        boundary, compression, blocks = cache.boundary(len(prompt_ids)), cache.compression, self._blocks(cache)
        self._watch(prompt_ids, cache, boundary if blocks is None else blocks.first, blocks)
        if boundary and compression is not None and compression.ratio is not None:
            rest = compression.compactor.rest
            self._check_room(self.layout.bytes_after(boundary, compression.ratio, rest, whole - boundary))

    def _check_room(
        self, needed: int, what: str = "compressed", less: str = "remove more", param: str = "compression"
    ) -> None:
        """Raises RequestError when a request may need more bytes of KV memory than there are."""
        there = self.ledger.arena.budget_bytes
        if needed > there:
            raise RequestError(
                f"{what}, this may need {needed} bytes of KV memory, which has {there}",
                hint=f"{less}, or raise kv_bytes",
                param=param,
            )

    def _watch(
        self, prompt_ids: list[int], cache: CacheParams, boundary: int | None, blocks: Blocks | None
    ) -> Watch | None:
        """What a compression wants to see up to its boundary. Raises RequestError when there is no room for that."""
        if cache.compression is not None and cache.compress_when == "pressure":
            return Watch(self.model, cache.compression.needs, 0, text_of=self.tokenizer.token_text)
        if cache.compression is None or not boundary:
            return None
        if blocks is not None:
            return Watch.of_text(self.model, cache.compression, boundary, self.tokenizer.token_text)
        context, room = prompt_ids[:boundary], self.max_len - boundary
        by = self.seen.get(tuple(context)) if self.seen else None
        if by is not None and (seen := Seen.of_what(by, cache.compression.needs)) is not None:
            return seen
        return Watch.of(self.model, cache.compression, context, room, self.tokenizer.token_text)

    def _blocks(self, cache: CacheParams) -> Blocks | None:
        """How a request is kept within its budget, if it has one. Raises RequestError when that cannot be."""
        if cache.budget is None:
            return None
        blocks = self.layout.blocks_within(cache.budget, self.context_limit)
        self._check_room(self.layout.bytes_for_blocks(blocks))
        return blocks


def _identity(cache: CacheParams) -> bytes | None:
    """Under which a result is kept. None: it is not. A guard needs the exact KV of the context as well."""
    return None if cache.compression is None or cache.guard is not None else identity_of(cache.compression)
