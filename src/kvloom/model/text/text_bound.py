"""Detects that a text has too many tokens, from its length or a first part of it."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

import tokenizers

from kvloom.errors import PromptTooLong, context_overflow

_NFC_SHRINKS = 4
"""No text gets shorter by more than this when it is composed: Hangul go from 9 bytes to 3, a Greek iota with two marks
from 7 to 2."""

_CHARS_PER_TOKEN = 5
"""Most texts have fewer, so the first part that is tokenized decides about what is too long."""

_EDGE = 256
"""Tokens at the end of a part that may differ when the text continues."""


def encode(backend: tokenizers.Tokenizer, text: str, add_special_tokens: bool) -> tokenizers.Encoding:
    """Without the interpreter lock, which the library's ``encode`` holds, and without offsets, which are not used."""
    return backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0]


class TextBound:
    """Bounds on a text's tokens before all of it is tokenized."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend

    def check(self, text: str, num_bytes: int, max_tokens: int) -> None:
        """Raise PromptTooLong if ``text`` certainly has more than ``max_tokens`` tokens, reading as little as possible.

        Tokens may merge differently when a text continues, so a first part proves it only when it has more than twice
        the allowed tokens: what fits is never refused. What passes has at most about that many.
        """
        enough = 2 * max_tokens + _EDGE + self._longest_added
        size = _CHARS_PER_TOKEN * enough
        if size >= len(text):
            return
        limit = self.bytes_per_token
        if limit is not None and num_bytes > max_tokens * limit:
            raise _too_long(max_tokens, f"{num_bytes:,} bytes, and no token stands for more than {limit}")
        while size < len(text):
            part = text[:size].rstrip() if self._swallows else text[:size]  # white space may belong to what follows
            count = len(encode(self._backend, part, add_special_tokens=False))
            if count > enough:
                raise _too_long(max_tokens, f"{count:,} tokens in the first {size:,} of {len(text):,} characters")
            size *= 2

    @cached_property
    def bytes_per_token(self) -> int | None:
        """The most bytes of a text that one token can represent. None: this tokenizer has no bound.

        There is a bound where every character ends up in a token: byte-level BPE, or BPE with a token for every byte,
        with no earlier step that removes characters.
        """
        shrinks, before = self._shrinks, _steps(self._backend.pre_tokenizer, "pretokenizers")
        if shrinks is None or self._swallows:
            return None
        if not all(map(_keeps_all, before)) or not self._knows_all_bytes(before):
            return None
        pieces = map(self._backend.id_to_token, range(self._backend.get_vocab_size(with_added_tokens=True)))
        sizes = [None if piece is None else len(piece.encode()) for piece in pieces]
        known = [size for size in sizes if size is not None]
        return shrinks * max(known) if len(known) == len(sizes) else None

    @cached_property
    def _shrinks(self) -> int | None:
        return _shrinks(_steps(self._backend.normalizer, "normalizers"))

    @cached_property
    def _swallows(self) -> bool:
        """Whether white space may vanish beside an added token, or in a normalizer."""
        added = self._backend.get_added_tokens_decoder().values()
        return self._shrinks is None or any(token.lstrip or token.rstrip for token in added)

    @cached_property
    def _longest_added(self) -> int:
        return max((len(token.content) for token in self._backend.get_added_tokens_decoder().values()), default=0)

    def _knows_all_bytes(self, before: list[dict[str, Any]]) -> bool:
        model = self._backend.model
        if not isinstance(model, tokenizers.models.BPE):
            return False
        if model.byte_fallback:
            letters = [f"<0x{byte:02X}>" for byte in range(256)]
        else:
            letters = tokenizers.pre_tokenizers.ByteLevel.alphabet()
            if not any(step["type"] == "ByteLevel" for step in before):
                return False
        return all(self._backend.token_to_id(letter) is not None for letter in letters)


def _too_long(max_tokens: int, what: str) -> PromptTooLong:
    words = context_overflow(max_tokens, f"it has {what}.")
    return PromptTooLong(words, hint="shorten the prompt", param="prompt")


def _steps(part: Any, plural: str) -> list[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, as the library writes them."""
    return [] if part is None else list(_flat(json.loads(part.__getstate__()), plural))


def _flat(state: dict[str, Any], plural: str) -> list[dict[str, Any]]:
    if state["type"] != "Sequence":
        return [state]
    return [step for inner in state[plural] for step in _flat(inner, plural)]


def _shrinks(steps: list[dict[str, Any]]) -> int | None:
    """By how much normalization may shorten a text; None if unbounded."""
    factor = 1
    for step in steps:
        match step["type"]:
            case "NFC":
                factor *= _NFC_SHRINKS
            case "Prepend":
                pass
            case "Replace" if _grows(step):
                pass
            case _:
                return None
    return factor


def _grows(replace: dict[str, Any]) -> bool:
    old = replace["pattern"].get("String")
    return old is not None and len(old.encode()) <= len(replace["content"].encode())


def _keeps_all(step: dict[str, Any]) -> bool:
    """Whether a pre-tokenizer keeps every character."""
    if step["type"] in ("Split", "Punctuation"):
        return bool(step["behavior"] != "Removed")
    return step["type"] in ("ByteLevel", "Digits", "Metaspace")
