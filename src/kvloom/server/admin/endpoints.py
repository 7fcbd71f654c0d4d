"""Endpoints for operators: health, metrics and cache administration."""

from __future__ import annotations

import dataclasses
from importlib.metadata import version

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from kvloom.server.admin.metrics import Metrics
from kvloom.server.admin.public_stats import public_stats
from kvloom.server.edge.caller import caller_of
from kvloom.server.engine_protocol import ServedEngine
from kvloom.server.errors import NOT_ALIVE


def admin_routes(engine: ServedEngine, metrics: Metrics) -> APIRouter:
    router, look = APIRouter(), ["GET", "HEAD"]

    @router.api_route("/health", methods=look)
    async def health() -> JSONResponse:
        return JSONResponse({"status": "ok"}) if engine.alive else NOT_ALIVE.response()

    @router.api_route("/version", methods=look)
    async def tell_version() -> JSONResponse:
        return JSONResponse({"version": version("kvloom")})

    @router.api_route("/metrics", methods=look)
    async def scrape() -> Response:
        return Response(metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    @router.api_route("/cache", methods=look)
    async def cache() -> JSONResponse:
        return JSONResponse(dataclasses.asdict(public_stats(engine.stats())))

    @router.post("/cache/reset")
    async def reset(request: Request) -> JSONResponse:
        caller_of(request).check_admin()
        await engine.reset_cache()
        return JSONResponse({"status": "ok"})

    @router.post("/cache/check")
    async def check(request: Request) -> JSONResponse:
        caller_of(request).check_admin()
        await engine.check()
        return JSONResponse({"status": "ok"})

    return router
