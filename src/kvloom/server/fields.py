"""Kinds of field that both endpoints share, each with a message that a caller can act on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

Json = dict[str, Any]

MAX_PROMPTS = 1024


def must_be(words: str) -> WrapValidator:
    """Replace the one-error-per-alternative report of a union by one sentence."""

    def check(value: object, handler: ValidatorFunctionWrapHandler) -> object:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("wrong_type", "must be {words}", {"words": words}) from None

    return WrapValidator(check)


Real = Annotated[float, Field(allow_inf_nan=False)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Stop = Annotated[str | list[str], must_be("a string or a list of strings")]
Item = TypeVar("Item")
_List = Annotated[list[Item], Field(fail_fast=True)]
"""One fault is enough: what is no list of texts is tried as a list of tokens next."""
Prompts = Annotated[
    str | _List[str] | _List[TokenId] | _List[_List[TokenId]],
    must_be("a string, a list of strings, a list of token ids or a list of lists of token ids"),
]


def _only(*harmless: object) -> Callable[[Any, Json], bool]:
    return lambda value, _: value in harmless


def _tools(value: Any, body: Json) -> bool:
    return not value or body.get("tool_choice") == "none"


_HARMLESS: dict[str, Callable[[Any, Json], bool]] = {
    "add_generation_prompt": _only(None, True),
    "allowed_token_ids": _only(None),
    "audio": _only(None),
    "bad_words": _only(None, []),
    "chat_template": _only(None),
    "continue_final_message": _only(None, False),
    "detokenize": _only(None, True),
    "documents": _only(None, []),
    "function_call": _only(None, "none"),
    "functions": _only(None, []),
    "guided_choice": _only(None),
    "guided_grammar": _only(None),
    "guided_json": _only(None),
    "guided_regex": _only(None),
    "logits_processors": _only(None, []),
    "min_tokens": _only(None, 0),
    "modalities": _only(None, ["text"]),
    "prompt_embeds": _only(None),
    "response_format": _only(None, {"type": "text"}),
    "structured_outputs": _only(None),
    "suffix": _only(None, ""),
    "tools": _tools,
    "truncate_prompt_tokens": _only(None),
    "use_beam_search": _only(None, False),
    "web_search_options": _only(None),
}


def unsupported(extra: Json) -> str | None:
    """Find the first field that we do not serve and that would change the answer, had we served it."""
    for name, value in extra.items():
        harmless = _HARMLESS.get(name)
        if harmless is not None and not harmless(value, extra):
            return name
    return None
