"""The request body of the embeddings endpoint. Types are strict, and null means the default."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from kvloom.errors import RequestError
from kvloom.server.dialect.field_table import Refused
from kvloom.server.dialect.fields import Prompts
from kvloom.server.dialect.rules import FieldRules

MAX_INPUTS = 2048


class EmbeddingsRequest(BaseModel):
    """Body of ``POST /v1/embeddings``."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str = Field(description="the served model's name")
    input: Prompts = Field(description=f"a string or a list of token ids, or up to {MAX_INPUTS:,} of either")
    encoding_format: Literal["float", "base64"] | None = Field(
        default=None, description="`float`, or `base64` of little-endian float32; `float` by default"
    )
    dimensions: int | None = Field(default=None, description="must equal the width of the model")

    @property
    def inputs(self) -> int:
        if isinstance(self.input, str) or (self.input and isinstance(self.input[0], int)):
            return 1
        return len(self.input)

    def check(self) -> None:
        """Checks beyond types. Raises RequestError."""
        RULES.check(self.model_extra or {})
        if self.inputs > MAX_INPUTS:
            raise RequestError(f"{self.inputs:,} inputs, at most {MAX_INPUTS:,} are allowed", param="input")

    def ignored(self) -> Iterator[str]:
        return RULES.ignored(self.model_extra or {})


RULES = FieldRules(
    refused={
        "truncate_prompt_tokens": Refused(instead="texts are never truncated"),
        "prompt": Refused(instead="use `input`"),
        "messages": Refused(instead="use `input`"),
        "embedding_types": Refused(instead="use `encoding_format`"),
        "normalize": Refused((True,), "embeddings have length 1"),
        "use_activation": Refused((True,), "embeddings have length 1"),
    },
    hints={"user": "identifies the end user", "input_type": "texts of all kinds are treated alike"},
)
"""Fields of the body without a model."""
