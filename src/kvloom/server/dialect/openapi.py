"""``/openapi.json``, generated from the models that validate bodies and from the table of fields.

The routes parse bodies themselves, bounded and in one pass, so the framework cannot infer their schemas.
"""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import JSONResponse

from kvloom.server.admin.sessions import RestoreRequest, SaveRequest
from kvloom.server.dialect.anthropic.schemas import CountRequest, MessagesRequest
from kvloom.server.dialect.embeddings.schemas import EmbeddingsRequest
from kvloom.server.dialect.field_table import SERVED, Json
from kvloom.server.dialect.responses.schemas import InputRequest, ResponsesRequest
from kvloom.server.dialect.schemas import ChatRequest, CompletionRequest
from kvloom.server.dialect.tokenizing import (
    DetokenizeReply,
    DetokenizeRequest,
    TokenizeReply,
    TokenizeRequest,
    TokenizerInfo,
)

EXTENSION = "x-kvloom-extension"

_REF = "#/components/schemas/{model}"
_TEXT: Json = {"type": "string"}
_NUMBER: Json = {"type": "integer"}
_BODIES: tuple[type[BaseModel], ...] = (
    ChatRequest,
    CompletionRequest,
    ResponsesRequest,
    InputRequest,
    MessagesRequest,
    CountRequest,
    EmbeddingsRequest,
    TokenizeRequest,
    DetokenizeRequest,
    SaveRequest,
    RestoreRequest,
)
_REPLIES: tuple[type[BaseModel], ...] = (TokenizeReply, DetokenizeReply, TokenizerInfo)


def openapi_routes() -> APIRouter:
    router = APIRouter()

    @router.route("/openapi.json", methods=["GET"])
    async def openapi(_: Request) -> JSONResponse:
        return JSONResponse(openapi_document())

    return router


def openapi_document() -> Json:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "kvloom",
            "version": version("kvloom"),
            "description": f"Extensions of OpenAI's API are marked `{EXTENSION}`. A field that is not listed is "
            "refused by name if it would change the answer; otherwise it is ignored and named in the header "
            "`x-kvloom-ignored`.",
        },
        "paths": _paths(),
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _paths() -> Json:
    return {
        "/v1/chat/completions": {"post": _generation("Continue a conversation", ChatRequest, "ChatCompletion")},
        "/v1/completions": {"post": _generation("Continue texts", CompletionRequest, "Completion")},
        "/v1/responses": {"post": _generation("Answer, and keep the response", ResponsesRequest, "Response")},
        "/v1/responses/input_tokens": {
            "post": _operation("Count the tokens of a response's prompt", "TokenCount", InputRequest, key=True)
        },
        "/v1/responses/{id}": {
            "parameters": [_in_path("id")],
            "get": _operation("Return a response that is kept", "Response", key=True),
            "delete": _operation("Forget a response", "Deleted", key=True),
        },
        "/v1/responses/{id}/input_items": {
            "parameters": [
                _in_path("id"),
                {"name": "limit", "in": "query", "schema": _NUMBER},
                {"name": "order", "in": "query", "schema": {"enum": ["asc", "desc"]}},
                {"name": "after", "in": "query", "schema": _TEXT},
            ],
            "get": _operation("List the input of a response", "ItemList", key=True),
        },
        "/v1/messages": {"post": _generation("Continue a conversation (Anthropic)", MessagesRequest, "MessageReply")},
        "/v1/messages/count_tokens": {
            "post": _operation("Count the tokens of a message's prompt", "TokenCount", CountRequest, key=True)
        },
        "/v1/embeddings": {"post": _operation("Embed texts", "EmbeddingList", EmbeddingsRequest, key=True)},
        "/v1/models": {"get": _operation("List the model", "ModelList", key=True)},
        "/v1/models/{name}": {
            "parameters": [_in_path("name")],
            "get": _operation("Describe the model", "Model", key=True),
        },
        "/tokenize": {"post": _operation("Convert text to token ids", "TokenizeReply", TokenizeRequest, key=True)},
        "/detokenize": {
            "post": _operation("Convert token ids to text", "DetokenizeReply", DetokenizeRequest, key=True)
        },
        "/tokenizer_info": {"get": _operation("Describe the tokenizer and chat template", "TokenizerInfo", key=True)},
        "/openapi.json": {"get": _operation("Return this document")},
        "/health": {"get": _operation("Report whether requests make progress")},
        "/version": {"get": _operation("Return the server version")},
        "/metrics": {"get": _operation("Return counters and histograms for Prometheus", media="text/plain", key=True)},
        "/cache": {"get": _operation("Report the contents of the KV cache", key=True)},
        "/cache/reset": {"post": _operation("Drop all reusable KV", key=True)},
        "/reset_prefix_cache": {"post": _operation("The same, by vLLM's name", key=True)},
        "/cache/check": {"post": _operation("Audit every byte of KV memory", key=True)},
        "/ui": {"get": _operation("Return the page that shows the cache", media="text/html")},
        "/window": {
            "parameters": [{"name": "after", "in": "query", "schema": _NUMBER}],
            "get": _operation("Report what the page shows: memory, contexts, answers", key=True),
        },
        "/window/about": {"get": _operation("Report what can be asked of the model", key=True)},
        "/cache/contexts": {"get": _operation("List the texts whose KV is in RAM", key=True)},
        "/cache/contexts/{id}": {
            "parameters": [_in_path("id")],
            "get": _operation("Tell where the KV of a stored text, or of an answer's contexts, lies", key=True),
        },
        "/cache/requests/{id}": {
            "parameters": [_in_path("id")],
            "get": _operation("Tell what an answered request found in the cache, and why not the rest", key=True),
        },
        "/cache/save": {"post": _operation("Save the KV of a text to a file", None, SaveRequest, key=True)},
        "/cache/restore": {"post": _operation("Restore the KV of a text from a file", None, RestoreRequest, key=True)},
    }


