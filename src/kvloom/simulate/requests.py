"""From a trace to requests that the engine takes: tokens by the numbers of blocks, and the answers that were given."""

from __future__ import annotations

from dataclasses import dataclass, field

from kvloom.errors import ConfigError
from kvloom.memory.format import PAGE_TOKENS
from kvloom.simulate.endless import EndlessCache
from kvloom.simulate.traces.trace import Request, Trace


@dataclass(slots=True)
class Script:
    """What a model answers: after a token of a block comes the next one, after its last one what the trace has."""

    _after: dict[int, int] = field(default_factory=dict)

    def prompt(self, request: Request, length: int) -> list[int]:
        """Its first ``length`` tokens. What it is answered is known from now on."""
        blocks, last = request.blocks, (length - 1) // PAGE_TOKENS
        self._after.update(zip(blocks[last:], blocks[last + 1 :], strict=False))
        tokens = [token for block in blocks[: last + 1] for token in _tokens(block)]
        return tokens[:length]

    def say(self, token: int) -> int:
        """What comes after ``token``."""
        block, place = divmod(token, PAGE_TOKENS)
        if place < PAGE_TOKENS - 1:
            return token + 1
        return self._after.get(block, block) * PAGE_TOKENS


def _tokens(block: int) -> range:
    return range(block * PAGE_TOKENS, (block + 1) * PAGE_TOKENS)


@dataclass(frozen=True, slots=True)
class SimulatedRequest:
    """``known``: so many tokens of the prompt an endless cache would have. Lengths are of the simulation's tokens."""

    request: Request
    script: Script
    input_length: int
    output_length: int
    known: int

    @property
    def arrival_s(self) -> float:
        return self.request.arrival_s

    def prompt(self, vocab_size: int) -> list[int]:
        return self.script.prompt(self.request, self.input_length)


def grain_of(trace: Trace) -> int:
    """How many tokens one of the simulation stands for: a block of the trace is a page. Raises ConfigError."""
    grain, rest = divmod(trace.block_tokens, PAGE_TOKENS)
    if rest or not grain:
        raise ConfigError(f"blocks of {trace.block_tokens} tokens are no whole number of pages of {PAGE_TOKENS}")
    return grain


def requests_of(trace: Trace, script: Script) -> list[SimulatedRequest]:
    """In order of arrival. Raises ConfigError when blocks are no whole pages."""
    grain, endless = grain_of(trace), EndlessCache(PAGE_TOKENS)
    made = []
    for request in trace.requests:
        length = -(-request.input_tokens // grain)
        answer = max(1, -(-request.tokens // grain) - length)
        known = min(endless.known(request.blocks, length), length - 1)
        endless.store(request.blocks, length + answer - 1)  # the last token's KV is never computed
        made.append(SimulatedRequest(request, script, length, answer, known))
    return made
