"""Log probabilities in the shapes of the two endpoints and of vLLM."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kvloom.engine.outputs import Logprob, TokenLogprobs
from kvloom.server.fields import Json

_FLOOR = -9999.0  # OpenAI's stand-in for minus infinity, which JSON cannot say


def chat_logprobs(tokens: Iterable[TokenLogprobs], top: int) -> Json:
    """``choices[].logprobs`` of a chat completion, with the ``top`` likeliest beside each token."""
    return {"content": [_chat_entry(token, top) for token in tokens], "refusal": None}


def text_logprobs(tokens: Sequence[TokenLogprobs | None], texts: Sequence[str], top: int, offset: int) -> Json:
    """``choices[].logprobs`` of a text completion.

    An entry of ``tokens`` is None where nothing precedes the token; ``texts`` gives every token's own text.
    ``offset``: characters of the answer before the first token.
    """
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": list(texts),
        "token_logprobs": [None if token is None else _finite(_chosen(token)) for token in tokens],
        "top_logprobs": [None if token is None else _by_text(token) for token in tokens] if top else None,
        "text_offset": offsets,
    }


def prompt_logprobs(tokens: Sequence[TokenLogprobs | None]) -> list[Json | None]:
    """vLLM's ``prompt_logprobs``: by token id, null for the first token."""
    return [None if token is None else {str(key): _full(value) for key, value in token.items()} for token in tokens]


def _chosen(token: TokenLogprobs) -> Logprob:
    return next(iter(token.values()))


def _finite(value: Logprob) -> float:
    return max(value.logprob, _FLOOR)


def _chat_entry(token: TokenLogprobs, top: int) -> Json:
    likeliest = sorted((value for value in token.values() if value.rank <= top), key=lambda value: value.rank)
    return _chat_token(_chosen(token)) | {"top_logprobs": [_chat_token(value) for value in likeliest]}


def _chat_token(value: Logprob) -> Json:
    text = value.decoded_token
    return {"token": text, "logprob": _finite(value), "bytes": list(text.encode())}


def _by_text(token: TokenLogprobs) -> dict[str, float]:
    """Two ids may share a text: the likelier one is told."""
    told: dict[str, float] = {}
    for value in sorted(token.values(), key=lambda value: value.rank):
        told.setdefault(value.decoded_token, _finite(value))
    return told


def _full(value: Logprob) -> Json:
    return {"logprob": _finite(value), "rank": value.rank, "decoded_token": value.decoded_token}
