"""A model's tokens as the grammar library knows them."""

from __future__ import annotations

from typing import Protocol

import llguidance

from kvloom.errors import RequestError


class Vocabulary(Protocol):
    """What grammars need of a tokenizer."""

    @property
    def eos_token_ids(self) -> frozenset[int]: ...
    @property
    def special_token_ids(self) -> frozenset[int]:
        """Tokens that stand for no text of an answer."""
        ...

    def token_bytes(self, token_id: int, /) -> bytes: ...
    def encode(self, text: str, add_special_tokens: bool | None = True, max_tokens: int | None = None) -> list[int]: ...


def library_tokens(vocabulary: Vocabulary, size: int) -> llguidance.LLTokenizer:
    """The tokens of a model with ``size`` logits: a trie of their bytes, which takes about a second for 256,000."""
    adapter = _Adapter(vocabulary, size)
    tokens = llguidance.LLTokenizer(llguidance.TokenizerWrapper(adapter), n_vocab=size, eos_token=adapter.ends)
    adapter.greedy = tokens
    return tokens


class _Adapter:
    """In the library's words. Calling it tokenizes: text that a grammar leaves no choice in gets its usual tokens."""

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, size: int) -> None:
        self._vocabulary = vocabulary
        self.greedy: llguidance.LLTokenizer | None = None
        known = sorted(token for token in vocabulary.eos_token_ids if token < size)
        self.ends = known or [size - 1]  # the library needs one
        self.eos_token_id = self.ends[0]
        self.tokens = [_bytes(vocabulary, token) for token in range(size)]
        self.special_token_ids = sorted(
            {*(token for token in vocabulary.special_token_ids if token < size), *self.ends}
        )

    def __call__(self, text: str) -> list[int]:
        if not isinstance(text, str):
            raise TypeError("only text is tokenized")
        ids = self._vocabulary.encode(text, False)
        if self.greedy is None or self._spells(ids, text):
            return ids
        return self.greedy.greedy_tokenize(text)  # for a tokenizer that puts a space before every text

    def _spells(self, ids: list[int], text: str) -> bool:
        known = all(token < len(self.tokens) for token in ids)
        return known and b"".join(self.tokens[token] for token in ids) == text.encode(errors="replace")


def _bytes(vocabulary: Vocabulary, token: int) -> bytes:
    try:
        return vocabulary.token_bytes(token)
    except RequestError:  # a head that is wider than the vocabulary
        return b""
