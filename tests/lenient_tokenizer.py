"""A tokenizer that takes any text, for servers that are asked anything."""

from __future__ import annotations

from tiny import VOCAB, CharTokenizer


class LenientTokenizer(CharTokenizer):
    """Knows every character, as tokenizers do that fall back to bytes, and no token beyond its vocabulary.

    Its last token ends a text, so that it can say all that a regex or JSON may want in ASCII.
    """

    eos_token_ids = special_token_ids = frozenset({VOCAB - 1})

    @staticmethod
    def token_text(token_id: int) -> str:
        return chr(32 + token_id) if token_id < VOCAB else ""

    def encode(self, text: str, add_special_tokens: bool | None = True, max_tokens: int | None = None) -> list[int]:
        return [min(max(ord(character) - 32, 1), VOCAB - 1) for character in text]
