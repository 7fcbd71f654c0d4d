"""The OpenAI endpoints."""

from __future__ import annotations

from contextlib import aclosing

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from kvloom.server.dialect.admission import check_sequences
from kvloom.server.dialect.answering import Served, as_json, unless_left
from kvloom.server.dialect.chat import ChatReply
from kvloom.server.dialect.completion import CompletionReply
from kvloom.server.dialect.fields import Json
from kvloom.server.dialect.prepare import chat_job, completion_job
from kvloom.server.dialect.reply import Reply
from kvloom.server.dialect.schemas import ChatRequest, CompletionRequest
from kvloom.server.dialect.served_names import ServedNames
from kvloom.server.dialect.stream import EventStream, events
from kvloom.server.dialect.unserved import ignored_header
from kvloom.server.edge.body import read_body
from kvloom.server.edge.caller import caller_of
from kvloom.server.engine_protocol import ServedEngine
from kvloom.server.updates import Updates, run_job


def openai_routes(served: Served, started: int) -> APIRouter:
    """``/v1``. ``started``: Unix time reported as the model's creation time."""
    router = APIRouter()
    engine, config, lanes, names, forms = served.engine, served.config, served.lanes, served.names, served.forms
    _add_models(router, engine, names, started)

    @router.route("/v1/chat/completions", methods=["POST"])
    async def chat_completions(request: Request) -> Response:
        body = await read_body(request, ChatRequest, config.max_body_bytes, lanes)
        name = names.checked(body.model)
        check_sequences(body, config.max_request_sequences)
        naming, default = served.naming(request), caller_of(request).compression
        job = await chat_job(body, engine, lanes, forms, served.reasoning, naming, default)
        reply = ChatReply(name, job, engine.tokenizer)
        return await _answer(served, request, body, reply)

    @router.route("/v1/completions", methods=["POST"])
    async def completions(request: Request) -> Response:
        body = await read_body(request, CompletionRequest, config.max_body_bytes, lanes)
        name = names.checked(body.model)
        check_sequences(body, config.max_request_sequences)
        job = await completion_job(body, engine, lanes, caller_of(request).compression)
        reply = CompletionReply(name, job, engine.tokenizer)
        return await _answer(served, request, body, reply)

    return router


def _add_models(router: APIRouter, engine: ServedEngine, names: ServedNames, started: int) -> None:
    def card(name: str) -> Json:
        return {
            "id": name,
            "object": "model",
            "created": started,
            "owned_by": "kvloom",
            "max_model_len": engine.max_model_len,
        }

    @router.route("/v1/models", methods=["GET"])
    @router.route("/v1/models/", methods=["GET"])
    async def models(_: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [card(name) for name in names.names]})

    @router.route("/v1/models/{name:path}", methods=["GET"])
    async def model(request: Request) -> JSONResponse:
        return JSONResponse(card(names.checked(request.path_params["name"])))


async def _answer(served: Served, request: Request, body: ChatRequest | CompletionRequest, reply: Reply) -> Response:
    updates = run_job(served.engine, served.record, served.waiting, reply.job, reply.id, caller_of(request))
    headers = ignored_header(body.ignored())
    if body.stream:
        frames = events(reply, updates, body.include_usage, body.usage_in_chunks)
        stream = EventStream(frames, served.config.heartbeat_seconds)
        stream.headers.update(headers)
        return stream
    return await unless_left(as_json(_whole(reply, updates), headers), request)


async def _whole(reply: Reply, updates: Updates) -> Json:
    async with aclosing(updates) as pairs:
        async for prompt, update in pairs:
            reply.add(prompt, update)
    return reply.whole()
