"""Health, metrics, the cache, models, request ids."""

from __future__ import annotations

import asyncio
import gc
import weakref

import httpx2
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dict_tier import DictTier
from kvloom.server.app import create_app

from .conftest import Engines
from .echo_engine import EchoEngine
from .faulty_engine import FaultyEngine

TEXT = {"model": "mock", "prompt": "a b c", "max_tokens": 3}


async def samples(http: httpx2.AsyncClient) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    reply = await http.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(reply.text)
    found = [sample for family in families for sample in family.samples]
    for sample in found:
        ours = sample.name.startswith(("vllm:", "kvloom:")) and sample.name != "vllm:cache_config_info"
        assert not ours or sample.labels.pop("model_name") == "mock"
        assert not sample.name.startswith("vllm:") or sample.labels.pop("engine") == "0"
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in found}


async def test_metrics_have_vllms_names(http: httpx2.AsyncClient, engine: EchoEngine) -> None:
    for _ in range(2):
        await http.post("/v1/completions", json=TEXT)
    await engine.check()  # between two steps: its figures are those of now
    told = await samples(http)
    plain = {name: value for (name, labels), value in told.items() if not labels}
    assert plain["vllm:num_requests_running"] == 0
    assert plain["vllm:num_requests_waiting"] == 0
    assert plain["vllm:kv_cache_usage_perc"] == 0, "nothing runs"
    assert plain["vllm:prompt_tokens_total"] == 8
    assert plain["vllm:generation_tokens_total"] == 6
    assert plain["vllm:prefix_cache_queries_total"] == 8
    assert plain["vllm:prefix_cache_hits_total"] == 3
    assert plain["vllm:num_preemptions_total"] == 0
    assert {plain[f"kvloom:guard_{what}_total"] for what in ("checks", "restored", "lost")} == {0}
    assert plain["vllm:time_to_first_token_seconds_count"] == 2
    assert plain["vllm:inter_token_latency_seconds_count"] == 4
    assert plain["vllm:request_time_per_output_token_seconds_count"] == 2
    assert plain["vllm:e2e_request_latency_seconds_count"] == 2
    assert 0 < plain["vllm:e2e_request_latency_seconds_sum"] < 10
    assert plain["kvloom:kv_budget_bytes"] == 4 * 2**20
    assert plain["kvloom:kv_held_bytes"] == 0
    assert plain["kvloom:kv_cached_bytes"] > 0
    assert told["vllm:request_success_total", frozenset({("finished_reason", "length")})] == 2
    assert told["kvloom:cache_miss_tokens_total", frozenset({("why", "new")})] == 4
    assert told["kvloom:cache_miss_tokens_total", frozenset({("why", "last-token")})] == 1


async def test_every_series_is_there_from_the_start(http: httpx2.AsyncClient) -> None:
    told = await samples(http)
    for reason in ("stop", "length", "abort", "error"):
        assert told["vllm:request_success_total", frozenset({("finished_reason", reason)})] == 0
    assert told["kvloom:cache_miss_tokens_total", frozenset({("why", "evicted")})] == 0
    assert not any(("why", "other-salt") in labels for _, labels in told)
    assert told["kvloom:cache_hit_tokens_total", frozenset({("tier", "ram")})] == 0
    assert told["kvloom:compressed_contexts_total", frozenset({("method", "knorm")})] == 0
    assert told["http_requests_total", frozenset(ANSWERED | {("status", "5xx")})] == 0


ANSWERED = {("handler", "/v1/chat/completions"), ("method", "POST")}


