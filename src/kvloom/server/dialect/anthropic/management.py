"""The field ``context_management``: what is cleared of a conversation before it becomes a prompt."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from kvloom.errors import RequestError

_FIELD = "context_management"


class _Fields(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class InputTokens(_Fields):
    type: Literal["input_tokens"]
    value: Annotated[int, Field(ge=0)]


class ToolUses(_Fields):
    type: Literal["tool_uses"]
    value: Annotated[int, Field(ge=0)]


class ThinkingTurns(_Fields):
    type: Literal["thinking_turns"]
    value: Annotated[int, Field(ge=1)]


class AllTurns(_Fields):
    type: Literal["all"]


def _type_of(value: object) -> object:
    return value.get("type") if isinstance(value, dict) else getattr(value, "type", value)


Trigger = Annotated[
    Annotated[InputTokens, Tag("input_tokens")] | Annotated[ToolUses, Tag("tool_uses")], Discriminator(_type_of)
]


class ClearToolUses(_Fields):
    """Results of tools, the oldest first, make room for a placeholder. Defaults are Anthropic's."""

    type: Literal["clear_tool_uses_20250919"]
    trigger: Trigger | None = None
    keep: ToolUses | None = None
    clear_at_least: InputTokens | None = None
    exclude_tools: list[str] | None = None
    clear_tool_inputs: bool | list[str] | None = None

    def triggered(self, input_tokens: int, tool_uses: int) -> bool:
        """Whether the conversation has more than what it is to begin at."""
        asked = self.trigger or InputTokens(type="input_tokens", value=100_000)
        return (input_tokens if isinstance(asked, InputTokens) else tool_uses) > asked.value

    @property
    def kept(self) -> int:
        return 3 if self.keep is None else self.keep.value

    def clears_input_of(self, name: str) -> bool:
        asked = self.clear_tool_inputs
        return name in asked if isinstance(asked, list) else bool(asked)

    @property
    def least_tokens(self) -> int:
        """If fewer would be cleared, nothing is."""
        return 1 if self.clear_at_least is None else max(1, self.clear_at_least.value)


Keep = Annotated[
    Annotated[ThinkingTurns, Tag("thinking_turns")]
    | Annotated[AllTurns, Tag("all")]
    | Annotated[Literal["all"], Tag("word")],
    Discriminator(lambda value: "word" if isinstance(value, str) else _type_of(value)),
]


class ClearThinking(_Fields):
    """Thinking of all but the last turns of the assistant's that have some."""

    type: Literal["clear_thinking_20251015"]
    keep: Keep | None = None

    @property
    def kept(self) -> int | None:
        """Turns; None: all."""
        if self.keep is None:
            return 1
        return self.keep.value if isinstance(self.keep, ThinkingTurns) else None


ContextEdit = Annotated[
    Annotated[ClearToolUses, Tag("clear_tool_uses_20250919")]
    | Annotated[ClearThinking, Tag("clear_thinking_20251015")],
    Discriminator(
        _type_of,
        custom_error_type="edit",
        custom_error_message="an edit of this type is not supported by this server: only clear_tool_uses_20250919 and "
        "clear_thinking_20251015 are",
    ),
]


class ContextManagement(_Fields):
    edits: list[ContextEdit] | None = None

    def check(self) -> None:
        """Raises RequestError for what is unknown, and for edits in an order that there is not."""
        self._only_known(self, _FIELD)
        for number, edit in enumerate(self.edits or ()):
            self._only_known(edit, f"{_FIELD}.edits.{number}")
        types = [edit.type for edit in self.edits or ()]
        if len(set(types)) < len(types):
            raise RequestError("an edit of one type is there twice", param=f"{_FIELD}.edits")
        if "clear_thinking_20251015" in types[1:]:
            raise RequestError(
                "clear_thinking_20251015 comes after another edit", hint="it is the first", param=f"{_FIELD}.edits"
            )

    def _only_known(self, fields: BaseModel, place: str) -> None:
        for name in fields.model_extra or {}:
            known = ", ".join(f"`{one}`" for one in type(fields).model_fields)
            raise RequestError(f"`{place}.{name}` is unknown", hint=f"there is {known}", param=f"{place}.{name}")
