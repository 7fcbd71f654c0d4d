"""Fixtures for all tests. Real models are pulled when a test first asks for one; such tests are marked ``real``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported: threads of several workers would spin

import pytest
from hypothesis import settings

from bench.torch_maths import settle_torch_maths

if TYPE_CHECKING:
    from bench.drive import ModelEngines
    from valkey_server import RunningValkey

settings.register_profile("untimed", deadline=None)  # a busy machine makes no example wrong
settings.load_profile("untimed")
settle_torch_maths()  # before any test: an oracle in torch must not come out wrong once in a hundred runs

REAL_MODELS = ("smollm2", "gemma3")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if set(REAL_MODELS) & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.real)


def _pulled(name: str) -> ModelEngines:
    from bench.drive import load
    from kvloom.model.files.store import pull

    pull(name)
    return load(name)


@pytest.fixture(scope="session")
def smollm2() -> ModelEngines:
    """SmolLM2 135M Instruct: a dense model. KV in float16."""
    return _pulled("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def gemma3() -> ModelEngines:
    """Gemma 3 270M: windows of 512 on 15 of 18 layers. KV in float16."""
    return _pulled("gemma-3-270m")


@pytest.fixture
def valkey() -> RunningValkey:
    """A real Valkey server, running and empty."""
    from valkey_server import shared_valkey

    shared_valkey().reset()
    return shared_valkey()
