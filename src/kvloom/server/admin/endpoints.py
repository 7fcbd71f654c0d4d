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
    router = APIRouter()

    @router.route("/health", methods=["GET"])
    async def health(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"}) if engine.alive else NOT_ALIVE.response()

    @router.route("/version", methods=["GET"])
    async def tell_version(_: Request) -> JSONResponse:
        return JSONResponse({"version": version("kvloom")})

    @router.route("/metrics", methods=["GET"])
    async def scrape(_: Request) -> Response:
        return Response(metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    @router.route("/cache", methods=["GET"])
    async def cache(_: Request) -> JSONResponse:
        return JSONResponse(dataclasses.asdict(public_stats(engine.stats())))

    @router.route("/reset_prefix_cache", methods=["POST"])  # vLLM's name
    @router.route("/cache/reset", methods=["POST"])
    async def reset(request: Request) -> JSONResponse:
        caller_of(request).check_admin()
        await engine.reset_cache()
        return JSONResponse({"status": "ok"})

    @router.route("/cache/check", methods=["POST"])
    async def check(request: Request) -> JSONResponse:
        caller_of(request).check_admin()
        await engine.check()
        return JSONResponse({"status": "ok"})

    return router
