"""What the latest requests found in the cache, and why not the rest: kept by the id of their reply."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse

from kvloom.engine.outputs import RequestMetrics, RequestUpdate
from kvloom.segment import Why
from kvloom.server.edge.caller import Caller, caller_of
from kvloom.server.errors import NothingStored

_KEPT = 1000
_MOST = 100
"""Spans told of one prompt: the longest that were missed may be of thousands."""

_TOLD_AS = {Why.OTHER_SALT: Why.NEW}
"""That a text is stored under another salt is nobody's business."""


@dataclass(slots=True)
class Explained:
    """On the event loop only. By reply: whose it is, and what is told of each of its prompts."""

    _told: OrderedDict[str, tuple[str, list[dict[str, Any]]]] = field(default_factory=OrderedDict)

    def answered(self, reply_id: str, owner: str, update: RequestUpdate) -> None:
        _, prompts = self._told.setdefault(reply_id, (owner, []))
        prompts.append({"tokens": len(update.prompt_token_ids)} | _found(update.metrics))
        if len(self._told) > _KEPT:
            self._told.popitem(last=False)

    def of(self, reply_id: str, caller: Caller) -> list[dict[str, Any]]:
        """Raises NothingStored when it is not kept, or is somebody else's and the caller is no admin."""
        owner, prompts = self._told.get(reply_id, ("", []))
        if not prompts or (owner != caller.owner and caller.role != "admin"):
            raise NothingStored(
                f"request `{reply_id}` not found",
                hint=f"the last {_KEPT:,} answered requests are, by the id of the reply",
                param="id",
            )
        return prompts


def explained_routes(explained: Explained) -> APIRouter:
    router = APIRouter()

    @router.route("/cache/requests/{id}", methods=["GET"])
    async def told(request: Request) -> JSONResponse:
        id = request.path_params["id"]
        return JSONResponse({"id": id, "prompts": explained.of(id, caller_of(request))})

    return router


def _found(metrics: RequestMetrics) -> dict[str, Any]:
    reused = [
        {"start": part.span.start, "stop": part.span.stop, "tier": part.tier, "lossy": part.lossy}
        for part in metrics.reused[:_MOST]
    ]
    missed = [
        {"start": miss.span.start, "stop": miss.span.stop, "why": _TOLD_AS.get(miss.why, miss.why).value}
        for miss in metrics.misses[:_MOST]
    ]
    return {"cached_tokens": metrics.cached_tokens, "reused": reused, "missed": missed}
