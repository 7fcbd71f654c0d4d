"""Queries of dashboards: everything that vLLM's published ones and our own ask for is in the real /metrics."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dict_tier import DictTier
from kvloom.server.app import create_app

from .conftest import Engines

OURS = Path(__file__).parents[2] / "deploy" / "grafana" / "kvloom.json"

RANGE = "[$__rate_interval]"
M = '{model_name="$model_name"}'
E = '{job=~"$job", model_name=~"$model_name", instance=~"$instance", engine=~"$engine"}'
VLLM = (
    # examples/observability/prometheus_grafana: by model, at the quantiles 0.5, 0.9, 0.95 and 0.99
    *(
        f"histogram_quantile(0.99, sum by(le) (rate(vllm:{name}_bucket{M}{RANGE})))"
        for name in ("e2e_request_latency_seconds", "inter_token_latency_seconds", "time_to_first_token_seconds")
    ),
    *(
        f"rate(vllm:{name}_sum{M}{RANGE}) / rate(vllm:{name}_count{M}{RANGE})"
        for name in ("e2e_request_latency_seconds", "inter_token_latency_seconds", "time_to_first_token_seconds")
    ),
    f"rate(vllm:prompt_tokens_total{M}{RANGE})",
    f"rate(vllm:generation_tokens_total{M}{RANGE})",
    f"vllm:num_requests_running{M}",
    f"vllm:num_requests_waiting{M}",
    f"vllm:kv_cache_usage_perc{M}",
    f"sum by(le) (increase(vllm:request_prompt_tokens_bucket{M}{RANGE}))",
    f"sum by(le) (increase(vllm:request_generation_tokens_bucket{M}{RANGE}))",
    f"sum by(finished_reason) (increase(vllm:request_success_total{M}{RANGE}))",
    f"rate(vllm:request_queue_time_seconds_sum{M}{RANGE})",
    f"rate(vllm:request_prefill_time_seconds_sum{M}{RANGE})",
    f"rate(vllm:request_decode_time_seconds_sum{M}{RANGE})",
    f"rate(vllm:request_max_num_generation_tokens_sum{M}{RANGE})",
    # examples/observability/dashboards/grafana: by engine too
    f"count(vllm:num_requests_running{E})",
    f"max by (instance, engine) (vllm:kv_cache_usage_perc{E})",
    f'sum(vllm:num_requests_waiting_by_reason{E[:-1]}, reason="capacity"}})',
    f'sum(vllm:num_requests_waiting_by_reason{E[:-1]}, reason="deferred"}})',
    f"sum(rate(vllm:prefix_cache_hits_total{E}{RANGE})) / sum(rate(vllm:prefix_cache_queries_total{E}{RANGE}))",
    f"sum(rate(vllm:prompt_tokens_cached_total{E}{RANGE})) / sum(rate(vllm:prompt_tokens_total{E}{RANGE}))",
    f"sum by (source) (rate(vllm:prompt_tokens_by_source_total{E}{RANGE}))",
    f"sum(rate(vllm:num_preemptions_total{E}{RANGE}))",
    f"histogram_quantile(0.95, sum by (le) (rate(vllm:iteration_tokens_total_bucket{E}{RANGE})))",
    f"histogram_quantile(0.95, sum by (le) (rate(vllm:request_inference_time_seconds_bucket{E}{RANGE})))",
    f"histogram_quantile(0.95, sum by (le) (rate(vllm:request_time_per_output_token_seconds_bucket{E}{RANGE})))",
    f"histogram_quantile(0.95, sum by (le) (rate(vllm:request_params_n_bucket{E}{RANGE})))",
    f"histogram_quantile(0.95, sum by (le) (rate(vllm:request_params_max_tokens_bucket{E}{RANGE})))",
    f"histogram_quantile(0.95, sum by (le) (rate(vllm:request_prefill_kv_computed_tokens_bucket{E}{RANGE})))",
    'sum(rate(http_requests_total{job=~"$job", instance=~"$instance", status="5xx"}[$__rate_interval]))',
    'vllm:cache_config_info{job=~"$job", instance=~"$instance", engine=~"$engine", block_size=~".+"}',
)
"""Of vLLM's dashboards, as they are published: every metric that is not of a feature which only vLLM has."""

_PROMETHEUS = {"job", "instance"}
"""Labels that a scrape adds."""

_SELECTOR = re.compile(r"((?:vllm|kvloom):\w+|http_requests_total)(?:\{(.*?)\})?")
_BY = re.compile(r"\bby ?\(([\w, ]+)\)")


def labels_by_name(text: str) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = defaultdict(list)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name].append(dict(sample.labels))
    return found


def lacks(query: str, there: dict[str, list[dict[str, str]]]) -> Iterator[str]:
    """What a query asks for that is not there: names, labels, values of labels."""
    grouped = {label.strip() for group in _BY.findall(query) for label in group.split(",")}
    names = _SELECTOR.findall(query)
    assert names, query
    for name, selector in names:
        if name not in there:
            yield name
            continue
        asked = dict(re.findall(r'(\w+)=~?"(.*?)"', selector))
        for label in ({*asked} | grouped) - _PROMETHEUS:
            values = {labels[label] for labels in there[name] if label in labels}
            exact = "" if asked.get(label, "$").startswith(("$", ".")) else asked[label]
            if not values or (exact and exact not in values):
                yield f"{name}: {label} {exact}"


@pytest.fixture
async def metrics(new_engine: Engines) -> dict[str, list[dict[str, str]]]:
    """Of a server that has a tier and nobody has asked anything: every series is there from the start."""
    transport = httpx2.ASGITransport(create_app(new_engine(tiers=[DictTier()])))
    async with httpx2.AsyncClient(transport=transport, base_url="http://kvloom") as http:
        return labels_by_name((await http.get("/metrics")).text)


def test_every_query_of_vllms_dashboards_finds_its_series(metrics: dict[str, list[dict[str, str]]]) -> None:
    assert {query: found for query in VLLM if (found := list(lacks(query, metrics)))} == {}


def test_every_query_of_our_dashboard_finds_its_series(metrics: dict[str, list[dict[str, str]]]) -> None:
    queries = [target["expr"] for panel in panels() for target in panel.get("targets", ())]
    assert len(queries) > 30
    assert {query: found for query in queries if (found := list(lacks(query, metrics)))} == {}
    asked = {name for query in queries for name, _ in _SELECTOR.findall(query)}
    assert {"kvloom:cache_miss_tokens_total", "kvloom:tier_used_bytes", "kvloom:compressed_bytes_total"} <= asked


def test_a_query_that_finds_nothing_is_seen(metrics: dict[str, list[dict[str, str]]]) -> None:
    for query, name in (
        ("rate(vllm:no_such_total[1m])", "vllm:no_such_total"),
        ("sum by (tier) (vllm:kv_cache_usage_perc)", "vllm:kv_cache_usage_perc: tier "),
        ('vllm:num_requests_waiting_by_reason{reason="none"}', "vllm:num_requests_waiting_by_reason: reason none"),
    ):
        assert list(lacks(query, metrics)) == [name]


def test_panels_do_not_overlap() -> None:
    found = panels()
    assert len({panel["id"] for panel in found}) == len(found)
    taken: set[tuple[int, int]] = set()
    for panel in found:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells
        assert all(x < 24 for x, _ in cells)
        taken |= cells
    assert all(target["datasource"]["uid"] == "${datasource}" for p in found for target in p.get("targets", ()))


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(OURS.read_text(encoding="utf-8"))["panels"]
    return found
