"""Request bodies in Anthropic's format. Types are strict, and null means the default."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from kvloom.engine.cache_params import CacheParams
from kvloom.engine.defaults import SamplingDefaults
from kvloom.engine.params import SamplingParams
from kvloom.engine.structured import StructuredOutputsParams
from kvloom.errors import ParamsError, RequestError
from kvloom.policy.compression import Compression
from kvloom.policy.fusion import Fusion
from kvloom.server.dialect.anthropic.management import ContextManagement
from kvloom.server.dialect.extension import AsksOfCache, Extension, cache_params
from kvloom.server.dialect.field_table import Refused
from kvloom.server.dialect.fields import Json, Real
from kvloom.server.dialect.prompt_cache import LIFETIMES_S
from kvloom.server.dialect.reasoning import Effort
from kvloom.server.dialect.rules import FieldRules
from kvloom.server.dialect.tool_schema import object_schema
from kvloom.server.dialect.tools.fields import checked, chosen
from kvloom.server.pieces import Tool, ToolChoice, ToolUse


class _Fields(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class CacheControl(_Fields):
    """A breakpoint: what comes before it, and the block itself, is kept."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None

    @property
    def ttl_s(self) -> float:
        return LIFETIMES_S[self.ttl or "5m"]


class _Block(_Fields):
    cache_control: CacheControl | None = None


class TextBlock(_Block):
    type: Literal["text"]
    text: str


class TextSource(_Fields):
    """A document's text, as it is."""

    type: Literal["text"]
    media_type: Literal["text/plain"] | None = None
    data: str


class ContentSource(_Fields):
    """A document's text in blocks, which are put together."""

    type: Literal["content"]
    content: Annotated[
        Annotated[str, Tag("text")] | Annotated[list[TextBlock], Tag("blocks")], Discriminator(lambda v: _form(v))
    ]


class FileSource(_Fields):
    """A document that was sent before, by its id."""

    type: Literal["file"]
    file_id: str


Source = Annotated[
    Annotated[TextSource, Tag("text")] | Annotated[ContentSource, Tag("content")] | Annotated[FileSource, Tag("file")],
    Discriminator(
        lambda value: _type_of(value),
        custom_error_type="source",
        custom_error_message="a source of this type is not supported by this server: only text, content and file are",
    ),
]


class Citations(_Fields):
    enabled: Literal[False] | None = None


class DocumentBlock(_Block):
    """A passage that is tokenized by itself, so that its KV can be reused anywhere. ``id``, an extension: the text is
    kept under it, to be a ``file`` later.
    """

    type: Literal["document"]
    source: Source
    id: str | None = None
    title: str | None = None
    context: str | None = None
    citations: Citations | None = None

    @property
    def name(self) -> str | None:
        return self.source.file_id if isinstance(self.source, FileSource) else self.id

    @property
    def text(self) -> str | None:
        """None: it is kept under its name."""
        if isinstance(self.source, FileSource):
            return None
        if isinstance(self.source, TextSource):
            return self.source.data
        said = self.source.content
        return said if isinstance(said, str) else "\n".join(block.text for block in said)


class ToolUseBlock(_Block):
    """A call that the assistant made."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: Json


class ToolResultBlock(_Block):
    type: Literal["tool_result"]
    tool_use_id: str
    content: Annotated[
        Annotated[str, Tag("text")] | Annotated[list[TextBlock], Tag("blocks")], Discriminator(lambda v: _form(v))
    ] = ""
    is_error: bool | None = None


class ThinkingBlock(_Fields):
    """The model's own reasoning, sent back."""

    type: Literal["thinking"]
    thinking: str


class RedactedThinkingBlock(_Fields):
    """Nothing that a model here could read."""

    type: Literal["redacted_thinking"]


def _form(value: object) -> str:
    return "text" if isinstance(value, str) else "blocks"


def _type_of(value: object) -> object:
    return value.get("type") if isinstance(value, dict) else getattr(value, "type", None)


