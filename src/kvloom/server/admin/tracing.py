"""A span of OpenTelemetry for every request that is over, with the attributes that are usual for generative models.

Attributes follow OpenTelemetry's conventions (``gen_ai.*``); times are named as vLLM names them (``gen_ai.latency.*``).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from kvloom.engine.outputs import FinishReason, RequestUpdate
from kvloom.engine.params import SamplingParams
from kvloom.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

Operation = Literal["chat", "text_completion", "embeddings"]

_NS = 10**9


@dataclass(frozen=True, slots=True)
class Asked:
    """What is said of a request beside how it went. ``owner``: whose it is. ``traceparent``: the header of whoever
    asked, or empty.
    """

    operation: Operation
    reply_id: str
    params: SamplingParams
    owner: str = ""
    traceparent: str = ""
    began_ns: int = field(default_factory=time.time_ns)


class Tracing:
    """Spans are sent by a thread of the library's, from a queue that is bounded: what does not fit is dropped."""

    def __init__(self, exporter: SpanExporter, model: str) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource.create({"service.name": "kvloom", "service.version": version("kvloom")})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("kvloom")
        self._model = model

    def answered(self, asked: Asked, update: RequestUpdate, reason: FinishReason) -> None:
        """A request has been answered in full; ``update`` is its last."""
        total_s = update.metrics.total_s
        began = asked.began_ns if total_s is None else time.time_ns() - int(total_s * _NS)
        self._span(asked, began, reason, dict(_usage(update)) | dict(_latencies(update)))

    def broken_off(self, asked: Asked, reason: FinishReason) -> None:
        """A request ended otherwise."""
        self._span(asked, asked.began_ns, reason, {})

    def close(self) -> None:
        """Send what waits."""
        self._provider.shutdown()

    def _span(self, asked: Asked, began_ns: int, reason: FinishReason, more: Mapping[str, Any]) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract({"traceparent": asked.traceparent})
        span = self._tracer.start_span(
            f"{asked.operation} {self._model}",
            context=parent,
            kind=SpanKind.SERVER,
            attributes=dict(self._said(asked)) | {"gen_ai.response.finish_reasons": [reason]} | dict(more),
            start_time=began_ns,
        )
        if reason == "error":
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    def _said(self, asked: Asked) -> Iterator[tuple[str, Any]]:
        params = asked.params
        yield "gen_ai.operation.name", asked.operation
        yield "gen_ai.provider.name", "kvloom"
        yield "gen_ai.request.model", self._model
        yield "gen_ai.response.model", self._model
        yield "gen_ai.response.id", asked.reply_id
        yield "gen_ai.request.choice.count", params.n
        yield "gen_ai.request.temperature", params.temperature
        yield "gen_ai.request.top_p", params.top_p
        for name, value in (("max_tokens", params.max_tokens), ("seed", params.seed)):
            if value is not None:
                yield f"gen_ai.request.{name}", value


def _usage(update: RequestUpdate) -> Iterator[tuple[str, int]]:
    metrics = update.metrics
    yield "gen_ai.usage.input_tokens", len(update.prompt_token_ids)
    yield "gen_ai.usage.output_tokens", sum(metrics.answer_tokens.values())
    yield "gen_ai.usage.cache_read.input_tokens", metrics.cached_tokens
    yield "kvloom.computed_tokens", metrics.computed_tokens
    yield "kvloom.preemptions", metrics.preemptions


def _latencies(update: RequestUpdate) -> Iterator[tuple[str, float]]:
    metrics = update.metrics
    for name, seconds in (
        ("time_in_queue", metrics.queue_s),
        ("time_to_first_token", metrics.ttft_s),
        ("e2e", metrics.total_s),
    ):
        if seconds is not None:
            yield f"gen_ai.latency.{name}", seconds
    if metrics.queue_s is not None and metrics.ttft_s is not None and metrics.total_s is not None:
        yield "gen_ai.latency.time_in_model_prefill", metrics.ttft_s - metrics.queue_s
        yield "gen_ai.latency.time_in_model_decode", metrics.total_s - metrics.ttft_s
        yield "gen_ai.latency.time_in_model_inference", metrics.total_s - metrics.queue_s


def open_tracing(endpoint: str | None, model: str) -> Tracing | None:
    """None where there is no endpoint. Raises ConfigError when OpenTelemetry is not installed."""
    if endpoint is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return Tracing(OTLPSpanExporter(endpoint=endpoint), model)
    except ImportError as error:
        raise ConfigError(
            f"traces need `{error.name}`, which is not installed", hint="pip install 'kvloom[otel]'"
        ) from None
