"""A context that moves to lists by head and keeps everything is the same context: not one bit of any logit changes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bench.drive import ModelEngines, load
from bench.text import long_text
from golden_tokens import MODELS
from kvloom.arrays import Floats
from kvloom.config import CacheConfig, KvDtype
from kvloom.engine.factory import make_engine
from kvloom.eval.single import SingleSequence
from kvloom.eval.subject import engine_beside
from kvloom.model.decoder import Decoder
from kvloom.model.files.store import pull
from kvloom.policy.compression import compression_of
from kvloom.policy.retention.lru import LeastRecentlyUsed

CUTS = (523, 1240)
"""In the middle of a block of 256, and behind a window of 512."""
READ = 150


def logits(sequence: SingleSequence, tokens: list[int]) -> Floats:
    """Of a prompt's rest, computed at once, and of an answer that follows, token by token."""
    rows = list(sequence.score(tokens[:-4]))
    return np.concatenate([*rows, *(sequence.append([token])[None] for token in tokens[-4:])])


@pytest.mark.real
@pytest.mark.parametrize("kv_dtype", ["float32", "int16", "int8"])
@pytest.mark.parametrize("name", MODELS)
def test_keeping_everything_changes_no_bit(name: str, kv_dtype: KvDtype) -> None:
    pull(name)
    engines: ModelEngines = load(name)
    engine = engine_beside(engines.loaded.engine, CacheConfig(kv_bytes="64MiB", kv_dtype=kv_dtype))
    tokens = engines.encode(long_text())
    for cut in CUTS:
        exact, moved = SingleSequence(engine, cut + READ), SingleSequence(engine, cut + READ)
        for sequence in (exact, moved):
            sequence.append(tokens[:cut])
        moved.compress(compression_of("keep_all"))
        wanted = logits(exact, tokens[cut : cut + READ])
        assert np.array_equal(logits(moved, tokens[cut : cut + READ]), wanted)


@pytest.mark.real
def test_uneven_lists_have_the_same_bits_op_by_op() -> None:
    name = MODELS[0]
    pull(name)
    engines: ModelEngines = load(name)
    first, tokens, found = engines.loaded.engine, engines.encode(long_text()), []
    assert isinstance(first.model, Decoder)
    apart = dataclasses.replace(first.model, fused=None)
    op_by_op = make_engine(apart, first.tokenizer, first.config, first.attend_factory, LeastRecentlyUsed())
    for engine in (first, op_by_op):
        sequence = SingleSequence(engine, CUTS[0] + 40)
        sequence.append(tokens[: CUTS[0]])
        sequence.compress(compression_of("random", 0.3))
        found.append(logits(sequence, tokens[CUTS[0] : CUTS[0] + 40]))
    assert np.array_equal(*found)