Block = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[DocumentBlock, Tag("document")]
    | Annotated[ToolUseBlock, Tag("tool_use")]
    | Annotated[ToolResultBlock, Tag("tool_result")]
    | Annotated[ThinkingBlock, Tag("thinking")]
    | Annotated[RedactedThinkingBlock, Tag("redacted_thinking")],
    Discriminator(
        _type_of,
        custom_error_type="block",
        custom_error_message="a block of this type is not supported by this server: only text, document, tool_use, "
        "tool_result and thinking are",
    ),
]
Blocks = Annotated[Annotated[str, Tag("text")] | Annotated[list[Block], Tag("blocks")], Discriminator(_form)]
Texts = Annotated[Annotated[str, Tag("text")] | Annotated[list[TextBlock], Tag("blocks")], Discriminator(_form)]


class Turn(_Fields):
    role: Literal["user", "assistant", "system"]
    content: Blocks


class Metadata(_Fields):
    user_id: Annotated[str, Field(min_length=1, max_length=512)] | None = None


class ToolField(_Block):
    """A tool of the client's own."""

    type: str | None = None
    name: str
    description: str | None = None
    input_schema: Json | None = None
    strict: bool | None = None


class ToolChoiceField(_Fields):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class OutputFormat(_Fields):
    type: Literal["json_schema"]
    schema_: Annotated[Json, Field(alias="schema")]


class OutputConfig(_Fields):
    format: OutputFormat | None = None


class Thinking(_Fields):
    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: Annotated[int, Field(ge=1)] | None = None

    @property
    def effort(self) -> Effort:
        return "none" if self.type == "disabled" else "high"

    @property
    def tokens(self) -> int | None:
        """At most so many; None: as many as the answer may have."""
        return self.budget_tokens if self.type == "enabled" else None


class CountRequest(_Fields):
    """Body of ``POST /v1/messages/count_tokens``, and what it shares with ``/v1/messages``."""

    model: str = Field(description="the served model's name")
    messages: Annotated[list[Turn], Field(min_length=1)] = Field(
        description="the conversation; the answer continues a last message of the assistant's"
    )
    system: Texts | None = Field(default=None, description="the system prompt")
    cache_control: CacheControl | None = Field(default=None, description="a breakpoint at the end of the prompt")
    tools: list[ToolField] | None = Field(default=None, description="tools of the client's own that may be called")
    tool_choice: ToolChoiceField | None = Field(
        default=None, description="`auto`, `any` (at least one call), `tool` (of the one named) or `none`"
    )
    output_config: OutputConfig | None = Field(
        default=None, description='`{"format": {"type": "json_schema", "schema": {...}}}`: the form of the answer'
    )

    thinking: Thinking | None = Field(
        default=None,
        description="`enabled`, `adaptive` or `disabled`, where the model's chat template has a switch for it; "
        "where reasoning is told apart, it is ended after `budget_tokens`",
    )
    context_management: ContextManagement | None = Field(
        default=None,
        description='`{"edits": [...]}`: what is cleared before the conversation becomes a prompt, by '
        "`clear_tool_uses_20250919` and `clear_thinking_20251015`",
    )

    @property
    def size(self) -> int:
        """Characters of text, roughly."""
        parts = [self.system, *(turn.content for turn in self.messages)]
        return sum(len(part) if isinstance(part, str) else sum(map(_size, part)) for part in parts if part)

    def check(self) -> None:
        """Checks beyond types. Raises RequestError."""
        RULES.check(self.model_extra or {})
        if self.context_management is not None:
            self.context_management.check()
        OUTPUT_RULES.check((self.output_config and self.output_config.model_extra) or {})

    def use(self) -> ToolUse:
        """Raises RequestError for tools that the server would have to run, and choices that there are not."""
        tools = [_tool(tool, n) for n, tool in enumerate(self.tools or ())]
        checked(tools)
        asked = self.tool_choice
        if asked is None:
            return chosen(tools, ToolChoice(), True)
        if asked.type == "tool" and asked.name is None:
            raise RequestError("a tool_choice of type `tool` needs a `name`", param="tool_choice")
        mode: Literal["none", "auto", "required"] = "required" if asked.type in ("any", "tool") else "auto"
        if asked.type == "none":
            mode = "none"
        name = asked.name if asked.type == "tool" else None
        return chosen(tools, ToolChoice(mode, name), not asked.disable_parallel_tool_use)

    def form(self) -> StructuredOutputsParams | None:
        """Raises ParamsError."""
        asked = self.output_config.format if self.output_config is not None else None
        return None if asked is None else StructuredOutputsParams(json=asked.schema_, lenient=True)

    def ignored(self) -> Iterator[str]:
        of_turns = (f"messages.{name}" for turn in self.messages for name in turn.model_extra or {})
        return chain(RULES.ignored(self.model_extra or {}), of_turns)


