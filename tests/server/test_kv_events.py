"""Events about KV over ZeroMQ, heard by a subscriber that is written against vLLM's schema."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
import zmq
from prometheus_client.parser import text_string_to_metric_families

import tiny
from kvloom.config import EventsConfig
from kvloom.engine.async_engine import AsyncEngine
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.engine import Engine
from kvloom.engine.params import SamplingParams
from kvloom.errors import ConfigError
from kvloom.memory.format import PAGE_TOKENS
from kvloom.policy.events import Block
from kvloom.segment import PageId, PageKey, Why
from kvloom.server.app import create_app
from kvloom.server.events.feed import CLEARED, Feed
from kvloom.server.events.open import KvEvents, open_events
from kvloom.server.events.told import Told, hash_of

from .conftest import Engines
from .echo_engine import EchoEngine
from .kv_subscriber import AllBlocksCleared, BlockRemoved, Blocks, BlockStored, Subscriber


@contextmanager
def published(engine: AsyncEngine, where: Path, **settings: object) -> Iterator[tuple[KvEvents, Subscriber]]:
    """Events of an engine, and a subscriber."""
    config = EventsConfig(
        kv_events_endpoint=f"ipc://{where}/events",
        kv_events_replay_endpoint=f"ipc://{where}/replay",
        kv_events_snapshot_endpoint=f"ipc://{where}/snapshot",
        kv_events_topic="kv-events",
        **settings,  # type: ignore[arg-type]
    )
    events = in_a_thread(lambda: open_events(config, engine))
    assert events is not None
    subscriber = Subscriber(f"ipc://{where}/events", "kv-events")
    try:
        yield events, subscriber
    finally:
        subscriber.close()
        events.close()


async def heard(engine: AsyncEngine, subscriber: Subscriber) -> None:
    """Connecting takes a while: from now on the subscriber misses nothing."""
    while not subscriber.batches:
        await engine.reset_cache()
        subscriber.read(0.05)


def in_a_thread(work):
    """What starts an event loop of its own, beside the one of the test."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def stored(engine: Engine) -> Blocks:
    """What the ledger has published, whole pages of texts only."""
    groups = {fmt: group for group, fmt in enumerate(engine.layout.formats)}
    blocks: Blocks = {}
    for page in engine.ledger.index.pages():
        block = engine.ledger._records[page].block
        assert block is not None
        if len(block.tokens) == PAGE_TOKENS and block.format in groups and "chunk" not in block.hints:
            group = groups[block.format] if len(groups) > 1 else None
            blocks[group, hash_of(block.key)] = tuple(block.tokens)
    return blocks


async def ask(engine: AsyncEngine, prompt: list[int], count: int = 12, **cache: object) -> None:
    params = SamplingParams(max_tokens=count, ignore_eos=True, temperature=0)
    async for _ in engine.generate(prompt, params, cache=CacheParams(**cache)):  # type: ignore[arg-type]
        pass


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Iterator[AsyncEngine]:
    """With little memory, so that pages are evicted."""
    windows = getattr(request, "param", (None, None))
    engine = AsyncEngine.over(tiny.make_engine(windows=windows, kv_bytes=384 * 2**10), tiny.CharTokenizer(), "tiny")
    yield engine
    engine.close()


@pytest.mark.parametrize("served", [(None, None), (None, 24)], ids=["one group", "a window"], indirect=True)
async def test_a_subscriber_knows_what_the_ledger_has_stored(served: AsyncEngine, tmp_path: Path) -> None:
    await ask(served, tiny.random_prompt(70, 0))  # before anybody listens
    with published(served, tmp_path) as (_, subscriber):
        subscriber.snapshot(f"ipc://{tmp_path}/snapshot")
        assert subscriber.blocks == stored(served.engine) != {}
        for seed in range(16):
            await ask(served, [*tiny.random_prompt(50, seed % 5), *tiny.random_prompt(30, seed)], count=4)
        subscriber.read()
        assert subscriber.blocks == stored(served.engine)
        events = [event for batch in subscriber.batches for event in batch.events]
        assert any(isinstance(event, BlockRemoved) for event in events), "nothing was evicted"
        await served.reset_cache()
        subscriber.read()
        assert subscriber.blocks == stored(served.engine) == {}
        assert isinstance(subscriber.batches[-1].events[-1], AllBlocksCleared)
        await ask(served, tiny.random_prompt(70, 3))
        subscriber.read()
        assert subscriber.blocks == stored(served.engine) != {}


async def test_texts_follow_one_another_and_salts_are_told_apart(served: AsyncEngine, tmp_path: Path) -> None:
    prompt = tiny.random_prompt(70, 0)
    with published(served, tmp_path) as (_, subscriber):
        await heard(served, subscriber)
        await ask(served, prompt)
        await ask(served, prompt, salt="s")
        subscriber.read()
        firsts = [
            event
            for batch in subscriber.batches
            for event in batch.events
            if isinstance(event, BlockStored) and event.parent_block_hash is None and not event.group_idx
        ]
        assert [event.token_ids[:PAGE_TOKENS] for event in firsts] == [prompt[:PAGE_TOKENS]] * 2
        assert firsts[0].extra_keys is None
        assert firsts[1].extra_keys is not None
        assert firsts[1].extra_keys[0] is not None
        assert firsts[0].block_hashes[0] != firsts[1].block_hashes[0]
        assert len(firsts[0].block_hashes) == 4, "pages of one text are one event"


