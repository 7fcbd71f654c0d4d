from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx2
import openai
import pytest
from fastapi import FastAPI

from kvloom.engine.sampling import Sampler
from kvloom.server.app import create_app

from .echo_engine import EchoEngine, EchoSampler
from .mock_engine import MockEngine


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[EchoEngine]:
    monkeypatch.setattr(Sampler, "start", EchoSampler)
    engine = EchoEngine()
    yield engine
    engine.close()


@pytest.fixture
def app(engine: EchoEngine) -> FastAPI:
    return create_app(engine)


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://kvloom") as client:
        yield client


@pytest.fixture
def faulty() -> MockEngine:
    """An engine that fails on demand: by certain words, or by its fields."""
    return MockEngine()


@pytest.fixture
async def faulty_http(faulty: MockEngine) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(create_app(faulty))
    async with httpx2.AsyncClient(transport=transport, base_url="http://kvloom") as client:
        yield client


@pytest.fixture
def client(http: httpx2.AsyncClient) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key="none", base_url="http://kvloom/v1", http_client=http, max_retries=0)
