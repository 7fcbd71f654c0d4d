from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import openai
import pytest
from fastapi import FastAPI

from kvloom.server.app import create_app

from .mock_engine import MockEngine


@pytest.fixture
def engine() -> MockEngine:
    return MockEngine()


@pytest.fixture
def app(engine: MockEngine) -> FastAPI:
    return create_app(engine)


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://kvloom") as client:
        yield client


@pytest.fixture
def client(http: httpx2.AsyncClient) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key="none", base_url="http://kvloom/v1", http_client=http, max_retries=0)
