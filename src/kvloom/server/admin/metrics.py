"""Prometheus metrics: vLLM's names where they exist, so that its dashboards work, and our own for KV memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kvloom.engine.outputs import RequestUpdate
from kvloom.engine.stats import EngineStats, FusionStats
from kvloom.server.admin.public_stats import public_stats
from kvloom.server.admin.tier_metrics import tier_metrics
from kvloom.server.engine_protocol import ServedEngine

_FIRST_TOKEN_S = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
)
_TOKEN_S = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.75,
    1,
    2.5,
    5,
    10,
    40,
)
_REQUEST_S = (0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920)
_COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)


class Metrics:
    """The registry of one server. Totals come from the engine when scraped; times cover finished requests."""

    def __init__(self, engine: ServedEngine) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_EngineCollector(engine))
        self._model = engine.model_name
        self._ttft = self._histogram("time_to_first_token_seconds", "Time to the first token", _FIRST_TOKEN_S)
        self._itl = self._histogram("inter_token_latency_seconds", "Time between two tokens", _TOKEN_S)
        self._tpot = self._histogram(
            "request_time_per_output_token_seconds", "Mean time between a request's tokens", _TOKEN_S
        )
        self._e2e = self._histogram("e2e_request_latency_seconds", "Time to the last token", _REQUEST_S)
        self._queue = self._histogram("request_queue_time_seconds", "Time before the first step", _REQUEST_S)
        self._prompt = self._histogram("request_prompt_tokens", "Prompt tokens of a request", _COUNTS)
        self._refused = Counter(
            "kvloom:default_compressions_refused",
            "Prompts answered exactly as the default compression cannot be had for them",
            ("model_name",),
            registry=self.registry,
        ).labels(model_name=self._model)

    def observe(self, update: RequestUpdate) -> None:
        """Record a finished request."""
        metrics = update.metrics
        self._prompt.observe(len(update.prompt_token_ids))
        for histogram, value in (
            (self._queue, metrics.queue_s),
            (self._ttft, metrics.ttft_s),
            (self._e2e, metrics.total_s),
        ):
            if value is not None:
                histogram.observe(value)
        times = metrics.token_times_s
        for earlier, later in pairwise(times):
            self._itl.observe(later - earlier)
        if len(times) > 1:
            self._tpot.observe((times[-1] - times[0]) / (len(times) - 1))

    def default_refused(self) -> None:
        """Record a prompt that is answered exactly, although a default says otherwise."""
        self._refused.inc()

    def render(self) -> bytes:
        """The metrics in Prometheus text format."""
        return generate_latest(self.registry)

    def _histogram(self, name: str, help_text: str, buckets: Iterable[float]) -> Histogram:
        histogram = Histogram(
            f"vllm:{name}", help_text, ("model_name",), registry=self.registry, buckets=tuple(buckets)
        )
        return histogram.labels(model_name=self._model)


class _EngineCollector(Collector):
    """Reads the engine's counters at every scrape and stores none."""

    def __init__(self, engine: ServedEngine) -> None:
        self._engine = engine

    def describe(self) -> Iterator[Metric]:
        return iter(())  # our names are fixed: registration needs no scrape

    def collect(self) -> Iterator[Metric]:
        stats = public_stats(self._engine.stats())
        label = self._engine.model_name
        for name, help_text, value in _gauges(stats):
            gauge = GaugeMetricFamily(name, help_text, labels=("model_name",))
            gauge.add_metric((label,), value)
            yield gauge
        for name, help_text, value in _counters(stats):
            counter = CounterMetricFamily(name, help_text, labels=("model_name",))
            counter.add_metric((label,), value)
            yield counter
        yield _by_label("vllm:request_success", "Finished requests", "finished_reason", label, stats.finished)
        cache = stats.cache
        yield _by_label("kvloom:cache_miss_tokens", "Prompt tokens computed", "why", label, cache.misses_by_why)
        yield _by_label("kvloom:cache_hit_tokens", "Prompt tokens found", "tier", label, cache.hit_tokens_by_tier)
        fusion = stats.fusion.items()
        for name, help_text, counted in _FUSION:
            totals = {selector: counted(totals) for selector, totals in fusion}
            yield _by_label(f"kvloom:fused_{name}", help_text, "selector", label, totals)
        yield from tier_metrics(cache.tiers, label)


_FUSION: tuple[tuple[str, str, Callable[[FusionStats], int]], ...] = (
    ("prompts", "Prompts whose documents had the KV that they had alone", lambda totals: totals.prompts),
    ("found_tokens", "Tokens of documents whose KV, alone, was found", lambda totals: totals.found_tokens),
    ("computed_tokens", "Tokens of documents that were computed alone", lambda totals: totals.computed_tokens),
    ("repaired_tokens", "Tokens of documents computed again in prompts", lambda totals: totals.repaired_tokens),
)


def _by_label(name: str, help_text: str, by: str, model: str, values: dict[str, int]) -> Metric:
    counter = CounterMetricFamily(name, help_text, labels=("model_name", by))
    for key, value in values.items():
        counter.add_metric((model, key), value)
    return counter


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
