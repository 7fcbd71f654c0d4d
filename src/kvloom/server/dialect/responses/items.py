"""Items to the turns that chat templates read, and to what ``input_items`` lists."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence

from kvloom.server.dialect.breakpoints import FIELDS
from kvloom.server.dialect.fields import Json
from kvloom.server.dialect.responses.schemas import (
    CallItem,
    CallOutputItem,
    DocumentPart,
    MessageItem,
    TextPart,
)


def items_of(asked: str | Sequence[object]) -> list[Json]:
    """The input as documents with ids, as ``input_items`` lists them."""
    if isinstance(asked, str):
        asked = [MessageItem(role="user", content=asked)]
    return [document for item in asked if (document := _document(item)) is not None]


def turns_of(items: Iterable[Json]) -> list[Json]:
    """Messages in OpenAI's chat form. Calls belong to the assistant's turn before them."""
    turns: list[Json] = []
    for item in items:
        match item["type"]:
            case "message":
                turns.append({"role": item["role"], "content": [_chat_part(part) for part in item["content"]]})
            case "function_call":
                if not turns or turns[-1]["role"] != "assistant":
                    turns.append({"role": "assistant", "content": []})
                turns[-1].setdefault("tool_calls", []).append(_call(item))
            case "function_call_output":
                turns.append({"role": "tool", "tool_call_id": item["call_id"], "content": item["output"]})
    return turns


def _document(item: object) -> Json | None:
    match item:
        case MessageItem():
            said: Json = {"type": "message", "role": item.role, "content": _parts(item)}
            return {"id": _id("msg"), "status": "completed"} | said
        case CallItem():
            said = {"type": "function_call", "call_id": item.call_id, "name": item.name, "arguments": item.arguments}
            return {"id": _id("fc"), "status": "completed"} | said
        case CallOutputItem():
            output = "\n".join(_texts(item.output))
            said = {"type": "function_call_output", "call_id": item.call_id, "output": output}
            return {"id": _id("fco"), "status": "completed"} | said
        case _:
            return None


def _parts(item: MessageItem) -> list[Json]:
    kind = "output_text" if item.role == "assistant" else "input_text"
    if isinstance(item.content, str):
        return [{"type": kind, "text": item.content}]
    return [
        (
            part.model_dump(include=set(DocumentPart.model_fields), exclude_none=True)
            if isinstance(part, DocumentPart)
            else {"type": kind, "text": _text_of(part)}
        )
        | {name: said for name in FIELDS if (said := (part.model_extra or {}).get(name)) is not None}
        for part in item.content
    ]


def _texts(content: str | Sequence[object]) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [_text_of(part) for part in content]


def _text_of(part: object) -> str:
    return part.text if isinstance(part, TextPart) else str(getattr(part, "refusal", ""))


def _chat_part(part: Json) -> Json:
    if part["type"] == "document":
        return part
    return {"type": "text", "text": part["text"]} | {name: part[name] for name in FIELDS if name in part}


def _call(item: Json) -> Json:
    function = {"name": item["name"], "arguments": item["arguments"]}
    return {"id": item["call_id"], "type": "function", "function": function}


def _id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"
