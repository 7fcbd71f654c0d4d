"""Where the KV of contexts lies: of what is stored in RAM, for admins, and of a request, for whose it is.

GET /cache/contexts         what is stored, by text
GET /cache/contexts/{id}    one by segments: a text that is stored, or those of an answer, by the id of its reply
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse

from kvloom.engine.engine import Engine
from kvloom.engine.overview import ContextView, State, Stretch, context_views
from kvloom.engine.sessions import StoredContext, context, contexts
from kvloom.segment import RAM, SpanSet, Why
from kvloom.server.admin.public_stats import public_why
from kvloom.server.admin.recent import Recent
from kvloom.server.edge.caller import caller_of
from kvloom.server.engine_protocol import ServedEngine
from kvloom.server.errors import NothingStored

_MOST = 1000
"""Contexts that one answer lists."""
_MOST_PROMPTS = 24
"""Of one body, whose contexts are told: the engine waits meanwhile."""
_IN_RAM = (State.HOT, State.COMPRESSED, State.ALONE)
_WAYS = ("loading", "waiting")
"""Origins of a stretch that are neither a tier nor a reason."""


def context_routes(engine: ServedEngine, recent: Recent) -> APIRouter:
    router = APIRouter()

    @router.route("/cache/contexts", methods=["GET"])
    async def listed(request: Request) -> JSONResponse:
        caller_of(request).check_admin()
        found = await engine.ask(lambda each: list(contexts(each)))
        return JSONResponse({"contexts": [_summary(each) for each in found[:_MOST]], "total": len(found)})

    @router.route("/cache/contexts/{id}", methods=["GET"])
    async def shown(request: Request) -> JSONResponse:
        caller, id = caller_of(request), request.path_params["id"]
        asked = [each.request_id for each in recent.of(id, caller)][:_MOST_PROMPTS]
        views = await engine.ask(lambda each: list(context_views(each, asked))) if asked else []
        if views:
            return JSONResponse({"id": id, "contexts": list(map(_of_request, views))})
        stored = await engine.ask(lambda each: _stored(each, id)) if caller.role == "admin" else None
        if stored is None:
            raise NothingStored(
                f"context `{id}` not found",
                hint="an id of `/cache/contexts`, or of the reply to a request that was not too long ago",
                param="id",
            )
        return JSONResponse(stored)

    return router


def _of_request(view: ContextView) -> dict[str, Any]:
    """``bytes``: of the pages that it holds now; none, once it is over."""
    return {
        "status": view.status,
        "prompt_tokens": view.prompt,
        "tokens": view.length,
        "bytes": view.held_bytes,
        "segments": list(map(_segment, view.stretches)),
    }


def _segment(stretch: Stretch) -> dict[str, Any]:
    """``tier``: where it lies; ``found_in``: the one in which the request has found it; ``why``: it is missing."""
    told: dict[str, Any] = {"start": stretch.start, "stop": stretch.stop, "state": stretch.state.value}
    origin = "" if stretch.origin in _WAYS else stretch.origin
    if stretch.state in _IN_RAM:
        return told | {"tier": RAM} | ({"found_in": origin} if origin else {})
    if stretch.state is State.TIER:
        return told | ({"tier": origin} if origin else {})
    return told | ({"why": public_why(Why(origin)).value} if origin else {})


def _stored(engine: Engine, id: str) -> dict[str, Any] | None:
    found = context(engine, id)
    if found is None:
        return None
    groups = [fmt.name for fmt in engine.layout.formats]
    return _summary(found) | {"segments": dict(zip(groups, map(_spans, found.segments), strict=True))}


def _summary(found: StoredContext) -> dict[str, Any]:
    """``root``: equal for texts of one salt."""
    return {"id": found.id, "root": found.root[:4].hex(), "tokens": len(found.tokens), "bytes": found.bytes}


def _spans(found: SpanSet) -> list[dict[str, Any]]:
    return [{"start": span.start, "stop": span.stop, "tier": RAM} for span in found]
