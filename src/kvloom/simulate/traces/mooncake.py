"""Traces in the Mooncake format (``kvloom.bench.trace``), which also live request logs may be written in.

What was answered is not in them: outputs are contents that occur nowhere else, and every request is its own session.
"""

from __future__ import annotations

from pathlib import Path

from kvloom.bench.trace import BLOCK_TOKENS, read_trace
from kvloom.simulate.traces.numbers import Numbers, Once, num_recorded, regrouped
from kvloom.simulate.traces.trace import Request, Trace, ordered


def mooncake(path: Path, block_tokens: int = 16, limit: int | None = None) -> Trace:
    """The first ``limit`` requests. Raises TraceError with the line's number, or OSError."""
    numbers, once, found = Numbers(), Once(), []
    for session, request in enumerate(read_trace(path, limit)):
        lengths = request.input_length, request.output_length
        blocks = -(-sum(lengths) // block_tokens)
        unknown = num_recorded(BLOCK_TOKENS, blocks, block_tokens) - len(request.hash_ids)
        contents = [*request.hash_ids, *(once() for _ in range(unknown))]
        chain = numbers.chain(regrouped(contents, BLOCK_TOKENS, blocks, block_tokens))
        found.append(Request(request.arrival_s, session, "answer", *lengths, chain))
    return ordered(path.stem, block_tokens, found)
