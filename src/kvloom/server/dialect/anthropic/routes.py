"""``/v1/messages``. One form is spoken, whatever ``anthropic-version`` and ``anthropic-beta`` say."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from kvloom.server.dialect.answering import Served
from kvloom.server.dialect.anthropic.prepare import count_tokens, messages_job
from kvloom.server.dialect.anthropic.schemas import CountRequest, MessagesRequest
from kvloom.server.dialect.anthropic.writer import PING, MessageWriter
from kvloom.server.dialect.unserved import ignored_header
from kvloom.server.edge.body import read_body
from kvloom.server.edge.caller import caller_of


def anthropic_routes(served: Served) -> APIRouter:
    router = APIRouter()
    config, lanes = served.config, served.lanes

    @router.route("/v1/messages", methods=["POST"])
    async def messages(request: Request) -> Response:
        body = await read_body(request, MessagesRequest, config.max_body_bytes, lanes)
        name = served.names.checked(body.model)
        job, applied = await messages_job(body, served, served.naming(request), caller_of(request).compression)
        marks = job.cache.marks if job.cache.write else ()
        writer = MessageWriter(name, job.params.max_tokens, marks, applied)
        return await served.answer(
            request,
            job,
            writer.id,
            writer,
            stream=bool(body.stream),
            headers=ignored_header(body.ignored()),
            heartbeat=PING,
        )

    @router.route("/v1/messages/count_tokens", methods=["POST"])
    async def count(request: Request) -> Response:
        body = await read_body(request, CountRequest, config.max_body_bytes, lanes)
        served.names.checked(body.model)
        counted = await count_tokens(body, served, served.naming(request))
        return JSONResponse(counted, headers=ignored_header(body.ignored()))

    return router
