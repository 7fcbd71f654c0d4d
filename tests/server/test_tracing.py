"""A span for every request: its attributes, its times, its parent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from kvloom.config import ServerConfig
from kvloom.errors import ConfigError
from kvloom.server.admin.tracing import Tracing, open_tracing
from kvloom.server.app import create_app

from .conftest import Engines
from .faulty_engine import FaultyEngine

TEXT = {"prompt": "a b c", "max_tokens": 4, "temperature": 0.5, "seed": 7}


class Spans:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracing = Tracing(self.exporter, "mock")

    def read(self) -> list[Any]:
        self.tracing._provider.force_flush()
        return list(self.exporter.get_finished_spans())


@pytest.fixture
def spans() -> Iterator[Spans]:
    made = Spans()
    yield made
    made.tracing.close()


@pytest.fixture
async def traced(spans: Spans, faulty: FaultyEngine) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(create_app(faulty, tracing=spans.tracing))
    async with httpx2.AsyncClient(transport=transport, base_url="http://kvloom") as http:
        yield http


async def test_a_span_tells_how_a_request_went(traced: httpx2.AsyncClient, spans: Spans) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = {"traceparent": f"00-{trace}-{parent}-01"}
    reply = (await traced.post("/v1/completions", json=TEXT | {"n": 2}, headers=headers)).json()
    (span,) = spans.read()
    assert span.name == "text_completion mock"
    assert f"{span.context.trace_id:032x}" == trace
    assert f"{span.parent.span_id:016x}" == parent
    told = dict(span.attributes)
    assert told["gen_ai.operation.name"] == "text_completion"
    assert told["gen_ai.response.id"] == reply["id"]
    assert told["gen_ai.response.finish_reasons"] == ("length",)
    assert told["gen_ai.usage.input_tokens"] == reply["usage"]["prompt_tokens"]
    assert told["gen_ai.usage.output_tokens"] == reply["usage"]["completion_tokens"] == 8
    assert (told["gen_ai.request.temperature"], told["gen_ai.request.seed"]) == (0.5, 7)
    assert told["gen_ai.request.max_tokens"] == 4
    took = (span.end_time - span.start_time) / 1e9
    assert told["gen_ai.latency.e2e"] == pytest.approx(took, abs=0.05)
    parts = told["gen_ai.latency.time_in_queue"] + told["gen_ai.latency.time_in_model_inference"]
    assert parts == pytest.approx(told["gen_ai.latency.e2e"])
    assert "a b c" not in str(told)


async def test_spans_of_other_operations_and_of_other_ends(
    traced: httpx2.AsyncClient, spans: Spans, new_engine: Engines
) -> None:
    await traced.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "a"}], "max_tokens": 2})
    await traced.post("/v1/completions", json=TEXT | {"prompt": ["a", "b"], "max_tokens": 1, "traceparent": "x"})
    await traced.post("/v1/completions", json=TEXT | {"prompt": "a !fail"}, headers={"traceparent": "nonsense"})
    await traced.post("/v1/completions", json=TEXT | {"prompt": "a " * 90})
    told = [(span.name.split()[0], span.attributes["gen_ai.response.finish_reasons"][0]) for span in spans.read()]
    assert told == [("chat", "length"), *[("text_completion", "length")] * 2, ("text_completion", "error")]
    assert [span.status.status_code for span in spans.read()][-1] is StatusCode.ERROR
    engine = new_engine(pace_s=0.02, max_model_len=8000)
    slow = create_app(engine, tracing=spans.tracing)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(slow), base_url="http://kvloom") as http:
        asked = asyncio.create_task(http.post("/v1/completions", json=TEXT | {"max_tokens": 5000}))
        while not engine.live:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.06)
        asked.cancel()
        await asyncio.wait((asked,))
    last = spans.read()[-1]
    assert last.attributes["gen_ai.response.finish_reasons"] == ("abort",)
    assert (last.end_time - last.start_time) / 1e9 > 0.05


def test_where_spans_go() -> None:
    assert open_tracing(None, "mock") is None
    made = open_tracing("http://127.0.0.1:9/v1/traces", "mock")
    assert made is not None
    made.close()
    with pytest.raises(ConfigError, match="is no URL"):
        ServerConfig(otlp_traces_endpoint="localhost:4317")
