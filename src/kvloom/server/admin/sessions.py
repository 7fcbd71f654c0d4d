"""Sessions: stored contexts saved to files, and put back. For admins: contexts are everybody's.

POST /cache/save                {"context": id, "name": "..."}
POST /cache/restore             {"name": "..."}
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import JSONResponse

from kvloom.config import ServerConfig
from kvloom.engine.sessions import put_in, take_out
from kvloom.errors import RequestError
from kvloom.memory.session_file import SUFFIX, read_session, write_session
from kvloom.server.edge.body import read_body
from kvloom.server.edge.caller import caller_of
from kvloom.server.engine_protocol import ServedEngine
from kvloom.server.lanes import Lanes

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
