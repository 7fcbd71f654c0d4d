"""The bodies that callers send, in OpenAI's shape with vLLM's extra fields.

Types are strict: ``"16"`` is no number. Null means the default. Unknown fields are ignored, as OpenAI's
clients expect, unless serving them would have changed the answer (``fields.unsupported``).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from kvloom.engine.params import MAX_LOGPROBS, SamplingParams, some_tokens
from kvloom.errors import ParamsError, RequestError
from kvloom.server.fields import Json, Prompts, Real, Stop, must_be, unsupported

_SAMPLING = (
    "n",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
    "stop_token_ids",
    "include_stop_str_in_output",
    "ignore_eos",
    "skip_special_tokens",
    "prompt_logprobs",
    "cache_salt",
)

_KEEPS_ALL = -1  # what vLLM's clients send as top_k for "keep every token"


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None


class _Request(BaseModel):
    """What chat and text completion have in common."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = None
    temperature: Real | None = None
    top_p: Real | None = None
    top_k: int | None = None
    min_p: Real | None = None
    repetition_penalty: Real | None = None
    presence_penalty: Real | None = None
    frequency_penalty: Real | None = None
    logit_bias: dict[str, Real] | None = None
    seed: int | None = None
    stop: Stop | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    prompt_logprobs: int | None = None
    cache_salt: Annotated[str, Field(min_length=1)] | None = None

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def check(self) -> None:
        """Refuse what types cannot. Raises RequestError."""
        name = unsupported(self.model_extra or {})
        if name is not None:
            raise RequestError(f"`{name}` is not supported with this value", param=name)
        if self.stream_options is not None and not self.stream:
            raise RequestError("`stream_options` needs `stream` to be true", param="stream_options")
        if self.prompt_logprobs is not None and self.stream:
            raise RequestError("`prompt_logprobs` cannot be streamed", param="prompt_logprobs")

    def _params(self, **more: Any) -> SamplingParams:
        given = {name: value for name in _SAMPLING if (value := getattr(self, name)) is not None}
        if given.get("top_k") == _KEEPS_ALL:
            given["top_k"] = 0
        return SamplingParams(**given | {"logit_bias": _biases(self.logit_bias or {})} | more)


class Message(BaseModel):
    """One turn. Text parts are joined by newlines."""

    model_config = ConfigDict(strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str | list[Json], must_be("a string or a list of text parts")] | None = None
    name: str | None = None
    tool_calls: list[Json] | None = None
    tool_call_id: str | None = None

    @field_validator("content")
    @classmethod
    def _texts_only(cls, content: str | list[Json] | None) -> str | None:
        if content is None or isinstance(content, str):
            return content
        for part in content:
            if part.get("type") != "text":
                said = {"kind": str(part.get("type"))}
                raise PydanticCustomError("wrong_part", "a part of type `{kind}` is not supported, only `text`", said)
            if not isinstance(part.get("text"), str):
                raise PydanticCustomError("wrong_part", "a text part needs a string `text`")
        return "\n".join(part["text"] for part in content)

    @model_validator(mode="after")
    def _has_content(self) -> Self:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise PydanticCustomError("no_content", "content is missing")
        return self

    def for_template(self) -> Json:
        """The form that chat templates know. They know no developer: it is the system's newer name."""
        turn: Json = {
            "role": "system" if self.role == "developer" else self.role,
            "content": self.content or "",
        }
        for name in ("name", "tool_calls", "tool_call_id"):
            if (value := getattr(self, name)) is not None:
                turn[name] = value
        return turn


class ChatRequest(_Request):
    """Body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    def check(self) -> None:
        super().check()
        if self.top_logprobs and not self.logprobs:
            raise RequestError("`top_logprobs` needs `logprobs` to be true", param="top_logprobs")

    def params(self) -> SamplingParams:
        """Raises ParamsError. Without a limit the answer may fill the context."""
        limit = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return self._params(max_tokens=some_tokens(limit), logprobs=(self.top_logprobs or 0) if self.logprobs else None)


class CompletionRequest(_Request):
    """Body of ``POST /v1/completions``."""

    prompt: Prompts
    echo: bool | None = None
    logprobs: int | None = None
    best_of: int | None = None

    def check(self) -> None:
        super().check()
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise RequestError("`best_of` other than `n` is not supported", param="best_of")

    def params(self) -> SamplingParams:
        """Raises ParamsError. OpenAI's default length is 16 tokens; with 0, an echoed prompt and its scores are all."""
        more: Json = {
            "max_tokens": 16 if self.max_tokens is None else self.max_tokens,
            "logprobs": self.logprobs,
        }
        if self.echo and self.prompt_logprobs is None:
            more["prompt_logprobs"] = self.logprobs
        return self._params(**more)


def _biases(biases: dict[str, float]) -> dict[int, float]:
    try:
        return {int(token): bias for token, bias in biases.items()}
    except ValueError:
        raise ParamsError("the keys of logit_bias must be token ids", param="logit_bias") from None
