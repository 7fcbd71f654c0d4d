"""Random requests for a soak, and what an engine with nothing cached answers to each."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kvloom.engine.cache_params import CacheParams
from kvloom.engine.engine import Engine
from kvloom.engine.outputs import RequestUpdate
from kvloom.engine.params import SamplingParams
from kvloom.policy.compression import Compression, compression_of
from kvloom.policy.fusion import parse_fusion, text_of

SALTS = (None, None, None, "one", "other")
SELECTORS = ("reuse", "epic:tokens=4", "a3:check_layer=0", "cacheblend:check_layer=0,ratio=0.3", "prophetkv")
COMPRESSED = ("reuse", "a3:check_layer=0")
"""Selectors over documents of which a part is left."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A greedy request. ``cache``: how it uses the cache."""

    prompt: tuple[int, ...]
    tokens: int
    cache: CacheParams
    n: int = 1

    @property
    def params(self) -> SamplingParams:
        return SamplingParams(temperature=0.0, max_tokens=self.tokens, ignore_eos=True, n=self.n)


def drawn(rng: random.Random, texts: Sequence[tuple[int, ...]]) -> Asked:
    """Of a text a beginning, so that others have begun alike; with any of what a request may say of the cache."""
    text = rng.choice(texts)
    prompt = text[: max(1, len(text) - rng.choice((0, 0, 1, 16, 40)))]
    compression: Compression | None = compression_of("knorm", 0.5) if rng.random() < 0.1 else None
    cache = CacheParams(
        salt=rng.choice(SALTS),
        read=rng.random() > 0.05,
        write=rng.random() > 0.1,
        match=rng.choice(("tokens", "tokens", "pages")),
        priority=rng.choice((10, 50, 50, 90)),
        ttl_s=rng.choice((None, 0.5)),
        pin_s=rng.choice((None, None, None, 0.2)),
        compression=compression,
        lossy=compression is None and rng.random() < 0.5,
    )
    return Asked(prompt, rng.choice((1, 3, 6)), cache, rng.choice((1, 1, 1, 2)))


def drawn_fused(rng: random.Random, texts: Sequence[tuple[int, ...]]) -> Asked:
    """Over beginnings of two texts, so that others are over the same, between a few tokens and a question."""
    first, last = rng.sample(texts, 2)
    prompt, documents = list(rng.choice(texts)[: rng.choice((0, 1, 5, 16))]), []
    for text in (first, last):
        passage = text[: rng.choice((1, 2)) * len(text) // 4 + 1]
        documents.append((len(prompt), len(prompt) + len(passage)))
        prompt += passage
    prompt += rng.choice(texts)[: rng.choice((2, 9))]
    number = rng.randrange(len(SELECTORS) + len(COMPRESSED))
    cache = CacheParams(
        salt=rng.choice(SALTS),
        read=rng.random() > 0.05,
        write=rng.random() > 0.1,
        match=rng.choice(("tokens", "tokens", "pages")),
        priority=rng.choice((10, 50, 50, 90)),
        fusion=parse_fusion((*SELECTORS, *COMPRESSED)[number]),
        compression=compression_of("knorm", 0.5) if number >= len(SELECTORS) else None,
        documents=tuple(documents),
    )
    return Asked(tuple(prompt), rng.choice((1, 3, 6)), cache, rng.choice((1, 1, 1, 2)))


def drawn_chunk(rng: random.Random, texts: Sequence[tuple[int, ...]]) -> Asked:
    """A beginning of a text as a passage for others, with an answer to compare."""
    text = rng.choice(texts)
    cache = CacheParams(salt=rng.choice(SALTS), kept_as="chunk", write=rng.random() > 0.1)
    return Asked(text[: rng.choice((1, 2)) * len(text) // 4 + 1], 1, cache)


def texts_of(rng: random.Random, count: int, length: int, vocab_size: int) -> list[tuple[int, ...]]:
    """Of up to ``length`` tokens: half of them begin like another one."""
    texts: list[tuple[int, ...]] = []
    for _ in range(count):
        shared = rng.choice(texts)[: length // 2] if texts and rng.random() < 0.5 else ()
        own = rng.randrange(length // 4, length - len(shared))
        texts.append((*shared, *(rng.randrange(1, vocab_size) for _ in range(own))))
    return texts


@dataclass
class Cold:
    """``make``: makes an engine with room for every request alone. Answers are remembered."""

    make: Callable[[], Engine]
    _known: dict[tuple[object, ...], list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._engine = self.make()

    def answer(self, asked: Asked) -> list[int]:
        """The tokens, when everything is computed for it: documents of a fusion too, alone."""
        compression, fusion, documents = asked.cache.compression, asked.cache.fusion, asked.cache.documents
        key = asked.prompt, asked.tokens, compression is not None, fusion and text_of(fusion), documents
        if key not in self._known:
            cache = CacheParams(read=False, write=False, compression=compression, fusion=fusion, documents=documents)
            params = SamplingParams(temperature=0.0, max_tokens=asked.tokens, ignore_eos=True)
            self._engine.submit("cold", list(asked.prompt), params, cache=cache)
            updates: list[RequestUpdate] = []
            while self._engine.has_work:
                updates += self._engine.step()
            self._known[key] = [token for update in updates for delta in update.deltas for token in delta.token_ids]
        return self._known[key]
