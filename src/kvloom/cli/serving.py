"""``kvloom serve``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from kvloom.cli import backend
from kvloom.cli.notices import foreign, notices
from kvloom.cli.say import bytes_text, say
from kvloom.cli.settings import Settings
from kvloom.config import EngineConfig, ServerConfig, default_threads, parse_bytes
from kvloom.engine.chunks.named import NamedDocuments
from kvloom.server.admin.request_log import RequestLog
from kvloom.server.app import create_app
from kvloom.server.edge.keys import Keyring
from kvloom.server.run import bind, leave_within, serve, url_of
from kvloom.server.trial import tried

if TYPE_CHECKING:
    from kvloom.model.files.manifest import Manifest

_GRACE_S = 2.0
"""After the drain: for the step that the engine is in, and for leaving."""


def serve_model(model: str, settings: Settings) -> None:
    """Serve until a signal. What can be wrong without the model is found before it is loaded."""
    config, server = settings.engine(model), settings.server(os.environ)
    keyring = Keyring.of(server)
    manifest = backend.resolve(model)
    log = _log(server)
    with bind(server) as bound, nullcontext() if log is None else closing(log):
        engine = backend.open_engine(config)
        try:
            documents = NamedDocuments.beside(config.tiers, server.stored_documents_bytes)
            tiers = engine.stats().cache.tiers
            for line in (*banner(manifest, engine, config), *foreign(tiers), *notices(server, keyring)):
                say(line)
            for line in _trials(engine, keyring):
                say(line)
            bound.listen()  # from here on clients may come
            say(f"window     {url_of(bound)}/ui")
            say(f"serving    {url_of(bound)}/v1{' (API key required)' if keyring.keys else ''}")
            app = create_app(engine, server, keyring, log, documents)
            serve(app, bound, server, lambda: leave_within(server.drain_seconds + _GRACE_S, say))
            documents.close()
        finally:
            engine.close()
    say("stopped")


def _log(server: ServerConfig) -> RequestLog | None:
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
