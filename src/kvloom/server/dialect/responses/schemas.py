"""Request bodies of the Responses API. Types are strict, and null means the default."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from kvloom.engine.defaults import SamplingDefaults
from kvloom.engine.params import SamplingParams, some_tokens
from kvloom.engine.structured import StructuredOutputsParams
from kvloom.errors import ParamsError, RequestError
from kvloom.server.dialect.breakpoints import is_breakpoint
from kvloom.server.dialect.field_table import Refused
from kvloom.server.dialect.fields import Json, Real, must_be
from kvloom.server.dialect.prompt_cache import PromptCacheFields
from kvloom.server.dialect.reasoning import Effort
from kvloom.server.dialect.rules import FieldRules
from kvloom.server.dialect.tool_schema import object_schema
from kvloom.server.dialect.tools.fields import checked, chosen
from kvloom.server.pieces import Tool, ToolChoice, ToolUse


class _Fields(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class TextPart(_Fields):
    """Text of a message."""

    type: Literal["input_text", "output_text", "text"]
    text: str


class RefusalPart(_Fields):
    type: Literal["refusal"]
    refusal: str


class DocumentPart(_Fields):
    """A passage that is tokenized by itself, so that its KV can be reused anywhere. An extension. ``id``: under which
    the text is kept, or was, if there is none here.
    """

    type: Literal["document"]
    id: str | None = None
    text: str | None = None
    title: str | None = None
    context: str | None = None


def _form(value: object) -> str:
    return "text" if isinstance(value, str) else "parts"


def _kind(value: object, default: str = "") -> object:
    if isinstance(value, dict):
        return value.get("type", default)
    return getattr(value, "type", default)


def _part(value: object) -> object:
    kind = _kind(value)
    return "text" if kind in ("input_text", "output_text", "text") else kind


Part = Annotated[
    Annotated[TextPart, Tag("text")]
    | Annotated[RefusalPart, Tag("refusal")]
    | Annotated[DocumentPart, Tag("document")],
    Discriminator(
        _part,
        custom_error_type="part",
        custom_error_message="a part of this type is not supported by this server: only input_text, output_text, "
        "refusal and document are",
    ),
]
Parts = Annotated[Annotated[str, Tag("text")] | Annotated[list[Part], Tag("parts")], Discriminator(_form)]


class MessageItem(_Fields):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Parts


class CallItem(_Fields):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class CallOutputItem(_Fields):
    type: Literal["function_call_output"]
    call_id: str
    output: Parts


class ReasoningItem(_Fields):
    """Not given to the model again."""

    type: Literal["reasoning"]


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[CallOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(
        lambda value: _kind(value, "message"),
        custom_error_type="item",
        custom_error_message="an item of this type is not supported by this server: only message, function_call, "
        "function_call_output and reasoning are",
    ),
]
Items = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[Item], Tag("items"), Field(min_length=1)],
    Discriminator(lambda value: "text" if isinstance(value, str) else "items"),
]


class ToolField(_Fields):
    """A function that the model may call."""

    type: str
    name: str = ""
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None


class NamedTool(_Fields):
    type: Literal["function"]
    name: str


class TextFormat(_Fields):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: Annotated[Json | None, Field(alias="schema")] = None
    strict: bool | None = None


class TextConfig(_Fields):
    format: TextFormat | None = None


class ReasoningField(_Fields):
    effort: Effort | None = None


class InputRequest(_Fields):
    """Body of ``POST /v1/responses/input_tokens``, and what it shares with ``/v1/responses``."""

    model: str = Field(description="the served model's name")
    input: Items = Field(description="a text of the user's, or items: messages, calls and their outputs")
    instructions: str | None = Field(default=None, description="the system prompt of this response alone")
    previous_response_id: str | None = Field(default=None, description="the stored response that this one continues")
    tools: list[ToolField] | None = Field(default=None, description="functions that may be called")
    tool_choice: (
        Annotated[
            Literal["none", "auto", "required"] | NamedTool,
            must_be('`none`, `auto`, `required` or {"type": "function", "name": ...}'),
        ]
        | None
    ) = Field(default=None, description="whether functions are called: `none`, `auto`, `required`, or one by its name")
    parallel_tool_calls: bool | None = Field(default=None, description="false: at most one call")
    text: TextConfig | None = Field(
        default=None, description='`{"format": {"type": "json_schema", "schema": {...}}}` or `json_object`: the form'
    )

    reasoning: ReasoningField | None = Field(
        default=None, description="`effort`: how much the model reasons, where its chat template has a switch for it"
    )

    def check(self) -> None:
        """Checks beyond types. Raises RequestError."""
        REASONING_RULES.check((self.reasoning and self.reasoning.model_extra) or {})
        RULES.check(self.model_extra or {})
        TEXT_RULES.check((self.text and self.text.model_extra) or {})

    def use(self) -> ToolUse:
        """Raises RequestError for tools that the server would have to run, and choices that there are not."""
        tools = [_tool(tool, n) for n, tool in enumerate(self.tools or ())]
        checked(tools)
        asked, parallel = self.tool_choice or "auto", self.parallel_tool_calls is not False
        choice = ToolChoice("required", asked.name) if isinstance(asked, NamedTool) else ToolChoice(asked)
        return chosen(tools, choice, parallel)

    def form(self) -> StructuredOutputsParams | None:
        """Raises ParamsError."""
        asked = self.text.format if self.text is not None else None
        if asked is None or asked.type == "text":
            return None
        if asked.type == "json_object":
            return StructuredOutputsParams(json_object=True)
        if asked.schema_ is None:
            raise ParamsError("a format of type `json_schema` needs a `schema`", param="text")
        return StructuredOutputsParams(json=asked.schema_, lenient=not asked.strict)

    def ignored(self) -> Iterator[str]:
        return RULES.ignored(self.model_extra or {})


class ResponsesRequest(InputRequest, PromptCacheFields):
    """Body of ``POST /v1/responses``."""

    stream: bool | None = Field(default=None, description="stream the response as server-sent events")
    store: bool | None = Field(default=None, description="keep the response for a while; true by default")
    max_output_tokens: int | None = Field(
        default=None, description="maximum tokens of the answer, which may fill the context otherwise"
    )
    temperature: Real | None = Field(default=None, description="0 is greedy, 1 the model's own distribution")
    top_p: Real | None = Field(default=None, description="sample from the most likely tokens that reach this share")
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = Field(
        default=None, description="up to 16 texts by name, returned as they came"
    )

    def check(self) -> None:
        super().check()
        if self.kvloom is not None:
            self.kvloom.check()
        self.check_prompt_cache()

    @property
    def has_breakpoints(self) -> bool:
        items = self.input if isinstance(self.input, list) else []
        contents = (item.content for item in items if isinstance(item, MessageItem))
        parts = (part for content in contents if isinstance(content, list) for part in content)
        return any(is_breakpoint(part.model_extra) for part in parts)

    def params(self, defaults: SamplingDefaults) -> SamplingParams:
        """Raises ParamsError."""
        names = ("temperature", "top_p")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        try:
            limit = None if self.max_output_tokens is None else some_tokens(self.max_output_tokens)
        except ParamsError as error:
            error.param = "max_output_tokens"
            raise
        said = given | ({} if limit is None else {"max_tokens": limit})
        return self.prewarmed(defaults.params(said, otherwise={"max_tokens": None}))


def _tool(tool: ToolField, n: int) -> Tool:
    if tool.type != "function":
        raise RequestError(
            f"a tool of type `{tool.type[:40]}` is not supported by this server",
            hint="the server runs no tools: send functions of your own",
            param=f"tools.{n}.type",
        )
    return Tool(tool.name, tool.description, object_schema(tool.parameters, f"tools.{n}.parameters"), bool(tool.strict))


RULES = FieldRules(
    refused={
        "truncation": Refused(("disabled",)),
        "background": Refused((False,)),
        "include": Refused(([], ["reasoning.encrypted_content"])),
        "top_logprobs": Refused((0,), "use `/v1/chat/completions`"),
        "conversation": Refused(instead="use `previous_response_id`"),
        "context_management": Refused(([],)),
        "prompt": Refused(instead="use `input`"),
        "moderation": Refused(),
        "messages": Refused(instead="this endpoint takes `input`"),
        "max_tokens": Refused(instead="use `max_output_tokens`"),
        "max_completion_tokens": Refused(instead="use `max_output_tokens`"),
        "n": Refused((1,), "use `/v1/chat/completions`"),
        "stop": Refused(([],), "use `/v1/chat/completions`"),
    },
    hints={
        "user": "identifies the end user",
        "safety_identifier": "identifies the end user",
        "service_tier": "there is only one tier",
        "max_tool_calls": "no tools are run by the server",
        "stream_options": "nothing is added to hide the lengths of chunks",
    },
)
"""Fields of these bodies without a model."""

REASONING_RULES = FieldRules(
    refused={
        "summary": Refused(instead="reasoning is returned as it is"),
        "generate_summary": Refused(instead="reasoning is returned as it is"),
    },
    hints={},
)
TEXT_RULES = FieldRules(refused={"verbosity": Refused(("medium",), "state it in `instructions`")}, hints={})
