"""``/v1/embeddings``."""

from __future__ import annotations

import base64
import dataclasses
import uuid
from contextlib import aclosing

from fastapi import APIRouter
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from kvloom.arrays import Floats
from kvloom.engine.cache_params import CacheParams
from kvloom.errors import RequestError
from kvloom.server.dialect.answering import Served, unless_left
from kvloom.server.dialect.embeddings.schemas import EmbeddingsRequest
from kvloom.server.dialect.fields import Json
from kvloom.server.dialect.prepare import completion_job
from kvloom.server.dialect.schemas import CompletionRequest
from kvloom.server.dialect.unserved import ignored_header
from kvloom.server.edge.body import read_body
from kvloom.server.edge.caller import caller_of
from kvloom.server.job import Job
from kvloom.server.updates import Updates, run_job

_BYTES_A_NUMBER = 20
"""Of JSON, about."""


def embeddings_routes(served: Served) -> APIRouter:
    router = APIRouter()
    config, lanes = served.config, served.lanes

    @router.route("/v1/embeddings", methods=["POST"])
    async def embeddings(request: Request) -> Response:
        body = await read_body(request, EmbeddingsRequest, config.max_body_bytes, lanes)
        model = served.names.checked(body.model)
        body.check()
        job = await _job(body, served)
        name, caller = f"embd-{uuid.uuid4().hex}", caller_of(request)
        updates = run_job(served.engine, served.record, served.waiting, job, name, caller)
        return await unless_left(reply(body, job, updates, model), request)

    async def reply(body: EmbeddingsRequest, job: Job, updates: Updates, model: str) -> Response:
        try:
            found = await _gathered(updates)
        except RequestError as error:
            raise _about_input(error) from None
        size = sum(map(len, found.values())) * _BYTES_A_NUMBER
        document = await lanes.run(lambda: to_json(_document(body, job, found, model)), size)
        return Response(document, media_type="application/json", headers=ignored_header(body.ignored()))

    return router


async def _job(body: EmbeddingsRequest, served: Served) -> Job:
    """Every prompt is computed anew, as all of its rows are needed, and leaves no KV behind."""
    asked = CompletionRequest(model=body.model, prompt=body.input, max_tokens=0)
    try:
        job = await completion_job(asked, served.engine, served.lanes)
    except RequestError as error:
        raise _about_input(error) from None
    params = dataclasses.replace(job.params, prompt_embedding=True)
    cache = CacheParams(read=False, write=False)
    return dataclasses.replace(job, params=params, cache=cache, prompt_field="input")


async def _gathered(updates: Updates) -> dict[int, Floats]:
    found: dict[int, Floats] = {}
    async with aclosing(updates) as pairs:
        async for prompt, update in pairs:
            if update.embedding is not None:
                found[prompt] = update.embedding
    return found


def _document(body: EmbeddingsRequest, job: Job, found: dict[int, Floats], model: str) -> Json:
    """Raises RequestError when the vectors do not have the dimensions that were asked for."""
    if body.dimensions not in (None, width := len(found[0])):
        raise RequestError(
            f"this model's embeddings have {width} dimensions, `dimensions` other than that is not supported by this "
            "server",
            param="dimensions",
        )
    write = _base64 if body.encoding_format == "base64" else _numbers
    data = [{"object": "embedding", "index": n, "embedding": write(vector)} for n, vector in sorted(found.items())]
    tokens = sum(len(prompt.token_ids) for prompt in job.prompts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _numbers(vector_C: Floats) -> list[float]:
    return [float(value) for value in vector_C]


def _base64(vector_C: Floats) -> str:
    return base64.b64encode(vector_C.astype("<f4").tobytes()).decode()


def _about_input(error: RequestError) -> RequestError:
    if error.param == "prompt":
        error.param = "input"
    return error
