"""Log probabilities in the shapes of the two endpoints and of vLLM."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from kvloom.engine.outputs import Logprob, TokenLogprobs
from kvloom.server.dialect.fields import Json
from kvloom.server.dialect.places import Places

_FLOOR = -9999.0  # OpenAI's stand-in for minus infinity, which JSON cannot represent

Spelling = Callable[[int], bytes]
"""From a token to the bytes that it stands for."""

Scored = tuple[int, TokenLogprobs | None]
"""A token and its log probabilities; None where nothing precedes it."""


def chat_logprobs(tokens: Iterable[TokenLogprobs], top: int, bytes_of: Spelling) -> Json:
    """``choices[].logprobs`` of a chat completion, with the ``top`` most likely alternatives for each token."""
    return {"content": [_chat_entry(token, top, bytes_of) for token in tokens], "refusal": None}


def text_logprobs(tokens: Sequence[Scored], offsets: Sequence[int], top: int, bytes_of: Spelling) -> Json:
    """``choices[].logprobs`` of a text completion. ``offsets``: where each token begins in the text."""
    scores = [scores for _, scores in tokens]
    return {
        "tokens": [_shown(bytes_of(token)) for token, _ in tokens],
        "token_logprobs": [None if each is None else _finite(next(iter(each.values()))) for each in scores],
        "top_logprobs": [None if each is None else _by_text(each, bytes_of) for each in scores] if top else None,
        "text_offset": list(offsets),
    }


def prompt_logprobs(tokens: Sequence[TokenLogprobs | None]) -> list[Json | None]:
    """vLLM's ``prompt_logprobs``: by token id, null for the first token."""
    return [None if token is None else {str(key): _full(value) for key, value in token.items()} for token in tokens]


class ChoiceScores:
    """Scores of one choice's tokens, released once their offsets in the text are certain.

    They wait for text that is held back: a stop string may cut it off, and no token begins beyond the end.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self._waiting: deque[tuple[int, Scored]] = deque()
        self._released = 0

    def add_prompt(self, tokens: Iterable[Scored], places: Iterable[int]) -> None:
        """Add the scores of an echoed prompt; they come first."""
        self._waiting.extend(zip(places, tokens, strict=True))

    def add(self, tokens: Iterable[TokenLogprobs]) -> None:
        """Add the scores of answer tokens."""
        for scores in tokens:
            token = next(iter(scores))
            self._waiting.append((self._places.next(token), (token, scores)))

    def settled(self, text: str, over: bool) -> tuple[list[Scored], list[int]]:
        """Scores that are certain now that ``text`` has been sent, and the offsets of their tokens."""
        self._released += len(text)
        tokens, offsets = [], []
        while self._waiting and (over or self._waiting[0][0] <= self._released):
            place, scored = self._waiting.popleft()
            tokens.append(scored)
            offsets.append(min(place, self._released))
        return tokens, offsets


def _shown(data: bytes) -> str:
    """A token's text, or its bytes in OpenAI's notation if it is not made of whole characters."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _finite(value: Logprob) -> float:
    return max(value.logprob, _FLOOR)


def _chat_entry(scores: TokenLogprobs, top: int, bytes_of: Spelling) -> Json:
    ranked = sorted(scores.items(), key=_rank)
    alternatives = [_chat_token(token, value, bytes_of) for token, value in ranked if value.rank <= top]
    return _chat_token(*next(iter(scores.items())), bytes_of) | {"top_logprobs": alternatives}


def _chat_token(token: int, value: Logprob, bytes_of: Spelling) -> Json:
    data = bytes_of(token)
    return {"token": _shown(data), "logprob": _finite(value), "bytes": list(data)}


def _by_text(scores: TokenLogprobs, bytes_of: Spelling) -> dict[str, float]:
    """If two ids have the same text, the more likely one is kept."""
    by_text: dict[str, float] = {}
    for token, value in sorted(scores.items(), key=_rank):
        by_text.setdefault(_shown(bytes_of(token)), _finite(value))
    return by_text


def _rank(item: tuple[int, Logprob]) -> int:
    return item[1].rank


def _full(value: Logprob) -> Json:
    return {"logprob": _finite(value), "rank": value.rank, "decoded_token": value.decoded_token}
