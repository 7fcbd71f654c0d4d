"""The one file of the command line that reaches the model store and the engine: both are slow to import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from kvloom.config import EngineConfig

if TYPE_CHECKING:
    from kvloom.engine.build import Loaded
    from kvloom.eval.subject import Subject
    from kvloom.model.files.manifest import Manifest
    from kvloom.model.files.progress import Progress
    from kvloom.server.engine_protocol import ServedEngine

    class Engine(ServedEngine, Protocol):
        """An engine that this process owns."""

        def close(self) -> None: ...


def pull(name: str, progress: Progress) -> Manifest:
    """Fetch a model, or register a path. Raises ModelError."""
    from kvloom.model.files import store

    return store.pull(name, progress)


def resolve(name: str) -> Manifest:
    """Find a model that is here. Raises ModelError."""
    from kvloom.model.files import store

    return store.resolve(name)


def load_engine(config: EngineConfig) -> Loaded:
    """Load a model and drive its engine on the calling thread. Raises ConfigError and ModelError."""
    from kvloom.engine.build import build

    return build(config)


def open_engine(config: EngineConfig) -> Engine:
    """Load a model. Raises ConfigError and ModelError."""
    from kvloom.engine.async_engine import AsyncEngine

    engine: Engine = AsyncEngine(config)
    return engine


def open_subject(config: EngineConfig) -> Subject:
    """Load a model to evaluate. Raises ConfigError and ModelError."""
    from kvloom.engine.build import build
    from kvloom.eval.subject import subject_of

    return subject_of(build(config))
