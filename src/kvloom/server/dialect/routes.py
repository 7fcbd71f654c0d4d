"""The OpenAI endpoints."""

from __future__ import annotations

from contextlib import aclosing

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from kvloom.config import ServerConfig
from kvloom.errors import ModelNotFound
from kvloom.server.admin.record import Record
from kvloom.server.dialect.admission import check_sequences
from kvloom.server.dialect.chat import ChatReply
from kvloom.server.dialect.completion import CompletionReply
from kvloom.server.dialect.fields import Json
from kvloom.server.dialect.prepare import chat_job, completion_job
from kvloom.server.dialect.reply import Reply
from kvloom.server.dialect.schemas import ChatRequest, CompletionRequest
from kvloom.server.dialect.stream import EventStream, events
from kvloom.server.dialect.unserved import ignored_header
from kvloom.server.disconnect import ClientGone, unless_gone
from kvloom.server.edge.body import read_body
from kvloom.server.edge.caller import caller_of
from kvloom.server.engine_protocol import ServedEngine
from kvloom.server.lanes import Lanes
from kvloom.server.updates import Updates, run_job

_CLIENT_CLOSED_REQUEST = 499  # never received by anyone; what proxies log in this case


def openai_routes(engine: ServedEngine, record: Record, config: ServerConfig, lanes: Lanes, started: int) -> APIRouter:
    """``/v1``. ``started``: Unix time reported as the model's creation time."""
    router = APIRouter()
    _add_models(router, engine, started)

    @router.route("/v1/chat/completions", methods=["POST"])
    async def chat_completions(request: Request) -> Response:
        body = await read_body(request, ChatRequest, config.max_body_bytes, lanes)
        _check_model(engine, body.model)
        check_sequences(body, config.max_request_sequences)
        job = await chat_job(body, engine, lanes, caller_of(request).compression)
        reply = ChatReply(engine.model_name, job, engine.tokenizer)
        return await _answer(engine, record, config, request, body, reply)

    @router.route("/v1/completions", methods=["POST"])
    async def completions(request: Request) -> Response:
        body = await read_body(request, CompletionRequest, config.max_body_bytes, lanes)
        _check_model(engine, body.model)
        check_sequences(body, config.max_request_sequences)
        job = await completion_job(body, engine, lanes, caller_of(request).compression)
        reply = CompletionReply(engine.model_name, job, engine.tokenizer)
        return await _answer(engine, record, config, request, body, reply)

    return router


def _add_models(router: APIRouter, engine: ServedEngine, started: int) -> None:
    card: Json = {
        "id": engine.model_name,
        "object": "model",
        "created": started,
        "owned_by": "kvloom",
        "max_model_len": engine.max_model_len,
    }

    @router.route("/v1/models", methods=["GET"])
    @router.route("/v1/models/", methods=["GET"])
    async def models(_: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [card]})

    @router.route("/v1/models/{name:path}", methods=["GET"])
    async def model(request: Request) -> JSONResponse:
        _check_model(engine, request.path_params["name"])
        return JSONResponse(card)


def _check_model(engine: ServedEngine, name: str) -> None:
    if name != engine.model_name:
        raise ModelNotFound(f"no model `{name}` here, only `{engine.model_name}`")


async def _answer(
    engine: ServedEngine,
    record: Record,
    config: ServerConfig,
    request: Request,
    body: ChatRequest | CompletionRequest,
    reply: Reply,
) -> Response:
    updates = run_job(engine, record, reply.job, reply.id, caller_of(request))
    headers = ignored_header(body.ignored())
    if body.stream:
        frames = events(reply, updates, body.include_usage, body.usage_in_chunks)
        stream = EventStream(frames, config.heartbeat_seconds)
        stream.headers.update(headers)
        return stream
    try:
        return JSONResponse(await unless_gone(_whole(reply, updates), request.receive), headers=headers)
    except ClientGone:
        return Response(status_code=_CLIENT_CLOSED_REQUEST)


async def _whole(reply: Reply, updates: Updates) -> Json:
    async with aclosing(updates) as pairs:
        async for prompt, update in pairs:
            reply.add(prompt, update)
    return reply.whole()
