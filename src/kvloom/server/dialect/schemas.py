"""Request bodies in OpenAI's format, with vLLM's extra fields.

Types are strict: ``"16"`` is not a number. Null means the default. ``field_table`` lists all other fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from kvloom.engine.defaults import SamplingDefaults
from kvloom.engine.params import MAX_LOGPROBS, SamplingParams, some_tokens
from kvloom.errors import ParamsError, RequestError
from kvloom.server.dialect.answer_form import FormFields
from kvloom.server.dialect.breakpoints import Breakpoint, breakpoints_in, is_breakpoint
from kvloom.server.dialect.fields import Json, Prompts, Real, Stop, must_be
from kvloom.server.dialect.prompt_cache import PromptCacheFields
from kvloom.server.dialect.reasoning import Effort
from kvloom.server.dialect.tools.conversation import Conversation
from kvloom.server.dialect.tools.fields import ToolFields
from kvloom.server.dialect.unserved import ignored, ignored_in_messages, refuse, refuse_in_message, refuse_many

_SAMPLING = (
    "n",
    "min_tokens",
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
)

_TOKEN_ID = re.compile(r"-?[0-9]{1,18}")
_KEEPS_ALL = -1  # how vLLM's clients disable top_k


class StreamOptions(BaseModel):
    """``include_obfuscation`` has no effect: nothing is added to hide the lengths of chunks."""

    model_config = ConfigDict(strict=True, extra="allow")

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class _Request(FormFields, PromptCacheFields):
    """Fields shared by chat and text completions."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
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
    add_special_tokens: bool | None = None
    echo: bool | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def usage_in_chunks(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.continuous_usage_stats)

    def ignored(self) -> Iterator[str]:
        """Names of unknown fields, which have no effect."""
        options = ignored(self.stream_options.model_extra or {}) if self.stream_options else ()
        return chain(ignored(self.model_extra or {}), (f"stream_options.{name}" for name in options))

    def check(self) -> None:
        """Checks beyond types. Raises RequestError."""
        refuse(self.model_extra or {})
        if self.stream_options is not None:
            refuse_many(self.stream_options.model_extra or {}, "stream_options")
        if self.kvloom is not None:
            self.kvloom.check()
        self.check_prompt_cache()
        if self.stream_options is not None and not self.stream:
            raise RequestError("`stream_options` needs `stream` to be true", param="stream_options")
        if self.prompt_logprobs is not None and self.stream:
            raise RequestError("`prompt_logprobs` cannot be streamed", param="prompt_logprobs")

    def _params(self, defaults: SamplingDefaults, **more: Any) -> SamplingParams:
        given = {name: value for name in _SAMPLING if (value := getattr(self, name)) is not None}
        if given.get("top_k") == _KEEPS_ALL:
            given["top_k"] = 0
        asked = given | {"logit_bias": _biases(self.logit_bias or {})} | more
        return self.prewarmed(defaults.params(asked, otherwise={"max_tokens": None}))


class Message(BaseModel):
    """One turn. A refusal that a client sends back counts as the assistant's content."""

    model_config = ConfigDict(strict=True, extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str | list[Json], must_be("a string or a list of parts")] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[Json] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    cache_control: Json | None = None

    @field_validator("content")
    @classmethod
    def _texts_only(cls, content: str | list[Json] | None) -> str | list[Json] | None:
        for part in content if isinstance(content, list) else ():
            if part.get("type") not in ("text", "document"):
                said = {"kind": str(part.get("type"))[:40]}
                words = "a part of type `{kind}` is not supported, only `text` and `document`"
                raise PydanticCustomError("wrong_part", words, said)
            named = part["type"] == "document" and part.get("text") is None and part.get("id") is not None
            if not named and not isinstance(part.get("text"), str):
                words = "a part of type `{kind}` needs a string `text`"
                raise PydanticCustomError("wrong_part", words, {"kind": part["type"]})
        return content

    @model_validator(mode="after")
    def _has_content(self) -> Self:
        if self.content is None and self.role == "assistant":
            self.content = self.refusal
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise PydanticCustomError("no_content", "content is missing")
        return self

    @property
    def size(self) -> int:
        """Characters of text."""
        content = self.content or ""
        return len(content) if isinstance(content, str) else sum(len(part.get("text") or "") for part in content)

    @property
    def parts(self) -> list[Json]:
        """Of the content. ``cache_control`` of the message is the last one's."""
        parts = [{"type": "text", "text": self.content}] if isinstance(self.content, str) else self.content or []
        last = {} if self.cache_control is None else {"cache_control": self.cache_control}
        return [*parts[:-1], *(part | last for part in parts[-1:])]

    def for_template(self) -> Json:
        """The message as sent; the tokenizer converts it to what its template expects."""
        names = (name for name in type(self).model_fields if name not in ("refusal", "cache_control", "reasoning"))
        said = {name: getattr(self, name) for name in names}
        said["reasoning_content"] = self.reasoning if self.reasoning_content is None else self.reasoning_content
        return said if self.cache_control is None else said | {"content": self.parts}


