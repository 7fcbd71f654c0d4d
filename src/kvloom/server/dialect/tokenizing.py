"""``/tokenize``, ``/detokenize`` and ``/tokenizer_info``, compatible with vLLM."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Self

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import JSONResponse

from kvloom.errors import RequestError
from kvloom.server.dialect.answering import Served
from kvloom.server.dialect.breakpoints import Rendering
from kvloom.server.dialect.fields import Json, TokenId
from kvloom.server.dialect.naming import Naming
from kvloom.server.dialect.schemas import Message
from kvloom.server.dialect.tools.conversation import Conversation
from kvloom.server.dialect.tools.fields import ToolFields
from kvloom.server.dialect.tools.forms import ToolForms
from kvloom.server.dialect.unserved import ignored, ignored_header, refuse, refuse_in_message
from kvloom.server.edge.body import read_body
from kvloom.server.engine_protocol import Tokenizer


class TokenizeRequest(ToolFields):
    """Body of ``POST /tokenize``: a prompt or messages. A chat template adds its special tokens itself."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    return_token_strs: bool | None = None
    chat_template_kwargs: Json | None = None

    @property
    def size(self) -> int:
        """Characters of text."""
        return len(self.prompt or "") + sum(message.size for message in self.messages or ())

    @model_validator(mode="after")
    def _has_one_text(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise PydanticCustomError("one_of", "either `prompt` or `messages` is needed")
        return self


class DetokenizeRequest(BaseModel):
    """Body of ``POST /detokenize``."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str | None = None
    tokens: list[TokenId]


class TokenizeReply(BaseModel):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeReply(BaseModel):
    prompt: str


class TokenizerInfo(BaseModel):
    """What a ``tokenizer_config.json`` of the model says; special tokens have their texts."""

    model_config = ConfigDict(extra="allow")

    tokenizer_class: str
    model_max_length: int
    chat_template: str | None
    bos_token: str | None
    eos_token: str | None
    unk_token: str | None
    pad_token: str | None
    add_bos_token: bool
    added_tokens_decoder: dict[str, Json]


def tokenize_routes(served: Served) -> APIRouter:
    router = APIRouter()
    engine, config, lanes, names = served.engine, served.config, served.lanes, served.names

    def check(body: TokenizeRequest | DetokenizeRequest) -> None:
        refuse(body.model_extra or {})
        names.checked(body.model)

    @router.route("/tokenize", methods=["POST"])
    async def tokenize(request: Request) -> JSONResponse:
        body = await read_body(request, TokenizeRequest, config.max_body_bytes, lanes)
        check(body)
        for index, message in enumerate(body.messages or ()):
            refuse_in_message(message.model_extra or {}, index)
        reply = await lanes.run(partial(_tokenized, body, served, served.naming(request)), body.size)
        return JSONResponse(reply.model_dump(), headers=ignored_header(ignored(body.model_extra or {})))

    @router.route("/detokenize", methods=["POST"])
    async def detokenize(request: Request) -> JSONResponse:
        body = await read_body(request, DetokenizeRequest, config.max_body_bytes, lanes)
        check(body)
        if len(body.tokens) > engine.max_model_len:
            raise RequestError(
                f"{len(body.tokens)} tokens do not fit a context of {engine.max_model_len} holds", param="tokens"
            )
        text = await lanes.run(partial(_text, body.tokens, engine.tokenizer), len(body.tokens))
        headers = ignored_header(ignored(body.model_extra or {}))
        return JSONResponse(DetokenizeReply(prompt=text).model_dump(), headers=headers)

    @router.route("/tokenizer_info", methods=["GET"])
    async def info(_: Request) -> JSONResponse:
        told = engine.tokenizer.described() | {"model_max_length": engine.max_model_len}
        return JSONResponse(TokenizerInfo.model_validate(told).model_dump())

    return router


def _tokenized(body: TokenizeRequest, served: Served, naming: Naming) -> TokenizeReply:
    engine, tokenizer = served.engine, served.engine.tokenizer
    ids = _ids(body, tokenizer, served.forms, naming, engine.max_model_len)
    texts = [tokenizer.token_text(token) for token in ids] if body.return_token_strs else None
    return TokenizeReply(count=len(ids), max_model_len=engine.max_model_len, tokens=ids, token_strs=texts)


def _ids(body: TokenizeRequest, tokenizer: Tokenizer, forms: ToolForms, naming: Naming, max_tokens: int) -> list[int]:
    if body.messages is None:
        return tokenizer.encode(body.prompt or "", body.add_special_tokens is not False, max_tokens)
    continues = bool(body.continue_final_message)
    begins = not continues if body.add_generation_prompt is None else body.add_generation_prompt
    turns = [message.for_template() for message in body.messages]
    naming.resolve(turns)
    conversation = Conversation(turns, body.use(), None, begins, continues, body.chat_template_kwargs)
    form = forms.get() if conversation.needs_tool_form else None
    special = bool(body.add_special_tokens)
    rendering = Rendering(tokenizer, form, conversation.documents, max_tokens, special)
    return rendering.prompt(conversation)[1].ids


def _text(tokens: list[int], tokenizer: Tokenizer) -> str:
    return tokenizer.decode(tokens, skip_special_tokens=False)
