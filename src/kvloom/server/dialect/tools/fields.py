"""Tools in the words of OpenAI's chat completions."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from kvloom.errors import RequestError
from kvloom.server.dialect.fields import Json, must_be
from kvloom.server.pieces import NO_ARGUMENTS, Tool, ToolChoice, ToolUse

MAX_TOOLS = 128
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Function(BaseModel):
    """``parameters``: a JSON schema; left out, the function takes no arguments."""

    model_config = ConfigDict(strict=True, extra="allow")

    name: str
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None


class FunctionTool(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    type: Literal["function"]
    function: Function


class FunctionName(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    name: str


class NamedTool(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    type: Literal["function"]
    function: FunctionName


class ToolFields(BaseModel):
    """Fields of a body that are about tools."""

    tools: list[FunctionTool] | None = None
    tool_choice: (
        Annotated[
            Literal["none", "auto", "required"] | NamedTool,
            must_be('`none`, `auto`, `required` or {"type": "function", "function": {"name": ...}}'),
        ]
        | None
    ) = None
    parallel_tool_calls: bool | None = Field(None)

    def use(self) -> ToolUse:
        """Raises RequestError for names that no model can tell apart, and for choices that there are not."""
        tools = [_tool(each.function, n) for n, each in enumerate(self.tools or ())]
        checked(tools)
        choice = self.tool_choice or "auto"
        if isinstance(choice, NamedTool):
            return chosen(tools, ToolChoice("required", choice.function.name), self.parallel_tool_calls is not False)
        return chosen(tools, ToolChoice(choice), self.parallel_tool_calls is not False)


def checked(tools: list[Tool]) -> None:
    """Raises RequestError for too many, and for two of one name."""
    if len(tools) > MAX_TOOLS:
        raise RequestError(f"there are {len(tools)} tools, at most {MAX_TOOLS} are allowed", param="tools")
    names = [tool.name for tool in tools]
    for n, name in enumerate(names):
        if _NAME.fullmatch(name) is None:
            raise RequestError(
                f"`{name[:80]}` is not a name for a tool",
                hint="up to 64 letters, digits, `_`, `.` and `-`",
                param=f"tools.{n}",
            )
        if name in names[:n]:
            raise RequestError(f"two tools are called `{name}`", param=f"tools.{n}")


def chosen(tools: list[Tool], choice: ToolChoice, parallel: bool) -> ToolUse:
    """A tool that is named is called once, whatever ``parallel``: clients read the one call of it.

    Raises RequestError when what is required is not among ``tools``.
    """
    if choice.mode == "required" and not tools:
        raise RequestError("a tool call is required, and there are no tools", param="tool_choice")
    if choice.name is not None and all(tool.name != choice.name for tool in tools):
        raise RequestError(f"`tool_choice` names `{choice.name[:80]}`, which is not in `tools`", param="tool_choice")
    return ToolUse(tools, choice, parallel and choice.name is None)


def _tool(function: Function, n: int) -> Tool:
    schema = function.parameters or NO_ARGUMENTS
    if schema.get("type", "object") != "object":
        raise RequestError(
            f"the parameters of tool `{function.name[:80]}` are no object's schema",
            param=f"tools.{n}.function.parameters",
        )
    return Tool(function.name, function.description, schema, bool(function.strict))