class ChatRequest(_Request, ToolFields):
    """Body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    chat_template_kwargs: Json | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    reasoning_effort: Effort | None = None
    thinking_token_budget: Annotated[int, Field(ge=-1)] | None = None

    @property
    def reasoning_tokens(self) -> int | None:
        """At most so many; None: as many as the answer may have."""
        return None if self.thinking_token_budget == -1 else self.thinking_token_budget

    def check(self) -> None:
        super().check()
        for index, message in enumerate(self.messages):
            refuse_in_message(message.model_extra or {}, index)
        if self.top_logprobs and not self.logprobs:
            raise RequestError("`top_logprobs` needs `logprobs` to be true", param="top_logprobs")

    @property
    def size(self) -> int:
        """Characters of what becomes the prompt."""
        tools = sum(len(str(tool.function.parameters)) for tool in self.tools or ())
        return sum(message.size for message in self.messages) + tools

    def conversation(self) -> Conversation:
        """Raises RequestError."""
        form, continues = self.form(), bool(self.continue_final_message)
        begins = not continues if self.add_generation_prompt is None else self.add_generation_prompt
        return Conversation(
            [message.for_template() for message in self.messages],
            self.use(),
            None if form is None else form[1],
            begins,
            continues,
            self.chat_template_kwargs,
        )

    @property
    def has_breakpoints(self) -> bool:
        return any(is_breakpoint(part) for message in self.messages for part in message.parts)

    def breakpoints(self, turns: Sequence[Json]) -> tuple[Breakpoint, ...]:
        """Among the messages, as ``conversation`` has them. Raises RequestError for one that is none."""
        return breakpoints_in(turns, self.lifetime_s, self.most_breakpoints, "messages")

    def ignored(self) -> Iterator[str]:
        return chain(super().ignored(), ignored_in_messages(message.model_extra or {} for message in self.messages))

    def echoed(self) -> str:
        """Text that ``echo`` puts before the answer: the last message, if it is the assistant's."""
        last = self.messages[-1]
        said = last.content if self.echo and last.role == "assistant" else None
        return "\n".join(part["text"] for part in said) if isinstance(said, list) else said or ""

    def params(self, defaults: SamplingDefaults) -> SamplingParams:
        """Raises ParamsError. Without a limit, the model's or the caller's, the answer may fill the context."""
        limit = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        more: Json = {} if limit is None else {"max_tokens": some_tokens(limit)}
        return self._params(defaults, logprobs=(self.top_logprobs or 0) if self.logprobs else None, **more)


class CompletionRequest(_Request):
    """Body of ``POST /v1/completions``."""

    prompt: Prompts
    logprobs: int | None = None
    best_of: int | None = None

    def check(self) -> None:
        super().check()
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise RequestError("`best_of` other than `n` is not supported", param="best_of")

    def params(self, defaults: SamplingDefaults) -> SamplingParams:
        """Raises ParamsError. OpenAI's default length is 16 tokens; with 0, an echoed prompt and its scores are all."""
        more: Json = {
            "max_tokens": 16 if self.max_tokens is None else self.max_tokens,
            "logprobs": self.logprobs,
        }
        if self.echo and self.prompt_logprobs is None:
            more["prompt_logprobs"] = self.logprobs
        return self._params(defaults, **more)


def _biases(biases: dict[str, float]) -> dict[int, float]:
    if any(_TOKEN_ID.fullmatch(token) is None for token in biases):  # int() accepts " 1_0 " and digits of other scripts
        raise ParamsError("the keys of logit_bias must be token ids", param="logit_bias")
    return {int(token): bias for token, bias in biases.items()}
