"""The ASGI application over one engine."""

from __future__ import annotations

import time

from fastapi import FastAPI

from kvloom.config import ServerConfig
from kvloom.server import errors
from kvloom.server.admin import admin_routes
from kvloom.server.edge import Edge
from kvloom.server.engine_protocol import ServedEngine
from kvloom.server.metrics import Metrics
from kvloom.server.openapi import openapi_routes
from kvloom.server.routes import openai_routes
from kvloom.server.tokenizing import tokenize_routes


def create_app(engine: ServedEngine, config: ServerConfig | None = None) -> FastAPI:
    """Serve ``engine`` over HTTP. The caller owns the engine and closes it."""
    config = config or ServerConfig()
    metrics = Metrics(engine)
    # No pages of its own: they would load scripts from elsewhere.
    app = FastAPI(title="kvloom", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.include_router(openai_routes(engine, metrics, config, int(time.time())))
    app.include_router(tokenize_routes(engine, config))
    app.include_router(openapi_routes())
    app.include_router(admin_routes(engine, metrics))
    errors.install(app)
    app.add_middleware(Edge, api_key=config.api_key)
    return app