class MessagesRequest(CountRequest, AsksOfCache):
    """Body of ``POST /v1/messages``."""

    max_tokens: int = Field(description="maximum tokens of the answer; 0 only computes the prompt and keeps its KV")
    stream: bool | None = Field(default=None, description="stream the answer as server-sent events")
    stop_sequences: list[str] | None = Field(default=None, description="up to 64 strings that end the answer")
    temperature: Real | None = Field(default=None, description="0 is greedy, 1 the model's own distribution")
    top_p: Real | None = Field(default=None, description="sample from the most likely tokens that reach this share")
    top_k: int | None = Field(default=None, description="sample from this many of the most likely tokens")
    metadata: Metadata | None = Field(
        default=None, description="`user_id` names the session; see [Sessions](#sessions)"
    )
    cache_salt: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="KV is reused only between requests with the same salt"
    )
    kvloom: Extension | None = Field(default=None, description="as in chat completions")

    def check(self) -> None:
        super().check()
        if self.kvloom is not None:
            self.kvloom.check()

    @property
    def repair(self) -> Fusion | None:
        """How what comes after an edit of the context is reused, where that is asked for. Raises ParamsError."""
        asked = self.kvloom.cache.fusion if self.kvloom is not None and self.kvloom.cache is not None else None
        edits = self.context_management.edits if self.context_management is not None else None
        return asked.fusion() if asked is not None and edits else None

    def cache_params(self, default: Compression | None = None) -> CacheParams:
        """As of any body; but a fusion beside edits of the context is for what comes after these."""
        session = self.metadata.user_id if self.metadata is not None else None
        if self.repair is None or self.kvloom is None or self.kvloom.cache is None:
            return replace(super().cache_params(default), session=session)
        rest = self.kvloom.cache.model_copy(update={"fusion": None})
        return replace(cache_params(Extension(cache=rest), self.cache_salt), session=session)

    def params(self, defaults: SamplingDefaults) -> SamplingParams:
        """Raises ParamsError."""
        names = {"max_tokens": "max_tokens", "stop_sequences": "stop", "temperature": "temperature"}
        names |= {"top_p": "top_p", "top_k": "top_k"}
        given = {ours: value for name, ours in names.items() if (value := getattr(self, name)) is not None}
        try:
            return defaults.params(given)
        except ParamsError as error:
            error.param = "stop_sequences" if error.param == "stop" else error.param
            raise


def _tool(tool: ToolField, n: int) -> Tool:
    if tool.type not in (None, "custom"):
        raise RequestError(
            f"a tool of type `{tool.type[:40]}` is not supported by this server",
            hint="the server runs no tools: send `name`, `description` and `input_schema` of your own",
            param=f"tools.{n}.type",
        )
    schema = object_schema(tool.input_schema, f"tools.{n}.input_schema")
    return Tool(tool.name, tool.description, schema, bool(tool.strict))


def _size(block: BaseModel) -> int:
    said = (getattr(block, name, None) for name in ("text", "thinking", "content"))
    return sum(len(text) if isinstance(text, str) else sum(map(_size, text)) for text in said if text)


RULES = FieldRules(
    refused={
        "output_format": Refused(instead="use `output_config`"),
        "container": Refused(),
        "mcp_servers": Refused(([],)),
        "speed": Refused(("standard",)),
        "n": Refused((1,), "use `/v1/chat/completions`"),
        "max_completion_tokens": Refused(instead="use `max_tokens`"),
        "stop": Refused(([],), "use `stop_sequences`"),
        "max_tokens_to_sample": Refused(instead="use `max_tokens`"),
        "prompt": Refused(instead="this endpoint takes `messages`"),
    },
    hints={
        "service_tier": "there is only one tier",
        "inference_geo": "there is only this machine",
        "diagnostics": "usage says what was read from the cache",
        "user_profile_id": "identifies the end user",
        "betas": "belong to Anthropic's own models",
    },
)
"""Fields of these bodies without a model."""

OUTPUT_RULES = FieldRules(refused={"effort": Refused(), "task_budget": Refused()}, hints={})
