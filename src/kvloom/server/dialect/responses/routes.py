"""``/v1/responses``."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from kvloom.errors import RequestError
from kvloom.server.dialect.answering import Served
from kvloom.server.dialect.fields import Json
from kvloom.server.dialect.responses.items import items_of
from kvloom.server.dialect.responses.prepare import count_tokens, responses_job
from kvloom.server.dialect.responses.schemas import InputRequest, NamedTool, ResponsesRequest
from kvloom.server.dialect.responses.store import KEPT, ResponseStore, StoredResponse
from kvloom.server.dialect.responses.writer import ResponseWriter
from kvloom.server.dialect.unserved import ignored_header
from kvloom.server.edge.body import read_body
from kvloom.server.edge.caller import caller_of
from kvloom.server.errors import NothingStored, PreviousNotFound
from kvloom.server.job import Job

_MOST_LISTED = 100


def responses_routes(served: Served, store: ResponseStore) -> APIRouter:
    router = APIRouter()
    config, lanes = served.config, served.lanes

    @router.route("/v1/responses", methods=["POST"])
    async def responses(request: Request) -> Response:
        body = await read_body(request, ResponsesRequest, config.max_body_bytes, lanes)
        model = served.names.checked(body.model)
        body.check()
        items = items_of(body.input)
        history = [*_before(body, request, store), *items]
        job = await responses_job(body, history, served, served.naming(request), caller_of(request).compression)
        keeps = body.store is not False and store.keeps
        settings = _settings(body, job, model, keeps)
        done = _keep(store, caller_of(request).owner, items, history) if keeps else _nothing
        writer = ResponseWriter(settings, job.cache.write, done)
        return await served.answer(
            request,
            job,
            writer.id,
            writer,
            stream=bool(body.stream),
            headers=ignored_header(body.ignored()),
        )

    @router.route("/v1/responses/input_tokens", methods=["POST"])
    async def input_tokens(request: Request) -> Response:
        body = await read_body(request, InputRequest, config.max_body_bytes, lanes)
        served.names.checked(body.model)
        body.check()
        history = [*_before(body, request, store), *items_of(body.input)]
        tokens = await count_tokens(body, history, served, served.naming(request))
        count = {"object": "response.input_tokens", "input_tokens": tokens}
        return JSONResponse(count, headers=ignored_header(body.ignored()))

    _add_stored(router, store)
    return router


def _add_stored(router: APIRouter, store: ResponseStore) -> None:
    @router.route("/v1/responses/{id}", methods=["GET"])
    async def response(request: Request) -> Response:
        if request.query_params.get("stream") == "true":
            raise RequestError("`stream` of a stored response is not supported by this server", param="stream")
        return JSONResponse(_stored(request, store).document)

    @router.route("/v1/responses/{id}", methods=["DELETE"])
    async def delete(request: Request) -> Response:
        name = request.path_params["id"]
        store.delete(caller_of(request).owner, name)
        return JSONResponse({"id": name, "object": "response", "deleted": True})

    @router.route("/v1/responses/{id}/input_items", methods=["GET"])
    async def input_items(request: Request) -> Response:
        return JSONResponse(_listed(_stored(request, store).input, request))


def _before(body: InputRequest, request: Request, store: ResponseStore) -> list[Json]:
    """The conversation that the body continues. Raises PreviousNotFound."""
    name = body.previous_response_id
    if name is None:
        return []
    try:
        return store.find(caller_of(request).owner, name).history
    except NothingStored:
        message = f"Previous response with id '{name[:80]}' not found."
        raise PreviousNotFound(message, hint=KEPT, param="previous_response_id") from None


def _stored(request: Request, store: ResponseStore) -> StoredResponse:
    return store.find(caller_of(request).owner, request.path_params["id"])


def _keep(store: ResponseStore, owner: str, items: list[Json], history: list[Json]) -> Callable[[Json], None]:
    def done(document: Json) -> None:
        store.keep(owner, StoredResponse(document, items, [*history, *document["output"]]))

    return done


def _nothing(_: Json) -> None:
    """The response is not kept."""


def _settings(body: ResponsesRequest, job: Job, model: str, keeps: bool) -> Json:
    """What the response repeats of the request."""
    choice = body.tool_choice or "auto"
    return {
        "model": model,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "previous_response_id": body.previous_response_id,
        "store": keeps,
        "temperature": job.params.temperature,
        "top_p": job.params.top_p,
        "metadata": body.metadata or {},
        "text": {"format": _shown(body.text.format) if body.text and body.text.format else {"type": "text"}},
        "tools": [_shown(tool) | {"strict": bool(tool.strict)} for tool in body.tools or ()],
        "tool_choice": _shown(choice) if isinstance(choice, NamedTool) else choice,
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "truncation": "disabled",
        "background": False,
        "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
        "service_tier": "default",
    }


def _shown(fields: BaseModel) -> Json:
    return fields.model_dump(by_alias=True, exclude_none=True)


def _listed(items: list[Json], request: Request) -> Json:
    """A page of a list, the newest first unless ``order`` says ``asc``. Raises RequestError."""
    query = request.query_params
    limit = query.get("limit", "20")
    if not limit.isdecimal() or not 1 <= int(limit[:9]) <= _MOST_LISTED:
        raise RequestError(f"limit must be a whole number from 1 to {_MOST_LISTED}", param="limit")
    if query.get("order", "desc") not in ("asc", "desc"):
        raise RequestError("order must be `asc` or `desc`", param="order")
    found = items if query.get("order") == "asc" else items[::-1]
    if (after := query.get("after")) is not None:
        ids = [item["id"] for item in found]
        if after not in ids:
            raise NothingStored(f"Item with id '{after[:80]}' not found.", param="after")
        found = found[ids.index(after) + 1 :]
    page = found[: int(limit)]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(found) > len(page),
    }
