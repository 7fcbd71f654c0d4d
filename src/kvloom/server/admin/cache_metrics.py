"""Metrics with labels of their own: what waits and why, where prompt tokens came from, what the KV memory is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from kvloom.engine.facts import KvFacts
from kvloom.engine.stats import STEP_ROWS, EngineStats, FusionStats, StepRows
from kvloom.segment import RAM, Why
from kvloom.server.admin.request_histograms import ENGINE

_FUSION: tuple[tuple[str, str, Callable[[FusionStats], int]], ...] = (
    ("prompts", "Prompts whose documents had the KV that they had alone", lambda totals: totals.prompts),
    ("found_tokens", "Tokens of documents whose KV, alone, was found", lambda totals: totals.found_tokens),
    ("computed_tokens", "Tokens of documents that were computed alone", lambda totals: totals.computed_tokens),
    ("repaired_tokens", "Tokens of documents computed again in prompts", lambda totals: totals.repaired_tokens),
)

_REMOTE = "remote"
_NEVER_TOLD = {Why.OTHER_SALT}
"""``public_stats`` makes something else of them."""


def cache_metrics(stats: EngineStats, facts: KvFacts, model: str) -> Iterator[Metric]:
    """Every series is there from the start, but for those of selectors."""
    cache, both = stats.cache, {"model_name": model, "engine": ENGINE}
    waiting = {"capacity": stats.waiting - stats.deferred, "deferred": stats.deferred}
    yield _by("vllm:num_requests_waiting_by_reason", "Requests waiting", both, "reason", waiting, GaugeMetricFamily)
    sources = _sources(stats)
    yield _by("vllm:prompt_tokens_by_source", "Prompt tokens, by where their KV came from", both, "source", sources)
    yield _steps(stats.step_rows, both)
    yield _info("vllm:cache_config_info", "The KV memory, in vLLM's words", {"engine": ENGINE} | _config(facts))
    ours = {"model_name": model}
    yield _info("kvloom:cache_info", "The KV memory", ours | _facts(facts))
    misses = {why.value: 0 for why in Why if why not in _NEVER_TOLD} | cache.misses_by_why
    yield _by("kvloom:cache_miss_tokens", "Prompt tokens computed", ours, "why", misses)
    hits = dict.fromkeys((RAM, *facts.tiers), 0) | cache.hit_tokens_by_tier
    yield _by("kvloom:cache_hit_tokens", "Prompt tokens found", ours, "tier", hits)
    for name, says, counted in _FUSION:
        totals = {selector: counted(each) for selector, each in stats.fusion.items()}
        yield _by(f"kvloom:fused_{name}", says, ours, "selector", totals)


def _sources(stats: EngineStats) -> dict[str, int]:
    """vLLM's three: together they are the tokens of all prompts that have begun."""
    by_tier = stats.cache.hit_tokens_by_tier
    elsewhere = by_tier.get(_REMOTE, 0)
    return {
        "local_compute": stats.cache.miss_tokens,
        "local_cache_hit": sum(by_tier.values()) - elsewhere,
        "external_kv_transfer": elsewhere,
    }


def _config(facts: KvFacts) -> dict[str, str]:
    """The labels of vLLM that mean something here; ``num_gpu_blocks`` is of the memory in which KV is used."""
    windows = [str(window) for window in facts.windows if window is not None]
    return {
        "block_size": str(facts.page_tokens),
        "cache_dtype": facts.kv_dtype,
        "enable_prefix_caching": "True",
        "num_gpu_blocks": str(facts.pages),
        "sliding_window": ",".join(windows) or "None",
    }


def _facts(facts: KvFacts) -> dict[str, str]:
    return {
        "bands": str(facts.bands),
        "kv_dtype": facts.kv_dtype,
        "page_tokens": str(facts.page_tokens),
        "retention": facts.retention,
        "tiers": ",".join((RAM, *facts.tiers)),
    }


def _steps(rows: StepRows, labels: Mapping[str, str]) -> Metric:
    bounds = [*(str(float(bound)) for bound in STEP_ROWS), "+Inf"]
    buckets = list(zip(bounds, accumulate(rows.counts), strict=True))
    name, says = "vllm:iteration_tokens_total", "Rows of a step: positions run through the model"
    histogram = HistogramMetricFamily(name, says, labels=tuple(labels))
    histogram.add_metric(tuple(labels.values()), buckets, rows.total)
    return histogram


def _info(name: str, says: str, labels: Mapping[str, str]) -> Metric:
    info = GaugeMetricFamily(name, says, labels=tuple(labels))
    info.add_metric(tuple(labels.values()), 1)
    return info


def _by(
    name: str,
    says: str,
    labels: Mapping[str, str],
    by: str,
    values: Mapping[str, int],
    kind: type[CounterMetricFamily] | type[GaugeMetricFamily] = CounterMetricFamily,
) -> Metric:
    metric = kind(name, says, labels=(*labels, by))
    for key, value in values.items():
        metric.add_metric((*labels.values(), key), value)
    return metric
