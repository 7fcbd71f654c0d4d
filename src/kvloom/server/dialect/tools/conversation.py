"""A conversation, whatever dialect it came in: its prompt, the form of its answer, and who reads that."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kvloom.engine.structured import StructuredOutputsParams
from kvloom.errors import RequestError
from kvloom.model.text.documents import Documents, Placeholders
from kvloom.model.text.messages import normal_messages
from kvloom.server.dialect.tools.fallback import in_words
from kvloom.server.dialect.tools.forms import ToolForm
from kvloom.server.engine_protocol import Tokenizer
from kvloom.server.pieces import PieceReader, PlainReader, ToolUse


@dataclass(frozen=True, slots=True)
class Conversation:
    """``turns``: messages in OpenAI's form, in which parts may be documents. ``form``: what the dialect asks of the
    answer's text. ``placeholders``: for documents, in this conversation and its beginnings.
    """

    turns: Sequence[dict[str, Any]]
    use: ToolUse = field(default_factory=ToolUse)
    form: StructuredOutputsParams | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    variables: Mapping[str, Any] | None = None
    placeholders: Placeholders = field(default_factory=Placeholders.new)

    @property
    def documents(self) -> Documents:
        """Raises RequestError."""
        return Documents.of(self.turns, self.placeholders)

    @property
    def needs_tool_form(self) -> bool:
        """Whether there is anything about tools in it."""
        return bool(self.use.callable) or any(turn["role"] == "tool" or turn.get("tool_calls") for turn in self.turns)


def prompt_of(conversation: Conversation, tokenizer: Tokenizer, form: ToolForm | None) -> str:
    """The text to continue, with a placeholder for each document. ``form``: None for a conversation without tools.

    Raises RequestError or ModelError.
    """
    turns = conversation.documents.hidden(conversation.turns)
    tools = conversation.use.tools if conversation.use.callable else ()
    if form is not None and not form.native:
        normal_messages(turns, "")  # calls that are none are refused here, too
        turns, tools = in_words(turns, tools), ()
    return tokenizer.chat_prompt(
        turns,
        conversation.add_generation_prompt,
        None if conversation.variables is None else dict(conversation.variables),
        [tool.for_template() for tool in tools] or None,
        conversation.continue_final_message,
    )


def form_of(conversation: Conversation, form: ToolForm | None) -> StructuredOutputsParams | None:
    """What the answer is held to: calls where they are required, else the dialect's form, or calls in its place.

    Raises RequestError when both cannot be had.
    """
    use, asked = conversation.use, conversation.form
    if form is None or not use.callable:
        return asked
    if use.choice.mode == "required":
        if asked is not None:
            raise RequestError(
                "an answer that has to be a tool call cannot have another form as well",
                hint='use `tool_choice: "auto"`, or leave out the form',
                param="tool_choice",
            )
        return StructuredOutputsParams(grammar=form.grammar(use.callable, use.parallel))
    return None if asked is None else _either(form.grammar(use.callable, use.parallel), asked)


def reader_of(conversation: Conversation, form: ToolForm | None) -> Callable[[], PieceReader]:
    """Makes a reader for each choice."""
    tools = conversation.use.callable
    if form is None or not tools:
        return PlainReader
    return lambda: form.reader(tools)


def _either(calls: str, asked: StructuredOutputsParams) -> StructuredOutputsParams:
    """Calls, or an answer of the form that was asked for."""
    match asked.kind:
        case "json":
            options = {"lenient": asked.lenient, **_white_space(asked)}
            answer = f"%json {json.dumps({**json.loads(asked.source), 'x-guidance': options}, ensure_ascii=False)}"
        case "choice":
            answer = " | ".join(json.dumps(text, ensure_ascii=False) for text in json.loads(asked.source))
        case _:
            raise RequestError(
                f"an answer cannot be either a tool call or a `{asked.kind}`",
                hint='a JSON schema and a choice can be had beside tools; or use `tool_choice: "none"`',
                param="tool_choice",
            )
    return StructuredOutputsParams(grammar=calls.replace("start: ", "start: answer | ", 1) + f"\nanswer: {answer}")


def _white_space(asked: StructuredOutputsParams) -> dict[str, Any]:
    if asked.disable_any_whitespace:
        return {"whitespace_flexible": False}
    return {"whitespace_pattern": asked.whitespace_pattern or r"[\x20\x0A\x0D\x09]{1,32}"}
