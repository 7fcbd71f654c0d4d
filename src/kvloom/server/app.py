"""The ASGI application over one engine."""

from __future__ import annotations

import time
from collections.abc import Sequence

from fastapi import FastAPI
from prometheus_client.registry import Collector
from starlette.middleware.cors import CORSMiddleware

from kvloom.config import ServerConfig
from kvloom.engine.chunks.named import NamedDocuments
from kvloom.server import error_forms
from kvloom.server.admin.answered import answered_routes
from kvloom.server.admin.contexts import context_routes
from kvloom.server.admin.endpoints import admin_routes
from kvloom.server.admin.metrics import Metrics
from kvloom.server.admin.record import Record
from kvloom.server.admin.request_log import RequestLog
from kvloom.server.admin.sessions import session_routes
from kvloom.server.admin.tracing import Tracing
from kvloom.server.dialect.answering import Served
from kvloom.server.dialect.anthropic.routes import anthropic_routes
from kvloom.server.dialect.embeddings.routes import embeddings_routes
from kvloom.server.dialect.openapi import openapi_routes
from kvloom.server.dialect.responses.routes import responses_routes
from kvloom.server.dialect.responses.store import ResponseStore
from kvloom.server.dialect.routes import openai_routes
from kvloom.server.dialect.tokenizing import tokenize_routes
from kvloom.server.dialect.unserved import IGNORED_HEADER
from kvloom.server.edge.access import Access
from kvloom.server.edge.keys import Keyring
from kvloom.server.edge.middleware import Edge
from kvloom.server.engine_protocol import ServedEngine
from kvloom.server.window.routes import window_routes


def create_app(
    engine: ServedEngine,
    config: ServerConfig | None = None,
    keyring: Keyring | None = None,
    log: RequestLog | None = None,
    documents: NamedDocuments | None = None,
    collectors: Sequence[Collector] = (),
    tracing: Tracing | None = None,
) -> FastAPI:
    """Serve ``engine`` over HTTP. The caller owns the engine and closes it.

    All routes are Starlette's plain ones: FastAPI keeps the functions of its own in caches of the process, and with
    them whatever they refer to, so that a server that is over would still hold its model.

    ``keyring``: None takes the keys that ``config`` names. ``log``: of what is answered, also the caller's.
    ``documents``: those that requests name, the caller's too; None has them in memory. ``collectors``: of further
    metrics. ``tracing``: the caller's too.
    Raises ConfigError or DataFileError.
    """
    config = config or ServerConfig()
    keyring = keyring or Keyring.of(config)
    metrics = Metrics(engine)
    for collector in collectors:
        metrics.registry.register(collector)
    # FastAPI's documentation pages would load scripts from other hosts.
    app = FastAPI(title="kvloom", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    record = Record(metrics, log, tracing)
    served = Served.over(engine, record, config, documents)
    app.include_router(openai_routes(served, int(time.time())))
    app.include_router(responses_routes(served, ResponseStore(config)))
    app.include_router(anthropic_routes(served))
    app.include_router(embeddings_routes(served))
    app.include_router(tokenize_routes(served))
    app.include_router(openapi_routes())
    app.include_router(admin_routes(engine, metrics))
    app.include_router(context_routes(engine, record.recent))
    app.include_router(session_routes(engine, config, served.lanes))
    app.include_router(answered_routes(record.recent))
    app.include_router(window_routes(engine, record.recent))
    error_forms.install(app)
    app.add_middleware(Edge, access=Access(keyring, config), on_status=metrics.http.answered)
    if config.origins:  # outside the edge: preflight requests carry no key, and browsers must be able to read refusals
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.origins,
            allow_methods=("GET", "HEAD", "POST", "DELETE"),
            allow_headers=("*",),
            expose_headers=("x-request-id", IGNORED_HEADER),
        )
    return app
