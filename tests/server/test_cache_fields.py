"""What a body may ask of the cache: ``cache_salt``, and ``kvloom`` for what nobody else has a name for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

import tiny
from dict_tier import DictTier
from kvloom.config import ServerConfig
from kvloom.engine.async_engine import AsyncEngine
from kvloom.engine.cache_params import CacheParams, Guard
from kvloom.policy.compression import compression_of
from kvloom.server.app import create_app
from kvloom.server.dialect.extension import Extension, cache_params
from kvloom.server.edge.keys import Key

from .echo_engine import EchoEngine

CHAT = {"model": "mock", "messages": [{"role": "user", "content": "one two"}], "max_tokens": 3}
TEXT = {"model": "mock", "prompt": "one two", "max_tokens": 3}
ENDPOINTS = [("/v1/chat/completions", CHAT), ("/v1/completions", TEXT)]


@pytest.mark.parametrize(("path", "body"), ENDPOINTS)
@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ({}, CacheParams()),
        ({"kvloom": None}, CacheParams()),
        ({"kvloom": {}}, CacheParams()),
        ({"kvloom": {"cache": None}}, CacheParams()),
        ({"kvloom": {"cache": {"read": None, "write": True}}}, CacheParams()),
        ({"kvloom": {"cache": {"read": False}}}, CacheParams(read=False)),
        ({"kvloom": {"cache": {"priority": 0}}}, CacheParams(priority=0)),
        ({"kvloom": {"cache": {"ttl_s": 30}}}, CacheParams(ttl_s=30)),
        ({"kvloom": {"cache": {"ttl_s": 0.5, "priority": 80}}}, CacheParams(ttl_s=0.5, priority=80)),
        ({"kvloom": {"cache": {"ttl_s": None, "pin_s": None}}}, CacheParams()),
        ({"kvloom": {"cache": {"pin_s": 30}}}, CacheParams(pin_s=30)),
        ({"kvloom": {"cache": {"lossy": True}}}, CacheParams(lossy=True)),
        ({"kvloom": {"cache": {"kept_as": "chunk"}}}, CacheParams(kept_as="chunk")),
        ({"kvloom": {"cache": {"write": False}}, "cache_salt": "s"}, CacheParams(write=False, salt="s")),
        (
            {"kvloom": {"cache": {"compression": {"method": "sink_recent", "ratio": 0.5, "sinks": 2}}}},
            CacheParams(compression=compression_of("sink_recent", 0.5, sinks=2)),
        ),
        (
            {"kvloom": {"cache": {"compression": {"method": "knorm", "budget": 100_000}}}},
            CacheParams(compression=compression_of("knorm", budget=100_000)),
        ),
        (
            {"kvloom": {"cache": {"compression": {"method": "knorm", "ratio": 0.5}, "compress_when": "pressure"}}},
            CacheParams(compression=compression_of("knorm", 0.5), compress_when="pressure"),
        ),
        (
            {"kvloom": {"cache": {"compression": {"method": "keep_all"}, "compress_after": 1}}},
            CacheParams(compression=compression_of("keep_all"), compress_after=1),
        ),
        (
            {"kvloom": {"cache": {"compression": {"method": "keep_all"}, "guard": {"every": 4, "drift": 0}}}},
            CacheParams(compression=compression_of("keep_all"), guard=Guard(every=4, drift=0)),
        ),
        (
            {"kvloom": {"cache": {"compression": {"method": "keep_all"}, "guard": {"drift": None}}}},
            CacheParams(compression=compression_of("keep_all"), guard=Guard()),
        ),
    ],
)
async def test_what_arrives(
    http: httpx2.AsyncClient, engine: EchoEngine, path: str, body: Any, asked: Any, meant: CacheParams
) -> None:
    reply = await http.post(path, json=body | asked)
    assert reply.status_code == 200, reply.text
    assert "x-kvloom-ignored" not in reply.headers
    assert engine.caches == [meant]


@pytest.mark.parametrize(("path", "body"), ENDPOINTS)
@pytest.mark.parametrize(
    ("field", "param", "words"),
    [
        (True, "kvloom", "an object"),
        ([], "kvloom", "an object"),
        ({"cache": False}, "kvloom.cache", "an object"),
        ({"cache": {"read": 0}}, "kvloom.cache.read", "boolean"),
        ({"cache": {"write": "false"}}, "kvloom.cache.write", "boolean"),
        ({"cache": {"priority": "high"}}, "kvloom.cache.priority", "integer"),
        ({"cache": {"priority": 1.5}}, "kvloom.cache.priority", "integer"),
        ({"cache": {"priority": True}}, "kvloom.cache.priority", "integer"),
        ({"cache": {"priority": 101}}, "kvloom.cache.priority", "a whole number from 0 to 100"),
        ({"cache": {"priority": -1}}, "kvloom.cache.priority", "a whole number from 0 to 100"),
        ({"cache": {"ttl_s": "long"}}, "kvloom.cache.ttl_s", "number"),
        ({"cache": {"ttl_s": True}}, "kvloom.cache.ttl_s", "number"),
        ({"cache": {"ttl_s": -1}}, "kvloom.cache.ttl_s", "a number of seconds"),
        ({"cache": {"pin_s": "forever"}}, "kvloom.cache.pin_s", "number"),
        ({"cache": {"pin_s": -1}}, "kvloom.cache.pin_s", "a number of seconds"),
        ({"cache": {"kept_as": "page"}}, "kvloom.cache.kept_as", "'text', 'chunk' or 'imported'"),
        ({"cache": {"kept_as": 1}}, "kvloom.cache.kept_as", "string"),
        ({"cash": {}}, "kvloom.cash", "`kvloom` has `cache`"),
        (
            {"cache": {"reed": None}},
            "kvloom.cache.reed",
            "has `read`, `write`, `priority`, `ttl_s`, `pin_s`, `kept_as`, `compression`, `compress_after`, "
            "`compress_when`, `lossy`, `guard`, `fusion` and `documents`",
        ),
        ({"cache": {"compression": "knorm"}}, "kvloom.cache.compression", "an object"),
        ({"cache": {"compression": {}}}, "kvloom.cache.compression.method", "required"),
        ({"cache": {"compression": {"method": "best"}}}, "kvloom.cache.compression.method", "unknown method `best`"),
        ({"cache": {"compression": {"method": "knorm"}}}, "kvloom.cache.compression.ratio", "needs a ratio"),
        (
            {"cache": {"compression": {"method": "knorm", "ratio": 2}}},
            "kvloom.cache.compression.ratio",
            "a number from 0 to 1",
        ),
        (
            {"cache": {"compression": {"method": "knorm", "ratio": 0.5, "name": 1}}},
            "kvloom.cache.compression.name",
            "has no parameter `name`",
        ),
        (
            {"cache": {"compression": {"method": "random", "ratio": 0.5, "seed": "x"}}},
            "kvloom.cache.compression.seed",
            "must be of type int",
        ),
        ({"cache": {"compress_after": 1}}, "kvloom.cache.compress_after", "there is no compression"),
        ({"cache": {"compress_when": "pressure"}}, "kvloom.cache.compress_when", "needs a compression with a ratio"),
        ({"cache": {"compress_when": "now"}}, "kvloom.cache.compress_when", "'context' or 'pressure'"),
        ({"cache": {"guard": True}}, "kvloom.cache.guard", "an object"),
        ({"cache": {"guard": {}}}, "kvloom.cache.guard", "there is none"),
        ({"cache": {"guard": {"every": "8"}}}, "kvloom.cache.guard.every", "integer"),
        ({"cache": {"guard": {"every": 0}}}, "kvloom.cache.guard.every", "from 1 on"),
        ({"cache": {"guard": {"drift": -1}}}, "kvloom.cache.guard.drift", "from 0 on"),
        ({"cache": {"guard": {"drifts": 1}}}, "kvloom.cache.guard.drifts", "has `every` and `drift`"),
        (
            {"cache": {"compression": {"method": "knorm", "budget": 9999}, "guard": {}}},
            "kvloom.cache.guard",
            "has no room",
        ),
        ({"cache": {"salt": "x"}}, "kvloom.cache.salt", "use `cache_salt`, beside `kvloom`"),
        ({"cache": {"cache_salt": "x"}}, "kvloom.cache.cache_salt", "beside `kvloom`"),
        ({"cache": {"match": "tokens"}}, "kvloom.cache.match", "`share_prefixes`"),
    ],
)
async def test_nothing_in_it_is_ignored(
    http: httpx2.AsyncClient, engine: EchoEngine, path: str, body: Any, field: Any, param: str, words: str
) -> None:
    reply = await http.post(path, json=body | {"kvloom": field})
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, param)
    assert words in error["message"]
    assert engine.prompts == []


async def test_a_key_and_a_shared_cache_have_the_last_word(engine: EchoEngine, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("alice alices-key\n")
    asked = TEXT | {"cache_salt": "x", "kvloom": {"cache": {"write": False}}}
    for together in (False, True):
        config = ServerConfig(api_keys_file=str(keys), share_prefixes=together)
        transport = httpx2.ASGITransport(create_app(engine, config))
        async with httpx2.AsyncClient(transport=transport, base_url="http://kvloom") as http:
            reply = await http.post("/v1/completions", json=asked, headers={"Authorization": "Bearer alices-key"})
            assert reply.status_code == 200
    apart, shared = engine.caches
    assert apart == CacheParams(salt=Key("alice", "alices-key").salt("x"), write=False)
    assert shared == CacheParams(salt="x", write=False, match="pages")


@pytest.fixture
async def client() -> AsyncIterator[openai.AsyncOpenAI]:
    engine = AsyncEngine.over(tiny.make_engine(), tiny.CharTokenizer(), "tiny")
    transport = httpx2.ASGITransport(create_app(engine))
    try:
        async with httpx2.AsyncClient(transport=transport, base_url="http://kvloom") as http:
            yield openai.AsyncOpenAI(api_key="none", base_url="http://kvloom/v1", http_client=http, max_retries=0)
    finally:
        engine.close()


async def test_kv_in_fewer_bits_is_counted_apart() -> None:
    core = tiny.make_engine(tiers=[DictTier("warm_int8")])
    engine = AsyncEngine.over(core, tiny.CharTokenizer(), "tiny")
    body = {"model": "tiny", "prompt": tiny.random_prompt(100, 3), "max_tokens": 2}
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(create_app(engine)), base_url="http://kvloom") as http:
        for asked, lossy in ((False, None), (True, 96), (False, None)):
            reply = await http.post("/v1/completions", json=body | {"kvloom": {"cache": {"lossy": asked}}})
            usage = reply.json()["usage"]
            assert usage.get("kvloom", {}).get("lossy_tokens") == lossy
            assert usage["prompt_tokens_details"]["cached_tokens"] == 0
            assert core.tiers.flush(10)
            core.ledger.reset()
        assert 'kvloom:cache_lossy_tokens_total{model_name="tiny"} 96.0' in (await http.get("/metrics")).text
    engine.close()


def test_a_default_compression_is_not_for_who_takes_lossy_kv() -> None:
    default = compression_of("knorm", 0.5)
    asked = Extension.model_validate({"cache": {"lossy": True}})
    assert cache_params(asked, None, default) == CacheParams(lossy=True)
    assert cache_params(None, None, default) == CacheParams(compression=default)


async def test_what_comes_of_it(client: openai.AsyncOpenAI) -> None:
    """The same answer each time; found is only what was written, and only by who reads."""
    prompt, texts = tiny.random_prompt(64, 3), set()

    async def cached(**cache: bool) -> int:
        reply = await client.completions.create(
            model="tiny", prompt=prompt, max_tokens=5, temperature=0, extra_body={"kvloom": {"cache": cache}}
        )
        texts.add(reply.choices[0].text)
        return reply.usage.prompt_tokens_details.cached_tokens

    assert await cached(write=False) == 0
    assert await cached() == 0
    assert await cached(read=False) == 0
    assert await cached(write=False) == 63
    assert await cached(read=False, write=False) == 0
    assert len(texts) == 1
    with pytest.raises(openai.BadRequestError, match=r"kvloom\.cache\.keep"):
        await cached(keep=True)


async def test_a_prompt_is_prewarmed_and_pinned(client: openai.AsyncOpenAI) -> None:
    prompt, more = tiny.random_prompt(64, 3), {"kvloom": {"cache": {"pin_s": 60}}}
    nothing = await client.completions.create(model="tiny", prompt=prompt, max_tokens=0, extra_body=more)
    assert (nothing.choices[0].text, nothing.usage.completion_tokens) == ("", 0)
    reply = await client.completions.create(model="tiny", prompt=prompt, max_tokens=3)
    assert reply.usage.prompt_tokens_details.cached_tokens == 63


async def test_passages_are_computed_alone(client: openai.AsyncOpenAI) -> None:
    prompts = [tiny.random_prompt(64, 3), tiny.random_prompt(40, 4)]

    async def cached(**cache: object) -> int:
        body = {"kvloom": {"cache": cache}}
        reply = await client.completions.create(model="tiny", prompt=prompts, max_tokens=0, extra_body=body)
        assert [choice.text for choice in reply.choices] == ["", ""]
        return reply.usage.prompt_tokens_details.cached_tokens

    assert await cached(kept_as="chunk") == 0
    assert await cached(kept_as="chunk") == 63 + 39
    assert await cached() == 0, "texts do not find them"


async def test_a_context_is_compressed_for_who_asks(client: openai.AsyncOpenAI) -> None:
    params = {"method": "keep_none"}
    settings: dict[str, Any] = {"model": "tiny", "prompt": tiny.random_prompt(64, 3), "max_tokens": 5, "temperature": 0}

    async def asked(**cache: object) -> tuple[str, int]:
        reply = await client.completions.create(**settings, extra_body={"kvloom": {"cache": cache}})
        return reply.choices[0].text, reply.usage.prompt_tokens_details.cached_tokens

    exact, _ = await asked()
    less, cached = await asked(compression=params, compress_after=40)
    assert less != exact
    assert cached == 40
    assert await asked() == (exact, 63)
    with pytest.raises(openai.BadRequestError, match="must leave a token of the prompt"):
        await asked(compression=params, compress_after=64)


async def test_usage_says_what_is_left_of_a_context(client: openai.AsyncOpenAI) -> None:
    words = {"method": "random", "ratio": 0.75, "allocator": "adakv", "protect_first": 4}
    prompts = [tiny.random_prompt(64, seed) for seed in (3, 4)]
    reply = await client.completions.create(
        model="tiny",
        prompt=prompts,
        max_tokens=2,
        extra_body={"kvloom": {"cache": {"compression": words, "compress_after": 40}}},
    )
    first, second = reply.usage.model_extra["kvloom"]["compressed"]
    assert (first["prompt"], second["prompt"]) == (0, 1)
    assert first["method"] == "random"
    assert first["params"]["allocator"] == "adakv"
    assert (first["ratio"], first["tokens"], first["protected"]) == (0.75, 40, 4)
    assert first["bytes"] > 0
    kept = {each["layer"]: each["entries"] for each in first["kept"]}
    assert list(kept) == sorted(kept)
    assert all(sum(entries) == 10 * len(entries) for entries in kept.values())
    plain = await client.completions.create(model="tiny", prompt=prompts[0], max_tokens=2)
    assert "kvloom" not in (plain.usage.model_extra or {})


@pytest.mark.parametrize(("drift", "restored_at"), [(0, 0), (1e9, None)])
async def test_usage_says_what_a_guard_has_seen(
    client: openai.AsyncOpenAI, drift: float, restored_at: int | None
) -> None:
    words = {"compression": {"method": "random", "ratio": 0.9}, "guard": {"every": 2, "drift": drift}}
    settings: dict[str, Any] = {"model": "tiny", "prompt": tiny.random_prompt(64, 3), "max_tokens": 6, "temperature": 0}
    settings["extra_body"] = {"ignore_eos": True}
    exact = await client.completions.create(**settings)
    settings["extra_body"] |= {"kvloom": {"cache": words}}
    reply = await client.completions.create(**settings)
    (seen,) = reply.usage.model_extra["kvloom"]["guard"]
    assert (seen["prompt"], seen["restored_at"], seen["lost_at"]) == (0, restored_at, None)
    assert seen["checks"] == (3 if restored_at is None else 1)
    assert 0 < seen["mean_kl"] <= seen["max_kl"]
    assert seen["agreed"] <= seen["checks"]
    assert seen["bytes"] > 0
    assert (reply.choices[0].text == exact.choices[0].text) == (restored_at == 0)
    with pytest.raises(openai.BadRequestError, match="watches over one answer"):
        await client.completions.create(**settings, n=2)


async def test_a_prompt_that_the_memory_has_no_room_for_is_kept_within_a_budget() -> None:
    made = tiny.make_engine()
    budget = made.layout.peak_bytes(160)
    pool = made.layout.bytes_for_blocks(made.layout.blocks_within(budget, 512))
    engine = AsyncEngine.over(tiny.make_engine(kv_bytes=pool), tiny.CharTokenizer(), "tiny")
    settings: dict[str, Any] = {"model": "tiny", "prompt": tiny.random_prompt(300, 3), "max_tokens": 60}
    try:
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(create_app(engine)), base_url="http://kvloom"
        ) as http:
            client = openai.AsyncOpenAI(api_key="none", base_url="http://kvloom/v1", http_client=http, max_retries=0)
            with pytest.raises(openai.BadRequestError, match="maximum context length"):
                await client.completions.create(**settings)
            words = {"method": "h2o", "budget": budget}
            reply = await client.completions.create(
                **settings, extra_body={"kvloom": {"cache": {"compression": words}}}
            )
            with pytest.raises(openai.BadRequestError) as caught:
                await client.completions.create(
                    **settings, extra_body={"kvloom": {"cache": {"compression": words | {"budget": 5}}}}
                )
    finally:
        engine.close()
    assert reply.usage.completion_tokens == 60
    (compressed,) = reply.usage.model_extra["kvloom"]["compressed"]
    assert (compressed["ratio"], compressed["budget"]) == (None, budget)
    assert compressed["times"] > 2
    assert compressed["bytes"] < budget
    assert "a larger budget" in str(caught.value)
    assert caught.value.param == "kvloom.cache.compression.budget"
