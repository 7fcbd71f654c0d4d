"""Contexts that are stored, and sessions: contexts saved to files, and put back. For admins: contexts are everybody's.

GET  /cache/contexts            what is stored, by text
GET  /cache/contexts/{id}       which spans of one
POST /cache/save                {"context": id, "name": "..."}
POST /cache/restore             {"name": "..."}
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import JSONResponse

from kvloom.config import ServerConfig
from kvloom.engine.engine import Engine
from kvloom.engine.sessions import StoredContext, context, contexts, put_in, take_out
from kvloom.errors import RequestError
from kvloom.memory.session_file import SUFFIX, read_session, write_session
from kvloom.segment import RAM
from kvloom.server.edge.body import read_body
from kvloom.server.edge.caller import caller_of
from kvloom.server.engine_protocol import ServedEngine
from kvloom.server.lanes import Lanes

_MOST = 1000
"""Contexts that one answer lists."""
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")


class SaveRequest(BaseModel):
    """``context``: an id of ``/cache/contexts``. ``name``: of the session."""

    model_config = ConfigDict(extra="forbid", strict=True)
    context: str
    name: str


class RestoreRequest(BaseModel):
    """``name``: of a session that was saved."""

    model_config = ConfigDict(extra="forbid", strict=True)
    name: str


def session_routes(engine: ServedEngine, config: ServerConfig, lanes: Lanes) -> APIRouter:
    router = APIRouter()

    @router.route("/cache/contexts", methods=["GET"])
    async def listed(request: Request) -> JSONResponse:
        caller_of(request).check_admin()
        found = await engine.ask(lambda each: list(contexts(each)))
        return JSONResponse({"contexts": [_summary(each) for each in found[:_MOST]], "total": len(found)})

    @router.route("/cache/contexts/{id}", methods=["GET"])
    async def shown(request: Request) -> JSONResponse:
        caller_of(request).check_admin()
        id = request.path_params["id"]
        found, groups = await engine.ask(lambda each: (context(each, id), _groups(each)))
        return JSONResponse(_summary(found) | {"segments": dict(zip(groups, map(_spans, found.segments), strict=True))})

    @router.route("/cache/save", methods=["POST"])
    async def save(request: Request) -> JSONResponse:
        caller_of(request).check_admin()
        asked = await read_body(request, SaveRequest, config.max_body_bytes, lanes)
        path = _path(config, asked.name)
        session = await engine.ask(lambda each: take_out(each, asked.context))
        size = await asyncio.to_thread(write_session, path, session)
        return JSONResponse({"name": asked.name, "tokens": len(session.tokens), "bytes": size})

    @router.route("/cache/restore", methods=["POST"])
    async def restore(request: Request) -> JSONResponse:
        caller_of(request).check_admin()
        asked = await read_body(request, RestoreRequest, config.max_body_bytes, lanes)
        session = await asyncio.to_thread(read_session, _path(config, asked.name))
        tokens = await engine.ask(lambda each: put_in(each, session))
        return JSONResponse({"name": asked.name, "tokens": tokens})

    return router


def _path(config: ServerConfig, name: str) -> Path:
    """Raises RequestError."""
    if config.sessions_dir is None:
        raise RequestError("saving sessions is not supported by this server", hint="start it with --sessions-dir DIR")
    if not _NAME.fullmatch(name):
        raise RequestError(
            "this cannot be the name of a session", hint="up to 64 letters, digits and any of . _ -", param="name"
        )
    return Path(config.sessions_dir).expanduser() / f"{name}{SUFFIX}"


def _summary(found: StoredContext) -> dict[str, Any]:
    """``root``: equal for texts of one salt."""
    return {"id": found.id, "root": found.root[:4].hex(), "tokens": len(found.tokens), "bytes": found.bytes}


def _groups(engine: Engine) -> list[str]:
    return [fmt.name for fmt in engine.layout.formats]


def _spans(found: Any) -> list[dict[str, Any]]:
    return [{"start": span.start, "stop": span.stop, "tier": RAM} for span in found]
