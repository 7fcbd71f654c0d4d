"""What residency is tested on: models that run in different ways, and KV in different formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tiny
import tiny_decoder
from kvloom.config import DEFAULT_KV_DTYPE
from kvloom.model.decoder import Decoder

Windows = tuple[int | None, ...]


@dataclass(frozen=True)
class Subject:
    """``oracle``: greedy tokens with everything computed again for each."""

    make_engine: Callable[..., tiny.Engine]
    oracle: Callable[[Windows, list[int], int], list[int]]

    def bytes_for(self, windows: Windows, tokens: int) -> int:
        """What one sequence of so many tokens needs when it is alone."""
        return self.make_engine(windows).layout.bytes_for(tokens)


def _of(cls: type[Decoder]) -> Subject:
    def make_engine(windows: Windows, **settings: Any) -> tiny.Engine:
        return tiny.make_engine(
            windows, model=tiny_decoder.decoder(windows, cls), kv_dtype=DEFAULT_KV_DTYPE, **settings
        )

    def oracle(windows: Windows, prompt: list[int], count: int) -> list[int]:
        return tiny_decoder.oracle(tiny_decoder.decoder(windows, cls), prompt, count)

    return Subject(make_engine, oracle)


SUBJECTS: Mapping[str, Subject] = {
    "op-by-op, float32": Subject(tiny.make_engine, tiny.oracle),
    "whole step, default KV": _of(tiny_decoder.Decoder),
    "whole step, default KV, lists by head": _of(tiny_decoder.ReadsByHead),
}
"""By name. The first has no kernel of ours but attention; the others are what a user runs."""
