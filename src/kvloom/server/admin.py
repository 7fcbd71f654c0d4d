"""The endpoints for whoever runs the server: health, metrics, the cache."""

from __future__ import annotations

import dataclasses
from importlib.metadata import version

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from kvloom.server.engine_protocol import ServedEngine
from kvloom.server.errors import NOT_ALIVE
from kvloom.server.metrics import Metrics
from kvloom.server.public_stats import public_stats


def admin_routes(engine: ServedEngine, metrics: Metrics) -> APIRouter:
    router = APIRouter()

    @router.get("/health")
    async def health() -> JSONResponse:
        return JSONResponse({"status": "ok"}) if engine.alive else NOT_ALIVE.response()

    @router.get("/version")
    async def tell_version() -> JSONResponse:
        return JSONResponse({"version": version("kvloom")})

    @router.get("/metrics")
    async def scrape() -> Response:
        return Response(metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    @router.get("/cache")
    async def cache() -> JSONResponse:
        return JSONResponse(dataclasses.asdict(public_stats(engine.stats())))

    @router.post("/cache/reset")
    async def reset() -> JSONResponse:
        await engine.reset_cache()
        return JSONResponse({"status": "ok"})

    return router
