"""Field types shared by both endpoints, with error messages that a caller can act on."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

from kvloom.server.dialect.field_table import Json

__all__ = ["Json", "Prompts", "Real", "Stop", "TokenId", "must_be"]


def must_be(words: str) -> WrapValidator:
    """Replace a union's report, one error per alternative, with one sentence."""

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
"""Stop at the first error: if it is not a list of strings, a list of tokens is tried next."""
Prompts = Annotated[
    str | _List[str] | _List[TokenId] | _List[_List[TokenId]],
    must_be("a string, a list of strings, a list of token ids or a list of lists of token ids"),
]
