"""Breakpoints: beginnings of a conversation whose KV is kept for a while, and how many tokens each is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile
from typing import Any

from kvloom.engine.cache_params import Mark
from kvloom.errors import RequestError
from kvloom.model.text.documents import Documents, Encoded
from kvloom.server.dialect.fields import Json
from kvloom.server.dialect.prompt_cache import LIFETIMES_S
from kvloom.server.dialect.tools.conversation import Conversation, prompt_of
from kvloom.server.dialect.tools.forms import ToolForm
from kvloom.server.engine_protocol import Tokenizer

FIELDS = ("prompt_cache_breakpoint", "cache_control")
"""In a part of a message: OpenAI's, and Anthropic's, which gateways send to any server."""

_NOBODY = {"role": "user", "content": []}
_OF_CONTROL = {ttl: LIFETIMES_S[ttl] for ttl in ("5m", "1h")}


@dataclass(frozen=True, slots=True)
class Breakpoint:
    """``turns``: the conversation up to it. ``ttl_s``: how long that is to be kept."""

    turns: Sequence[Json]
    ttl_s: float


@dataclass(frozen=True, slots=True)
class Rendering:
    """How a conversation becomes text and tokens. Used in worker threads.

    ``documents``: of the conversation, for which its text has placeholders.
    """

    tokenizer: Tokenizer
    form: ToolForm | None
    documents: Documents
    max_tokens: int | None
    add_special_tokens: bool = False

    def text(self, conversation: Conversation) -> str:
        """Raises RequestError or ModelError."""
        return prompt_of(conversation, self.tokenizer, self.form)

    def prompt(self, conversation: Conversation, prefill: str = "") -> tuple[str, Encoded]:
        """The text to continue, ``prefill`` included, and its tokens. Raises as ``text``, and PromptTooLong."""
        text = self.text(conversation) + prefill
        self.documents.check(text)
        return text, self.encoded(text)

    def encoded(self, text: str) -> Encoded:
        return self.documents.encoded(text, self.tokenizer.encode, self.add_special_tokens, self.max_tokens)


@dataclass(frozen=True, slots=True)
class Reach:
    """How many tokens of the prompt what comes before each breakpoint decides, whatever comes after it."""

    whole: Conversation
    breakpoints: tuple[Breakpoint, ...]

    def __call__(self, rendering: Rendering, text: str, ids: list[int]) -> tuple[Mark, ...]:
        reached = accumulate((self._of(each, rendering, text, ids) for each in self.breakpoints), max)
        marks = [Mark(tokens, each.ttl_s) for tokens, each in zip(reached, self.breakpoints, strict=True)]
        return tuple(mark for mark in marks if mark.tokens)

    def _of(self, point: Breakpoint, rendering: Rendering, text: str, ids: list[int]) -> int:
        """0 where the template refuses a conversation that ends there."""
        ended = dataclasses.replace(
            self.whole, turns=point.turns or [_NOBODY], add_generation_prompt=False, continue_final_message=False
        )
        try:
            before = rendering.text(ended)
        except RequestError:
            return 0
        return _common_ids(rendering.encoded(text[: _common(before, text)]).ids, ids)


def breakpoints_in(turns: Sequence[Json], default_s: float, most: int, field: str) -> tuple[Breakpoint, ...]:
    """The latest ``most`` breakpoints among the parts of messages. ``default_s``: of those that say no time of their
    own. ``field``: of the body, which has them. Raises RequestError for one that is none.
    """
    found = list(_places(turns, default_s, field))[-most:]
    return tuple(Breakpoint(_until(turns, turn, part), ttl_s) for turn, part, ttl_s in found)


def is_breakpoint(part: object) -> bool:
    """Whether a part of a message has one of ``FIELDS``."""
    return isinstance(part, Mapping) and any(part.get(name) is not None for name in FIELDS)


def _places(turns: Sequence[Json], default_s: float, field: str) -> Iterator[tuple[int, int, float]]:
    """Number of a turn and of its part, and the lifetime."""
    for n, turn in enumerate(turns):
        content = turn.get("content")
        for m, part in enumerate(content if isinstance(content, list) else ()):
            if is_breakpoint(part):
                yield n, m, _lifetime(part, default_s, field)


def _until(turns: Sequence[Json], turn: int, part: int) -> list[Json]:
    return [*turns[:turn], {**turns[turn], "content": turns[turn]["content"][: part + 1]}]


def _lifetime(part: Mapping[str, Any], default_s: float, field: str) -> float:
    if (said := part.get("prompt_cache_breakpoint")) is not None:
        return _told("prompt_cache_breakpoint", said, ("mode", "explicit"), LIFETIMES_S, default_s, field)
    return _told("cache_control", part["cache_control"], ("type", "ephemeral"), _OF_CONTROL, _OF_CONTROL["5m"], field)


def _told(
    name: str,
    said: object,
    needs: tuple[str, str],
    lifetimes: Mapping[str, float],
    default_s: float,
    field: str,
) -> float:
    word, value = needs
    *names, last = [f"`{ttl}`" for ttl in lifetimes]
    ttl = said.get("ttl") if isinstance(said, Mapping) else None
    if not isinstance(said, Mapping) or said.get(word) != value or not isinstance(ttl, str | None):
        known = f'{{"{word}": "{value}"}}, with a `ttl` of {", ".join(names)} or {last}, or none'
        raise RequestError(f"this value of `{name}` is not supported by this server", hint=known, param=field)
    if ttl is not None and ttl not in lifetimes:
        known = f"it is {', '.join(names)} or {last}"
        raise RequestError(f"a `{name}` with ttl `{ttl[:20]}` is not supported by this server", hint=known, param=field)
    return default_s if ttl is None else lifetimes[ttl]


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
