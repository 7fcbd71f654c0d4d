"""Limits on what one request may ask for, checked before anything is tokenized."""

from __future__ import annotations

from kvloom.errors import RequestError
from kvloom.server.dialect.schemas import ChatRequest, CompletionRequest


def check_sequences(body: ChatRequest | CompletionRequest, limit: int) -> None:
    """Raises RequestError when prompts times ``n`` are more than ``limit``."""
    prompts, n = _prompts(body), body.n or 1
    if prompts * n > limit:
        raise RequestError(
            f"{prompts} prompts with n = {n} make {prompts * n} sequences, at most {limit} are allowed in one request",
            hint="send several requests, or raise --max-request-sequences",
            param="prompt" if prompts > 1 else "n",
        )


def _prompts(body: ChatRequest | CompletionRequest) -> int:
    if isinstance(body, ChatRequest) or isinstance(body.prompt, str):
        return 1
    return 1 if body.prompt and isinstance(body.prompt[0], int) else len(body.prompt)
