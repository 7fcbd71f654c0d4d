"""Chunks and texts share the memory: neither floods out the other, and nothing lies idle."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

import tiny
from kvloom.config import CacheConfig
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.chunks import computed_alone
from kvloom.engine.params import SamplingParams
from kvloom.errors import ConfigError
from kvloom.policy.events import Block, hints_of
from kvloom.policy.retention import POLICIES
from kvloom.policy.retention.base import Retention
from kvloom.policy.retention.chunk_share import ChunkShare
from kvloom.policy.retention.lru import LeastRecentlyUsed
from kvloom.segment import PageId, PageKey, Why

SIZE = 4096


@dataclass
class Memory:
    """Room for so many blocks, kept full, as the ledger would: whatever is asked for is held for a moment."""

    policy: Retention
    room: int
    there: dict[str, Block] = field(default_factory=dict)
    now: float = 0.0
    pages: int = 0

    def use(self, names: list[str], chunk: bool, priority: float = 50) -> int:
        """Returns how many of these blocks were there."""
        found = [self.there.pop(name) for name in names if name in self.there]
        self.now += 1.0
        for block in found:
            self.policy.reused(block, self.now)
        held = {name_of(block): block for block in found}
        for n, name in enumerate(names):
            if name not in held:
                held[name] = self.new(name, 16 * n, chunk, priority)
        self.now += 1.0
        for block in reversed(held.values()):
            self.policy.idle(block, self.now)
        self.there.update(held)
        return len(found)

    def new(self, name: str, position: int, chunk: bool, priority: float) -> Block:
        while len(self.there) >= self.room:
            victim = self.policy.victim("full", self.now)
            gone = next(key for key, block in self.there.items() if block.page == victim)
            self.policy.gone(self.there.pop(gone), Why.EVICTED, self.now)
        self.pages += 1
        key = PageKey(name.encode())
        hints = hints_of(priority, None, chunk=chunk)
        block = Block(key, key, PageId(self.pages), "full", position, (1,), SIZE, hints)
        self.policy.stored(block, self.now)
        return block

    def count(self, kind: str) -> int:
        return sum(name.startswith(kind) for name in self.there)


def name_of(block: Block) -> str:
    assert block.key is not None
    return block.key.decode()


def asked(memory: Memory, questions: int, seed: int = 1) -> list[float]:
    """Of every question, which part of the blocks of its 8 passages, of 500 of 4 blocks each, were there.

    Every question leaves 12 blocks that nobody asks for again.
    """
    rng, found = random.Random(seed), []
    for question in range(questions):
        passages = rng.sample(range(500), 8)
        hits = sum(memory.use([f"chunk {p} {n}" for n in range(4)], chunk=True) for p in passages)
        memory.use([f"text {question} {n}" for n in range(12)], chunk=False)
        found.append(hits / 32)
    return found


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("name", POLICIES)
def test_hits_of_passages_do_not_decay_under_a_stream_of_questions(name: str) -> None:
    """Room for half of 500 passages, three quarters of which are the chunks': 500 questions over new combinations."""
    room = 1000
    memory = Memory(ChunkShare(POLICIES[name](tiny.GIVEN), 750 * SIZE), room)
    for passage in range(500):
        memory.use([f"chunk {passage} {n}" for n in range(4)], chunk=True)
    hits = asked(memory, 500)
    assert memory.count("chunk") >= 750 - 4
    assert mean(hits[-100:]) >= 0.95 * mean(hits[50:150]), "the last hundred find as much as the first"
    assert mean(hits[-100:]) > 0.9 * 750 / 2000, "about what has room, however often others were asked for"


def test_without_a_share_they_do() -> None:
    """What the share is for: the same stream in one order of time."""
    together, apart = Memory(LeastRecentlyUsed(), 1000), Memory(ChunkShare(LeastRecentlyUsed(), 1000 * SIZE), 1000)
    for memory in (together, apart):
        for passage in range(500):
            memory.use([f"chunk {passage} {n}" for n in range(4)], chunk=True)
    gain = mean(asked(apart, 300)[-100:]) - mean(asked(together, 300)[-100:])
    assert gain > 0.04


def filled(share: int, room: int = 100) -> Memory:
    return Memory(ChunkShare(LeastRecentlyUsed(), share * SIZE), room)


def test_neither_loses_its_share_and_nothing_lies_idle() -> None:
    memory = filled(40)
    memory.use([f"chunk {n}" for n in range(100)], chunk=True)
    assert memory.count("chunk") == 100, "what texts do not use, chunks have"
    for n in range(100):
        memory.use([f"text {n}"], chunk=False)
    assert (memory.count("chunk"), memory.count("text")) == (40, 60), "no less than their share"
    for n in range(100, 200):
        memory.use([f"chunk {n}"], chunk=True)
    assert (memory.count("chunk"), memory.count("text")) == (41, 59), "nor more, as long as texts use the rest"
    memory = filled(40)
    for n in range(200):
        memory.use([f"text {n}"], chunk=False)
    assert memory.count("text") == 100


def test_priorities_hold_across_both() -> None:
    memory = filled(10)
    memory.use(["chunk high"], chunk=True, priority=80)
    for n in range(20):
        memory.use([f"chunk {n}"], chunk=True)
    for n in range(120):
        memory.use([f"text {n}"], chunk=False)
    assert "chunk high" in memory.there
    memory = filled(90)
    memory.use(["text low"], chunk=False, priority=10)
    for n in range(120):
        memory.use([f"chunk {n}"], chunk=True, priority=60)
        memory.use([f"text {n}"], chunk=False, priority=20)
    assert "text low" not in memory.there
    assert memory.count("chunk") > 90


def test_what_was_unpublished_no_longer_counts() -> None:
    memory = filled(2, room=4)
    memory.use(["chunk 1", "chunk 2", "chunk 3"], chunk=True)
    for name in list(memory.there):
        memory.policy.gone(memory.there.pop(name), Why.RESET, memory.now)
    assert not memory.policy.book()
    memory.use(["chunk 4", "chunk 5"], chunk=True)
    memory.use(["text 1", "text 2", "text 3"], chunk=False)
    assert memory.count("chunk") == 2


def test_a_share_is_a_part() -> None:
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="chunk_share"):
            CacheConfig(chunk_share=share)


NO_ANSWER = SamplingParams(max_tokens=0)


@pytest.mark.parametrize(("share", "kept"), [(0.6, True), (0.0, False)])
def test_in_an_engine(share: float, kept: bool) -> None:
    """Passages that have room in their share stay while questions come and go."""
    engine = tiny.make_engine(kv_bytes=600_000, chunk_share=share)
    passages = {f"p{n}": tiny.random_prompt(48, n) for n in range(12)}
    tiny.run(engine, passages, NO_ANSWER, cache=computed_alone(None), check=False)
    for n in range(12):
        tiny.run(engine, {"q": tiny.random_prompt(150, 100 + n)}, NO_ANSWER, cache=CacheParams(), check=False)
    engine.check()
    assert engine.ledger.evicted_pages > 0
    computed = [
        tiny.run(engine, {"again": prompt}, NO_ANSWER, cache=computed_alone(None), check=False)["again"]
        .updates[-1]
        .metrics.computed_tokens
        for prompt in passages.values()
    ]
    assert (computed == [1] * 12) == kept
    assert engine.ledger.events.faults == 0
