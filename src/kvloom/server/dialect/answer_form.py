"""The form of an answer, in OpenAI's words (``response_format``), in vLLM's and in those of its older versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from kvloom.engine.structured import StructuredOutputsParams
from kvloom.errors import ParamsError, RequestError
from kvloom.server.dialect.fields import Json

GUIDED: Mapping[str, str] = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}
"""vLLM's older fields, and what they are now."""


class JsonSchema(BaseModel):
    """``strict``: false passes over keywords of the schema that cannot be held to, which are refused otherwise."""

    model_config = ConfigDict(strict=True, extra="allow", populate_by_name=True, serialize_by_alias=True)

    name: str | None = None
    description: str | None = None
    schema_: Annotated[Json | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """OpenAI's ``response_format``."""

    model_config = ConfigDict(strict=True, extra="allow")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise PydanticCustomError("schema", "`json_schema` belongs to type `json_schema`, and only to that")
        return self

    def params(self) -> StructuredOutputsParams | None:
        """Raises ParamsError."""
        if self.type == "text":
            return None
        asked = self.json_schema
        if asked is None or asked.schema_ is None:
            return StructuredOutputsParams(json_object=True)
        return StructuredOutputsParams(json=asked.schema_, lenient=not asked.strict)


class StructuredOutputs(BaseModel):
    """vLLM's ``structured_outputs``: exactly one of the first five."""

    model_config = ConfigDict(strict=True, extra="allow", json_schema_extra={"additionalProperties": False})

    json_: Annotated[str | Json | None, Field(alias="json")] = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    disable_any_whitespace: bool | None = None
    whitespace_pattern: str | None = None

    def params(self) -> StructuredOutputsParams:
        """Raises RequestError for unknown names, ParamsError for the rest."""
        for name, value in (self.model_extra or {}).items():
            if value is not None:
                known = ", ".join(f"`{field.alias or own}`" for own, field in type(self).model_fields.items())
                raise RequestError(
                    f"`structured_outputs.{name}` is not supported by this server",
                    hint=f"`structured_outputs` has {known}",
                    param=f"structured_outputs.{name}",
                )
        said = self.model_dump(include=set(type(self).model_fields), exclude_none=True)
        if "json_" in said:
            said["json"] = said.pop("json_")
        return StructuredOutputsParams(**said)


class FormFields(BaseModel):
    """Fields of a body that say the form of its answer."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: str | Json | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None

    def form(self) -> tuple[str, StructuredOutputsParams] | None:
        """The field that says a form, and the form. Raises RequestError for two of them, ParamsError for a bad one."""
        said = list(self._said())
        if len(said) > 1:
            raise RequestError(
                f"`{said[0]}` and `{said[1]}` both say the form of the answer", hint="send one of them", param=said[1]
            )
        if not said:
            return None
        (name,) = said
        try:
            params = self._form_in(name)
        except ParamsError as error:
            error.param = name
            raise
        return name, params

    def _said(self) -> list[str]:
        names = ["response_format"] if self.response_format and self.response_format.type != "text" else []
        names += ["structured_outputs"] if self.structured_outputs is not None else []
        return names + [name for name in GUIDED if getattr(self, name) is not None]

    def _form_in(self, name: str) -> StructuredOutputsParams:
        if name in GUIDED:
            said: dict[str, Any] = {GUIDED[name]: getattr(self, name)}
            return StructuredOutputsParams(**said, whitespace_pattern=self.guided_whitespace_pattern)
        if self.structured_outputs is not None:
            return self.structured_outputs.params()
        params = self.response_format.params() if self.response_format is not None else None
        assert params is not None
        return params
