"""``kvloom serve``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kvloom.cli import backend
from kvloom.cli.capabilities import capabilities, told
from kvloom.cli.logs import logging_of
from kvloom.cli.notices import foreign, notices
from kvloom.cli.say import bytes_text
from kvloom.cli.settings import Settings
from kvloom.config import EngineConfig, EventsConfig, ServerConfig, default_threads, parse_bytes
from kvloom.engine.chunks.named import NamedDocuments
from kvloom.server.admin.request_log import RequestLog
from kvloom.server.admin.tracing import open_tracing
from kvloom.server.app import create_app
from kvloom.server.edge.keys import Keyring
from kvloom.server.events.open import open_events
from kvloom.server.run import bind, check_tls, leave_within, serve, url_of
from kvloom.server.trial import tried

if TYPE_CHECKING:
    from kvloom.model.files.manifest import Manifest

_GRACE_S = 2.0
"""After the drain: for the step that the engine is in, and for leaving."""


def serve_model(model: str, settings: Settings, api_key: str | None = None) -> None:
    """Serve until a signal. What can be wrong without the model is found before it is loaded."""
    config, events = settings.engine(model), settings.events()
    server = settings.server(os.environ if api_key is None else os.environ | {"KVLOOM_API_KEY": api_key})
    keyring = Keyring.of(server)
    manifest = backend.resolve(model)
    check_tls(server)
    with logging_of(server) as say:
        with ExitStack() as opened:
            _serve(manifest, _Asked(config, server, events, keyring), say, opened)
        say("stopped")


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the settings come to."""

    engine: EngineConfig
    server: ServerConfig
    events: EventsConfig
    keyring: Keyring


def _serve(manifest: Manifest, asked: _Asked, say: Callable[[str], None], opened: ExitStack) -> None:
    """``opened``: closes what is opened here, the last first."""
    enter, server, keyring = opened.enter_context, asked.server, asked.keyring
    log = _log(server, say)
    if log is not None:
        enter(closing(log))
    bound = enter(bind(server))
    engine = enter(closing(backend.open_engine(asked.engine)))
    events = open_events(asked.events, engine)
    if events is not None:
        enter(closing(events))
    tracing = open_tracing(server.otlp_traces_endpoint, engine.model_name)
    if tracing is not None:
        enter(closing(tracing))
    for line in (
        *banner(manifest, engine, asked.engine),
        *foreign(engine.stats().cache.tiers),
        *notices(server, keyring, asked.events),
        *told(capabilities(manifest, asked.engine, server, asked.events)),
        *_trials(engine, keyring),
    ):
        say(line)
    bound.listen()  # from here on clients may come
    url = url_of(bound, "http" if server.ssl_certfile is None else "https")
    say(f"window     {url}/ui")
    say(f"serving    {url}/v1{' (API key required)' if keyring.keys else ''}")
    documents = enter(closing(NamedDocuments.beside(asked.engine.tiers, server.stored_documents_bytes)))
    app = create_app(engine, server, keyring, log, documents, [] if events is None else [events], tracing)
    serve(app, bound, server, lambda: leave_within(server.drain_seconds + _GRACE_S, say))


def _log(server: ServerConfig, say: Callable[[str], None]) -> RequestLog | None:
    if server.request_log is None:
        return None
    return RequestLog(Path(server.request_log).expanduser(), parse_bytes(server.request_log_bytes), say)


def _trials(engine: backend.Engine, keyring: Keyring) -> Iterator[str]:
    """A line for each default that cannot be had. Raises ConfigError when it never can."""
    for compression in keyring.compressions:
        warning = asyncio.run(tried(engine, compression))
        if warning is not None:
            yield f"warning: {warning}"


def banner(manifest: Manifest, engine: backend.Engine, config: EngineConfig) -> list[str]:
    """Say what was derived from the settings."""
    # Imported late: these take a while, and a port in use should be reported immediately.
    from kvloom.engine.layout import KvLayout
    from kvloom.memory.format import PAGE_TOKENS
    from kvloom.model.decoder import kv_map_of

    layout = KvLayout(kv_map_of(manifest.spec), config.cache, config.scheduler.step_tokens)
    budget, length = engine.stats().cache.budget_bytes, engine.max_model_len
    full = budget // layout.bytes_for(length)
    pages = ", ".join(
        f"{each.name} {bytes_text(each.page_bytes)} ({len(each.layers)} layers x {each.heads} heads x {each.k_dim})"
        for each in layout.formats
    )
    return [
        f"model      {engine.model_name} ({manifest.family}, {bytes_text(manifest.size_bytes)})",
        f"KV         {bytes_text(budget)} of {config.cache.kv_dtype}: room for {full:,} x {length:,} tokens",
        f"pages      of {PAGE_TOKENS} tokens: {pages}",
        f"threads    {config.threads or default_threads()}",
    ]
