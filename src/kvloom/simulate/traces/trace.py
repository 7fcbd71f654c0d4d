"""A trace: who asks when, how much, and which contents are the same as before.

Contents are in blocks of equal length, known by number. A number stands for a block and all that comes before it, as
the key of a page does: two requests share their first n blocks if and only if these have the same numbers.

    tokens   |<------------ input ------------>|<-- output -->|
    blocks   |   0    |   1    |   7    |   8    |   9    |   (the last one may end before it is full)
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from kvloom.errors import TraceError

Ends = Literal["answer", "tool_call"]
"""What a request's output ends with: the session goes on when somebody has read it, or when a tool has returned."""


@dataclass(frozen=True, slots=True)
class Request:
    """``blocks`` cover input and output; a later request that continues this one has them too, output included.

    ``arrival_s``: where answers take as long as they did when the trace was recorded, or no time in one that was made.
    ``pause_s``: from the end of the same session's previous answer to this request; None for a session's first.
    """

    arrival_s: float
    session: int
    ends: Ends
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]
    pause_s: float | None = None

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True)
class Trace:
    """``requests`` by arrival, at least one; ``block_tokens``: how many tokens a block number stands for."""

    name: str
    block_tokens: int
    requests: tuple[Request, ...]

    @cached_property
    def longest(self) -> int:
        """Blocks of its longest request."""
        return max(len(request.blocks) for request in self.requests)

    def head(self, count: int) -> Trace:
        """Its first so many requests."""
        return replace(self, requests=self.requests[:count])

    def contents(self, request: Request, vocab_size: int, special: int = 100) -> list[int]:
        """Synthetic tokens of a request's input and output: random, and the same wherever a block's number occurs.

        None is below ``special``, where a vocabulary is large enough for that.
        """
        low = special if vocab_size > 2 * special else 1
        tokens = [token for number in request.blocks for token in _block(number, self.block_tokens, low, vocab_size)]
        return tokens[: request.tokens]


def ordered(name: str, block_tokens: int, requests: Iterable[Request]) -> Trace:
    """A trace of requests in any order; of those that arrive together, as given. Raises TraceError for none."""
    found = tuple(sorted(requests, key=lambda request: request.arrival_s))
    if not found:
        raise TraceError(f"{name}: no requests in it")
    return Trace(name, block_tokens, found)


def _block(number: int, count: int, low: int, high: int) -> list[int]:
    rng = random.Random(number)
    return [rng.randrange(low, high) for _ in range(count)]
