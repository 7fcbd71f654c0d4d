"""The matrix of cold and warm runs on one model and its settings: what was compared, and whether hits happened."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

from kvloom.errors import EvalError
from kvloom.eval.subject import Subject, engine_beside
from kvloom.eval.trust.situations import SITUATIONS, Cell, Setting
from kvloom.memory.format import PAGE_TOKENS

_NEW_TOKENS = 24
_CONTEXTS = 12
"""A large engine holds this many of the longest sequence: nothing is dropped unless a situation requires it."""


def setting_of(subject: Subject, length: int | None = None, text: list[int] | None = None) -> Setting:
    """Prompts for a model: longer than its widest window, so that pages are released, as far as its context allows.

    ``text``: tokens to cut prompts from, at least a few more than ``length``; None makes random ones. Raises EvalError
    when the model is too small for any prompt.
    """
    engine = subject.engine
    windows = [window for window in engine.layout.windows if window is not None]
    limit = (engine.context_limit - 6 * PAGE_TOKENS - _NEW_TOKENS) // PAGE_TOKENS * PAGE_TOKENS
    wanted = length or (max(windows) + 8 * PAGE_TOKENS if windows else 480)
    size = min(wanted // PAGE_TOKENS * PAGE_TOKENS, limit)
    if size < 3 * PAGE_TOKENS:
        raise EvalError(
            f"`{subject.name}` with {engine.context_limit} tokens of context is too short to compare anything"
        )
    growing = min([size, *(window - 4 * PAGE_TOKENS for window in windows if window > 5 * PAGE_TOKENS)])
    if text is None:
        rng = random.Random(3)
        ends = subject.tokenizer.eos_token_ids
        text = [token for token in rng.choices(range(engine.model.vocab_size), k=2 * size + 200) if token not in ends]
    if len(text) < size + 40:
        raise EvalError(f"the text has {len(text)} tokens; prompts of {size} need {size + 40}")
    cache = engine.config.cache
    return Setting(
        make=lambda kv_bytes: engine_beside(engine, dataclasses.replace(cache, kv_bytes=kv_bytes)),
        text=text,
        length=size,
        growing_from=growing,
        new_tokens=_NEW_TOKENS,
        roomy=_CONTEXTS * engine.layout.bytes_for(size + _NEW_TOKENS + 6 * PAGE_TOKENS),
    )


def examine(setting: Setting, note: Callable[[str, Cell], None] = lambda name, cell: None) -> dict[str, Cell]:
    """Run every situation; ``note`` is called after each. A failed audit of the ledger raises InternalError."""
    cells: dict[str, Cell] = {}
    for name, situation in SITUATIONS.items():
        cells[name] = situation(setting)
        note(name, cells[name])
    return cells
