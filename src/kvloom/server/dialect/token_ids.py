"""vLLM's ``return_tokens_as_token_ids``: tokens in log probabilities are written ``token_id:123``.

Texts are ambiguous: two ids may have the same text, and all partial characters look alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from kvloom.engine.outputs import TokenLogprobs
from kvloom.server.dialect.fields import Json


def named_chat_logprobs(scores: Json, tokens: Sequence[TokenLogprobs]) -> Json:
    """Rename the tokens in ``scores`` of a chat completion, which belong to ``tokens``."""
    for entry, token in zip(scores["content"], tokens, strict=True):
        entry["token"] = _name(next(iter(token)))
        for other, token_id in zip(entry["top_logprobs"], _by_rank(token), strict=False):
            other["token"] = _name(token_id)
    return scores


def token_id_bytes(token_id: int) -> bytes:
    """A token's name in the scores of a text completion."""
    return _name(token_id).encode()


def _by_rank(token: TokenLogprobs) -> list[int]:
    return sorted(token, key=lambda token_id: token[token_id].rank)


def _name(token_id: int) -> str:
    return f"token_id:{token_id}"
