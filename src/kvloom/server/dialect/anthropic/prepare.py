"""From a checked body to a job: the prompt's tokens, and how many of them each breakpoint keeps."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import accumulate, takewhile

from kvloom.engine.cache_params import CacheParams, Mark
from kvloom.errors import RequestError
from kvloom.policy.compression import Compression
from kvloom.server.dialect.anthropic.conversation import Breakpoint, Conversation
from kvloom.server.dialect.anthropic.schemas import CountRequest, MessagesRequest
from kvloom.server.engine_protocol import ServedEngine, Tokenizer
from kvloom.server.job import Job, Prompt, blamed
from kvloom.server.lanes import Lanes


async def messages_job(
    body: MessagesRequest, engine: ServedEngine, lanes: Lanes, default: Compression | None = None
) -> Job:
    """``default``: what is done to contexts unless the body says.

    Raises RequestError, or ModelError when the model has no chat template.
    """
    body.check()
    params, cache = body.params(engine.sampling_defaults), body.cache_params(default)
    prompt, marks = await _prompt(body, engine, lanes, cache)
    cache = dataclasses.replace(cache, marks=marks)
    unasked = cache.compression is not None and not body.says_compression
    otherwise = dataclasses.replace(cache, compression=None) if unasked else None
    return Job((prompt,), params, cache, otherwise=otherwise, prompt_field="messages")


async def count_tokens(body: CountRequest, engine: ServedEngine, lanes: Lanes) -> int:
    """Raises as ``messages_job``."""
    body.check()
    prompt, _ = await _prompt(body, engine, lanes, CacheParams())
    return len(prompt.token_ids)


async def _prompt(
    body: CountRequest, engine: ServedEngine, lanes: Lanes, cache: CacheParams
) -> tuple[Prompt, tuple[Mark, ...]]:
    conversation, limit = Conversation.of(body), engine.longest(cache)
    rendered = Rendered(engine.tokenizer, limit)
    with blamed("messages"):
        return await lanes.run(lambda: rendered.prompt(conversation), body.size)


@dataclass(frozen=True, slots=True)
class Rendered:
    """Renders conversations with the model's template. Runs in worker threads."""

    tokenizer: Tokenizer
    max_tokens: int

    def prompt(self, conversation: Conversation) -> tuple[Prompt, tuple[Mark, ...]]:
        text = self.tokenizer.chat_prompt(conversation.turns) + conversation.prefill
        ids = self.tokenizer.encode(text, False, max_tokens=self.max_tokens)
        reached = accumulate((self._reach(each, text, ids) for each in conversation.breakpoints), max)
        marks = [Mark(tokens, each.ttl_s) for tokens, each in zip(reached, conversation.breakpoints, strict=True)]
        return Prompt(ids, conversation.prefill), tuple(mark for mark in marks if mark.tokens)

    def _reach(self, point: Breakpoint, text: str, ids: list[int]) -> int:
        """How many tokens of the prompt what comes before the breakpoint decides, whatever comes after it.

        0 where the template refuses a conversation that ends there.
        """
        if not point.turns:
            return 0
        try:
            before = self.tokenizer.chat_prompt(point.turns, False)
        except RequestError:
            return 0
        shared = _common(before, text)
        return _common_ids(self.tokenizer.encode(text[:shared], False, max_tokens=self.max_tokens), ids)


def _common(one: str, other: str) -> int:
    """Length of the common beginning."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle - 1)
    return low


def _common_ids(one: list[int], other: list[int]) -> int:
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return sum(1 for _ in same)
