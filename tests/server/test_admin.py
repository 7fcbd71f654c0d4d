"""Health, metrics, the cache, models, request ids."""

from __future__ import annotations

import gc
import weakref

import httpx2
import openai
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
    assert all(sample.labels.pop("model_name") == "mock" for sample in found)
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
