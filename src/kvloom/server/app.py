"""The ASGI application over one engine."""

from __future__ import annotations

import time

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from kvloom.config import ServerConfig
from kvloom.server import errors
from kvloom.server.access import Access
from kvloom.server.admin import admin_routes
from kvloom.server.edge import Edge
from kvloom.server.engine_protocol import ServedEngine
from kvloom.server.keys import Keyring
from kvloom.server.lanes import Lanes
from kvloom.server.metrics import Metrics
from kvloom.server.openapi import openapi_routes
from kvloom.server.routes import openai_routes
from kvloom.server.tokenizing import tokenize_routes
from kvloom.server.unserved import IGNORED_HEADER


def create_app(engine: ServedEngine, config: ServerConfig | None = None, keyring: Keyring | None = None) -> FastAPI:
    """Serve ``engine`` over HTTP. The caller owns the engine and closes it.

    ``keyring``: None takes the keys that ``config`` names. Raises ConfigError or DataFileError.
    """
    config = config or ServerConfig()
    keyring = keyring or Keyring.of(config)
    metrics = Metrics(engine)
    # No pages of its own: they would load scripts from elsewhere.
    app = FastAPI(title="kvloom", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    lanes = Lanes()
    app.include_router(openai_routes(engine, metrics, config, lanes, int(time.time())))
    app.include_router(tokenize_routes(engine, config, lanes))
    app.include_router(openapi_routes())
    app.include_router(admin_routes(engine, metrics))
    errors.install(app)
    app.add_middleware(Edge, access=Access(keyring, config))
    if config.origins:  # around the edge: browsers ask first without a key, and read refusals too
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("*",),
            expose_headers=("x-request-id", IGNORED_HEADER),
        )
    return app
