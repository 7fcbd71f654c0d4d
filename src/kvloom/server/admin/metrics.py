"""Prometheus metrics: vLLM's names where they exist, so that its dashboards work, and our own for KV memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kvloom.engine.outputs import FinishReason, RequestUpdate
from kvloom.engine.params import SamplingParams
from kvloom.engine.stats import EngineStats
from kvloom.server.admin.cache_metrics import cache_metrics
from kvloom.server.admin.http_counter import HttpCounter
from kvloom.server.admin.method_counters import MethodCounters
from kvloom.server.admin.public_stats import public_stats
from kvloom.server.admin.request_histograms import ENGINE, RequestHistograms
from kvloom.server.admin.tier_metrics import tier_metrics
from kvloom.server.engine_protocol import ServedEngine

_REASONS = ("stop", "length", "abort", "error")


class Metrics:
    """The registry of one server. Totals come from the engine when scraped; times cover finished requests."""

    def __init__(self, engine: ServedEngine) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_EngineCollector(engine))
        self._model = engine.model_name
        self._requests = RequestHistograms(self.registry, self._model, engine.max_model_len)
        self._methods = MethodCounters(self.registry, self._model)
        self.http = HttpCounter(self.registry)
        ends = Counter(
            "vllm:request_success",
            "Requests that are over",
            ("model_name", "engine", "finished_reason"),
            registry=self.registry,
        )
        self._ends = {reason: ends.labels(self._model, ENGINE, reason) for reason in _REASONS}
        self._refused = Counter(
            "kvloom:default_compressions_refused",
            "Prompts answered exactly as the default compression cannot be had for them",
            ("model_name",),
            registry=self.registry,
        ).labels(model_name=self._model)

    def observe(self, update: RequestUpdate, params: SamplingParams) -> None:
        """Record a finished request."""
        self._requests.observe(update, params)
        self._methods.observe(update)

    def ended(self, reason: FinishReason) -> None:
        """Count a request that is over: ``stop`` and ``length`` are those that ``observe`` records."""
        self._ends[reason].inc()

    def default_refused(self) -> None:
        """Record a prompt that is answered exactly, although a default says otherwise."""
        self._refused.inc()

    def render(self) -> bytes:
        """The metrics in Prometheus text format."""
        return generate_latest(self.registry)


class _EngineCollector(Collector):
    """Reads the engine's counters at every scrape and stores none."""

    def __init__(self, engine: ServedEngine) -> None:
        self._engine = engine

    def describe(self) -> Iterator[Metric]:
        return iter(())  # our names are fixed: registration needs no scrape

    def collect(self) -> Iterator[Metric]:
        stats = public_stats(self._engine.stats())
        model = self._engine.model_name
        for kind, figures in ((GaugeMetricFamily, _gauges(stats)), (CounterMetricFamily, _counters(stats))):
            for name, help_text, value in figures:
                labels = labels_of(name, model)
                metric = kind(name, help_text, labels=tuple(labels))
                metric.add_metric(tuple(labels.values()), value)
                yield metric
        yield from cache_metrics(stats, self._engine.facts, model)
        yield from tier_metrics(stats.cache.tiers, model)


def labels_of(name: str, model: str) -> Mapping[str, str]:
    """Of a metric without labels of its own."""
    return {"model_name": model, "engine": ENGINE} if name.startswith("vllm:") else {"model_name": model}


def _gauges(stats: EngineStats) -> Iterator[tuple[str, str, float]]:
    cache = stats.cache
    yield "vllm:num_requests_running", "Requests in the running batch", stats.running
    yield "vllm:num_requests_waiting", "Requests waiting to be admitted", stats.waiting
    yield (
        "vllm:kv_cache_usage_perc",
        "Part of the KV budget held by requests, 0 to 1",
        cache.held_bytes / cache.budget_bytes,
    )
    yield "kvloom:kv_budget_bytes", "Bytes that KV may use", cache.budget_bytes
    yield "kvloom:kv_used_bytes", "Bytes of KV in use, metadata included", cache.used_bytes
    yield "kvloom:kv_held_bytes", "Bytes of pages that some request uses", cache.held_bytes
    yield "kvloom:kv_cached_bytes", "Bytes of pages kept for reuse", cache.cached_bytes
    yield "kvloom:kv_pinned_bytes", "Bytes of pages kept for reuse that are pinned", cache.pinned_bytes
    yield "kvloom:kv_metadata_bytes", "Bytes of page tables and index", cache.metadata_bytes


def _counters(stats: EngineStats) -> Iterator[tuple[str, str, float]]:
    cache = stats.cache
    looked_up = cache.hit_tokens + cache.lossy_tokens + cache.miss_tokens
    yield "vllm:prefix_cache_queries", "Prompt tokens looked up", looked_up
    yield "vllm:prefix_cache_hits", "Prompt tokens found", cache.hit_tokens
    yield "kvloom:cache_lossy_tokens", "Prompt tokens found in fewer bits, which are no hits", cache.lossy_tokens
    yield "vllm:prompt_tokens", "Prompt tokens processed", stats.prompt_tokens
    yield (
        "vllm:prompt_tokens_cached",
        "Prompt tokens whose KV was not computed",
        cache.hit_tokens + cache.lossy_tokens,
    )
    yield "vllm:generation_tokens", "Tokens generated", stats.generated_tokens
    yield "vllm:num_preemptions", "Preemptions", stats.preemptions
    yield "kvloom:num_squeezed", "Contexts compressed for want of memory", stats.squeezed
    yield "kvloom:begun_by_bands", "Prompts begun with room for the KV of some of their layers", stats.begun_by_bands
    yield "kvloom:steps", "Engine steps", stats.steps
    yield "kvloom:computed_tokens", "Positions run through the model", stats.computed_tokens
    guard = stats.guard
    yield "kvloom:guard_checks", "Tokens of compressed answers compared with exact KV", guard.checks
    yield "kvloom:guard_restored", "Compressed requests that went back to exact KV", guard.restored
    yield "kvloom:guard_lost", "Times that a guard's exact KV was given up to make room", guard.lost
    yield "kvloom:evicted_pages", "Pages dropped to make room", cache.evicted_pages
    yield (
        "kvloom:pins_refused_bytes",
        "Bytes that were not pinned for want of room among pins",
        cache.pins_refused_bytes,
    )
    yield "kvloom:pins_broken_bytes", "Bytes dropped although they were pinned", cache.pins_broken_bytes