async def test_what_was_missed_is_replayed_and_older_things_are_in_the_snapshot(
    served: AsyncEngine, tmp_path: Path
) -> None:
    with published(served, tmp_path, kv_events_buffer_steps=3) as (events, subscriber):
        await heard(served, subscriber)
        before = events.publisher.batches - len(subscriber.batches)
        for seed in range(6):
            await ask(served, tiny.random_prompt(40, seed))
            subscriber.read(0.12)
        late = Subscriber(f"ipc://{tmp_path}/events", "kv-events")
        first = events.publisher.batches - 3 - before
        late.replay(f"ipc://{tmp_path}/replay", 0)
        assert [batch.ts for batch in late.batches][:3] == [batch.ts for batch in subscriber.batches][first:][:3]
        publisher = late.snapshot(f"ipc://{tmp_path}/snapshot")
        late.read()
        subscriber.read()
        assert late.blocks == subscriber.blocks == stored(served.engine)
        assert {batch.publisher_id for batch in subscriber.batches} == {publisher}
        late.close()


async def test_a_subscriber_that_does_not_read_harms_nothing(served: AsyncEngine, tmp_path: Path) -> None:
    with published(served, tmp_path, kv_events_hwm=2) as (events, subscriber):
        for seed in range(20):
            await ask(served, tiny.random_prompt(40, seed))
        deadline = time.monotonic() + 5
        while events.publisher._told.stored.keys() != {  # the thread has published all of it
            (group or 0, name) for group, name in stored(served.engine)
        }:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        assert events.feed.dropped == 0
        fresh = Subscriber(f"ipc://{tmp_path}/events", "kv-events")
        fresh.snapshot(f"ipc://{tmp_path}/snapshot")
        assert fresh.blocks == stored(served.engine)
        fresh.close()
        assert subscriber.batches == []


def block(engine: EchoEngine, number: int) -> Block:
    key = PageKey(number.to_bytes(32, "big"))
    root, fmt = engine.facts.root, engine.facts.formats[0]
    return Block(key, PageKey(root), PageId(number), fmt, 0, (1,) * PAGE_TOKENS, 1)


def test_more_events_than_there_is_room_for_are_dropped_counted_and_owned_up_to(engine: EchoEngine) -> None:
    feed, told = Feed(engine.facts.formats, limit=4), Told(engine.facts)
    for number in range(3):
        feed.stored(block(engine, number), 0.0)
    told.events(feed.take(0))
    assert len(told.stored) == 3
    feed.gone(block(engine, 1), Why.EVICTED, 0.0)
    for number in range(3, 9):
        feed.stored(block(engine, number), 0.0)
    changes = feed.take(0)
    assert changes[0] is CLEARED
    assert feed.dropped == 4
    told.events(changes)
    assert {name for _, name in told.stored} == {6, 7, 8}, "nothing that is gone is taken for stored"


def test_what_is_not_the_beginning_of_a_prompt_is_not_told(engine: EchoEngine) -> None:
    feed = Feed(engine.facts.formats, limit=100)
    feed.take(0)
    whole = block(engine, 1)
    for other in (
        whole._replace(tokens=(1, 2)),
        whole._replace(hints={"chunk": 1.0}),
        whole._replace(format="lists by head"),
    ):
        feed.stored(other, 0.0)
        feed.gone(other, Why.EVICTED, 0.0)
    assert feed.take(0) == []


async def test_metrics_tell_of_events(new_engine: Engines, tmp_path: Path) -> None:
    engine = new_engine()
    with published(engine, tmp_path) as (events, subscriber):
        await heard(engine, subscriber)
        transport = httpx2.ASGITransport(create_app(engine, collectors=[events]))
        async with httpx2.AsyncClient(transport=transport, base_url="http://kvloom") as http:
            await http.post("/v1/completions", json={"prompt": "a " * 40, "max_tokens": 3})
            subscriber.read()
            text = (await http.get("/metrics")).text
    told = {each.name: each.samples for each in text_string_to_metric_families(text)}
    assert told["kvloom:kv_event_batches"][0].value > subscriber.last > 0
    assert told["kvloom:kv_events_dropped"][0].value == 0


def test_an_address_that_cannot_be_had_is_named(engine: EchoEngine, tmp_path: Path) -> None:
    with zmq.Context() as context, context.socket(zmq.PUB) as taken:
        port = taken.bind_to_random_port("tcp://127.0.0.1")
        with pytest.raises(ConfigError, match=rf"tcp://\*:{port}.*in use"):
            open_events(EventsConfig(kv_events_endpoint=f"tcp://*:{port}"), engine)
    assert open_events(EventsConfig(), engine) is None
    with pytest.raises(ConfigError, match="is no endpoint"):
        EventsConfig(kv_events_endpoint="5557")
    with pytest.raises(ConfigError, match="of no use without"):
        EventsConfig(kv_events_replay_endpoint="tcp://*:5558")
