"""``/ui``, the page, for anybody: it holds nothing; and ``/window``, what it shows, for who has a key."""

from __future__ import annotations

import time

from fastapi import APIRouter
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from kvloom.errors import RequestError
from kvloom.policy.compression import METHODS, text_of
from kvloom.policy.compression.allocators import ALLOCATORS
from kvloom.server.admin.recent import Recent
from kvloom.server.edge.caller import Caller, caller_of
from kvloom.server.engine_protocol import ServedEngine
from kvloom.server.errors import NOT_ALIVE
from kvloom.server.window.files import INDEX, page_files
from kvloom.server.window.glances import Glances
from kvloom.server.window.view import Json, answer_of, state_of

_MOST_ANSWERS = 256
_JSON = "application/json"
_NO_STORE = {"Cache-Control": "no-store"}


def window_routes(engine: ServedEngine, recent: Recent) -> APIRouter:
    router = APIRouter()
    _add_page(router)
    glances = Glances(engine, recent)

    @router.route("/window", methods=["GET"])
    async def state(request: Request) -> Response:
        """``?after=N``: only answers with a higher number than N."""
        caller, after = caller_of(request), _number(request, "after")
        if not engine.alive:
            return NOT_ALIVE.response()
        glance = await glances.of(caller)
        stats, owners = engine.stats(), caller.role == "admin"
        answers = [answer_of(each, stats.prefill_cost, owners) for each in recent.answers(caller, after)]
        told = {"now": time.time(), "last": recent.last, "answers": answers[-_MOST_ANSWERS:]}
        return _json(told | state_of(stats, glance, owners))

    @router.route("/window/about", methods=["GET"])
    async def about(request: Request) -> Response:
        return _json(_about(engine, caller_of(request)))

    return router


def _add_page(router: APIRouter) -> None:
    files = page_files()

    @router.route("/ui", methods=["GET"])
    async def index(request: Request) -> Response:
        return files[INDEX].response(request)

    @router.route("/ui/{name}", methods=["GET"])
    async def file(request: Request) -> Response:
        found = files.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404)
        return found.response(request)


def _about(engine: ServedEngine, caller: Caller) -> Json:
    """What does not change: the model, and what can be asked of it for this caller."""
    return {
        "model": engine.model_name,
        "max_model_len": engine.max_model_len,
        "owner": caller.owner,
        "admin": caller.role == "admin",
        "default_compression": None if caller.compression is None else text_of(caller.compression),
        "methods": [
            {
                "name": name,
                "allocators": [each for each, allocation in ALLOCATORS.items() if allocation.compares <= method.scale],
            }
            for name, method in METHODS.items()
            if method.ratio is None
        ],
    }


def _number(request: Request, name: str) -> int:
    said = request.query_params.get(name, "0")
    if not (said.isascii() and said.isdigit() and len(said) <= 15):
        raise RequestError(f"`{name}` must be a number, not negative", param=name)
    return int(said)


def _json(told: Json) -> Response:
    return Response(to_json(told), media_type=_JSON, headers=_NO_STORE)