def _in_path(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": _TEXT}


def _generation(summary: str, body: type[BaseModel], reply: str) -> Json:
    operation = _operation(summary, reply, body, key=True)
    answer = operation["responses"]["200"]
    answer["content"]["text/event-stream"] = {"schema": _TEXT}
    answer["headers"] = {"x-kvloom-ignored": {"description": "unknown fields that were ignored", "schema": _TEXT}}
    return operation


def _operation(
    summary: str,
    reply: str | None = None,
    body: type[BaseModel] | None = None,
    *,
    key: bool = False,
    media: str = "application/json",
) -> Json:
    schema = {"$ref": _REF.format(model=reply)} if reply else {"type": "object" if media.endswith("json") else "string"}
    error = {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}}
    operation: Json = {
        "summary": summary,
        "responses": {
            "200": {"description": "OK", "content": {media: {"schema": schema}}},
            "default": {"description": "What went wrong", "content": error},
        },
    }
    if body is not None:
        content = {"application/json": {"schema": {"$ref": _REF.format(model=body.__name__)}}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation | {"security": [{"key": []}, {"x-api-key": []}, {}]} if key else operation


def _schemas() -> Json:
    asked, told = _request_schemas(), _reply_schemas()
    assert asked.keys().isdisjoint(told), asked.keys() & told.keys()
    return asked | told


def _request_schemas() -> Json:
    _, document = models_json_schema([(model, "validation") for model in (*_BODIES, *_REPLIES)], ref_template=_REF)
    schemas: Json = document["$defs"]
    for model in (ChatRequest, CompletionRequest):
        for name, schema in schemas[model.__name__]["properties"].items():
            served = SERVED[name]
            schema["description"] = served.says
            if model.__name__ in served.extends:
                schema[EXTENSION] = True
    return schemas


def _reply_schemas() -> Json:
    usage = _object(prompt_tokens=_NUMBER, completion_tokens=_NUMBER, total_tokens=_NUMBER)
    usage["properties"]["prompt_tokens_details"] = _object(cached_tokens=_NUMBER)
    ours = {"compressed": _list({"type": "object"}), "guard": _list({"type": "object"}), "lossy_tokens": _NUMBER}
    ours["fused"] = _list({"type": "object"})
    usage["properties"]["kvloom"] = {"type": "object", "properties": ours}
    reason = {"enum": ["stop", "length"]}
    chat_reason = {"enum": ["stop", "length", "tool_calls"]}
    call = _object(id=_TEXT, type={"const": "function"}, function=_object(name=_TEXT, arguments=_TEXT))
    message = _object(role=_TEXT, content=_or_null(_TEXT))
    message["properties"]["tool_calls"] = _list(call)
    model = _object(id=_TEXT, object=_TEXT, created=_NUMBER, owned_by=_TEXT, max_model_len=_NUMBER)
    return {
        "Error": _object(error=_object(message=_TEXT, type=_TEXT, param=_or_null(_TEXT), code=_or_null(_TEXT))),
        "Usage": usage,
        "Model": model,
        "ModelList": _object(object=_TEXT, data=_list({"$ref": _REF.format(model="Model")})),
        **_other_replies(),
        "ChatCompletion": _answer(_object(index=_NUMBER, message=message, finish_reason=chat_reason)),
        "Completion": _answer(_object(index=_NUMBER, text=_TEXT, finish_reason=reason)),
    }


def _other_replies() -> Json:
    """Of the other dialects: the fields that are always there."""
    anything: Json = {"type": "object"}
    usage = _object(input_tokens=_NUMBER, output_tokens=_NUMBER)
    items = _object(object=_TEXT, data=_list(anything), has_more={"type": "boolean"})
    vector = {"anyOf": [_list({"type": "number"}), _TEXT]}
    embedding = _object(object=_TEXT, index=_NUMBER, embedding=vector)
    counted = _object(prompt_tokens=_NUMBER, total_tokens=_NUMBER)
    return {
        "Response": _object(
            id=_TEXT, object=_TEXT, created_at=_NUMBER, status=_TEXT, model=_TEXT, output=_list(anything)
        ),
        "ItemList": items,
        "Deleted": _object(id=_TEXT, object=_TEXT, deleted={"type": "boolean"}),
        "MessageReply": _object(id=_TEXT, type=_TEXT, role=_TEXT, model=_TEXT, content=_list(anything), usage=usage),
        "TokenCount": _object(input_tokens=_NUMBER),
        "EmbeddingList": _object(object=_TEXT, data=_list(embedding), model=_TEXT, usage=counted),
    }


def _answer(choice: Json) -> Json:
    choice["properties"] |= {
        "logprobs": {"type": ["object", "null"]},
        "stop_reason": {"type": ["string", "integer", "null"], EXTENSION: True},
        "token_ids": _list(_NUMBER) | {EXTENSION: True},
    }
    usage = {"$ref": _REF.format(model="Usage")}
    return _object(id=_TEXT, object=_TEXT, created=_NUMBER, model=_TEXT, choices=_list(choice), usage=usage)


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _or_null(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}
