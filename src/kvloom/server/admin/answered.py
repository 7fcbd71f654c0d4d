"""What an answered request found in the cache, and why not the rest: by the id of its reply."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse

from kvloom.server.admin.public_stats import public_why
from kvloom.server.admin.recent import MOST_ANSWERS, Answered, Recent
from kvloom.server.edge.caller import caller_of
from kvloom.server.errors import NothingStored

_MOST = 100
"""Spans told of one prompt: the longest that were missed may be of thousands."""


def answered_routes(recent: Recent) -> APIRouter:
    router = APIRouter()

    @router.route("/cache/requests/{id}", methods=["GET"])
    async def told(request: Request) -> JSONResponse:
        id = request.path_params["id"]
        answers = recent.of_reply(id, caller_of(request))
        if not answers:  # not kept, or somebody else's
            raise NothingStored(
                f"request `{id}` not found",
                hint=f"the last {MOST_ANSWERS:,} answered requests are, by the id of the reply",
                param="id",
            )
        return JSONResponse({"id": id, "prompts": list(map(_found, answers))})

    return router


def _found(answer: Answered) -> dict[str, Any]:
    metrics = answer.metrics
    reused = [
        {"start": part.span.start, "stop": part.span.stop, "tier": part.tier, "lossy": part.lossy}
        for part in metrics.reused[:_MOST]
    ]
    missed = [
        {"start": miss.span.start, "stop": miss.span.stop, "why": public_why(miss.why).value}
        for miss in metrics.misses[:_MOST]
    ]
    return {
        "tokens": answer.prompt_tokens,
        "cached_tokens": metrics.cached_tokens,
        "reused": reused,
        "missed": missed,
    }