async def test_a_request_counts_once_however_many_answers_it_has(http: httpx2.AsyncClient, engine: EchoEngine) -> None:
    await http.post("/v1/completions", json=TEXT | {"n": 3, "max_tokens": 5})
    await http.post("/v1/completions", json=TEXT | {"prompt": ["a b", "c d e"], "max_tokens": 2})
    await engine.check()
    told = await samples(http)
    plain = {name: value for (name, labels), value in told.items() if not labels}
    assert told["vllm:request_success_total", frozenset({("finished_reason", "length")})] == 3
    counts = {value for name, value in plain.items() if name.startswith("vllm:request_") and name.endswith("_count")}
    assert counts == {3}
    assert plain["vllm:request_generation_tokens_sum"] == 3 * 5 + 2 * 2
    assert plain["vllm:request_max_num_generation_tokens_sum"] == 5 + 2 + 2
    assert plain["vllm:request_params_n_sum"] == 3 + 1 + 1
    assert plain["vllm:request_params_max_tokens_sum"] == 5 + 2 + 2
    assert (
        plain["vllm:request_prefill_kv_computed_tokens_sum"]
        == plain["vllm:prompt_tokens_total"] - (plain["vllm:prompt_tokens_cached_total"])
    )
    phases = sum(plain[f"vllm:request_{what}_time_seconds_sum"] for what in ("queue", "prefill", "decode"))
    assert phases == pytest.approx(plain["vllm:e2e_request_latency_seconds_sum"])
    rows = plain["vllm:iteration_tokens_total_sum"]
    assert rows == plain["kvloom:computed_tokens_total"]
    assert 0 < plain["vllm:iteration_tokens_total_count"] <= plain["kvloom:steps_total"]


async def test_where_prompt_tokens_came_from_adds_up(http: httpx2.AsyncClient, engine: EchoEngine) -> None:
    for prompt in ("a b c d", "a b c d", "a b x"):
        await http.post("/v1/completions", json=TEXT | {"prompt": prompt})
    await engine.check()
    told = await samples(http)
    came = {
        source: told["vllm:prompt_tokens_by_source_total", frozenset({("source", source)})]
        for source in ("local_compute", "local_cache_hit", "external_kv_transfer")
    }
    assert came["external_kv_transfer"] == 0 < came["local_cache_hit"]
    assert sum(came.values()) == told["vllm:prompt_tokens_total", frozenset()]
    assert told["vllm:prompt_tokens_cached_total", frozenset()] == came["local_cache_hit"]


async def test_ends_that_are_no_success(
    http: httpx2.AsyncClient, faulty_http: httpx2.AsyncClient, new_engine: Engines
) -> None:
    assert (await faulty_http.post("/v1/completions", json=TEXT | {"prompt": "a !fail b"})).status_code == 500
    assert (await faulty_http.post("/v1/completions", json=TEXT | {"prompt": "a " * 80})).status_code == 400
    told = await samples(faulty_http)
    ended = {dict(labels)["finished_reason"]: n for (name, labels), n in told.items() if "request_success_t" in name}
    assert ended == {"stop": 0, "length": 0, "abort": 0, "error": 1}
    assert told["http_requests_total", frozenset({*COMPLETIONS, ("status", "4xx")})] == 1
    assert told["http_requests_total", frozenset({*COMPLETIONS, ("status", "5xx")})] == 1
    engine = new_engine(pace_s=0.02, max_model_len=8000)
    slow = create_app(engine)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(slow), base_url="http://kvloom") as beside:
        asked = asyncio.create_task(beside.post("/v1/completions", json=TEXT | {"max_tokens": 5000}))
        while not engine.live:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.06)
        asked.cancel()
        await asyncio.wait((asked,))
        told = await samples(beside)
    assert told["vllm:request_success_total", frozenset({("finished_reason", "abort")})] == 1
    assert told["vllm:e2e_request_latency_seconds_count", frozenset()] == 0


COMPLETIONS = {("handler", "/v1/completions"), ("method", "POST")}


async def test_labels_of_paths_are_few(http: httpx2.AsyncClient) -> None:
    for path in ("/v1/models/mock", "/v1/models/x", "/nothing", "/nothing/else"):
        await http.get(path)
    told = await samples(http)
    seen = {dict(labels)["handler"] for name, labels in told if name == "http_requests_total"}
    assert seen == {"/v1/chat/completions", "/v1/models/{name}", "none"}


