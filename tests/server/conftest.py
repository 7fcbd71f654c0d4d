from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx2
import openai
import pytest
from fastapi import FastAPI

from kvloom.server.app import create_app

from .echo_engine import EchoEngine
from .faulty_engine import FaultyEngine

Engines = Callable[..., EchoEngine]


@pytest.fixture
def new_engine() -> Iterator[Engines]:
    """Make engines as ``EchoEngine`` does. They are closed when the test is over."""
    made: list[EchoEngine] = []

    def make(**settings: Any) -> EchoEngine:
        made.append(EchoEngine(**settings))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def engine(new_engine: Engines) -> EchoEngine:
    return new_engine()


@pytest.fixture
def app(engine: EchoEngine) -> FastAPI:
    return create_app(engine)


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://kvloom") as client:
        yield client


@pytest.fixture
def faulty() -> Iterator[FaultyEngine]:
    engine = FaultyEngine()
    yield engine
    engine.close()


@pytest.fixture
async def faulty_http(faulty: FaultyEngine) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(create_app(faulty))
    async with httpx2.AsyncClient(transport=transport, base_url="http://kvloom") as client:
        yield client


@pytest.fixture
def client(http: httpx2.AsyncClient) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key="none", base_url="http://kvloom/v1", http_client=http, max_retries=0)