async def test_two_servers_do_not_share_a_registry(http: httpx2.AsyncClient, new_engine: Engines) -> None:
    other = create_app(new_engine())
    await http.post("/v1/completions", json=TEXT)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(other), base_url="http://kvloom") as beside:
        told = await samples(beside)
    assert told["vllm:e2e_request_latency_seconds_count", frozenset()] == 0


async def test_a_server_that_is_over_holds_no_engine() -> None:
    engine = EchoEngine()
    app = create_app(engine)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://kvloom") as http:
        for method, path in (("GET", "/v1/models/mock"), ("GET", "/metrics"), ("POST", "/v1/completions")):
            assert (await http.request(method, path, json=TEXT)).status_code == 200
    engine.close()
    left = weakref.ref(engine)
    del engine, app, http
    gc.collect()
    assert left() is None


async def test_health_follows_the_engine(http: httpx2.AsyncClient, engine: EchoEngine) -> None:
    assert (await http.get("/health")).json() == {"status": "ok"}
    engine.close()
    reply = await http.get("/health")
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "engine_stopped"


async def test_cache(http: httpx2.AsyncClient, engine: EchoEngine) -> None:
    await http.post("/v1/completions", json=TEXT)
    told = (await http.get("/cache")).json()
    assert told["cache"]["budget_bytes"] == 4 * 2**20
    assert told["prompt_tokens"] == 4
    assert (await http.post("/cache/reset")).json() == {"status": "ok"}
    assert engine.resets == 1
    reply = await http.post("/v1/completions", json=TEXT)
    assert reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


async def test_an_audit_on_demand(
    http: httpx2.AsyncClient, faulty_http: httpx2.AsyncClient, faulty: FaultyEngine
) -> None:
    assert (await http.post("/cache/check")).json() == {"status": "ok"}
    faulty.audit_fault = "a page leaks"
    reply = await faulty_http.post("/cache/check")
    assert reply.status_code == 500
    assert reply.json()["error"]["type"] == "server_error"


async def test_models(client: openai.AsyncOpenAI) -> None:
    models = [model async for model in client.models.list()]
    assert [model.id for model in models] == ["mock"]
    assert models[0].max_model_len == 64
    assert (await client.models.retrieve("mock")).owned_by == "kvloom"


async def test_version(http: httpx2.AsyncClient) -> None:
    assert (await http.get("/version")).json()["version"][0].isdigit()


async def test_request_ids(http: httpx2.AsyncClient) -> None:
    for path in ("/health", "/nothing", "/v1/models"):
        reply = await http.get(path, headers={"x-request-id": "mine-1"})
        assert reply.headers["x-request-id"] == "mine-1"
        first, second = [(await http.get(path)).headers["x-request-id"] for _ in range(2)]
        assert first != second
    reply = await http.get("/health", headers={"x-request-id": "x" * 200})
    assert len(reply.headers["x-request-id"]) == 32


async def test_equal_request_ids_do_not_collide(http: httpx2.AsyncClient, engine: EchoEngine) -> None:
    for _ in range(2):
        reply = await http.post("/v1/completions", json=TEXT, headers={"x-request-id": "same"})
        assert reply.status_code == 200
    assert len(set(engine.seen)) == 2


async def test_tiers_are_told_of_apart(new_engine: Engines) -> None:
    labels, engine = frozenset({("tier", "disk")}), new_engine(tiers=[DictTier()])
    transport = httpx2.ASGITransport(create_app(engine))
    async with httpx2.AsyncClient(transport=transport, base_url="http://kvloom") as http:
        await http.post("/v1/completions", json=TEXT | {"prompt": "a " * 40})
        assert engine.engine.tiers.flush(10)
        await engine.check()
        told = await samples(http)
        assert told["kvloom:tier_written_pages_total", labels] > 0
        assert told["kvloom:tier_pages", labels] > 0
        shown = (await http.get("/cache")).json()["cache"]["tiers"]["disk"]
        assert shown["written_pages"] == told["kvloom:tier_written_pages_total", labels]
        assert told["kvloom:tier_offloaded_pages_total", labels] == 0
        assert told["kvloom:begun_by_bands_total", frozenset()] == 0
