"""A tokenizer whose tokens are words: what a test asks for and what it expects can be written down as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kvloom.errors import ModelError, RequestError
from kvloom.model.text.messages import normal_messages, template_variables

BOS = 0


class WordTokenizer:
    """A token per word; ids are given in the order of first sight. Token 0 is the beginning of text."""

    def __init__(self) -> None:
        self._words = ["<s>"]
        self._ids = {"<s>": BOS}
        self.has_template = True
        self.chat_template: str | None = None
        self.eos_token_ids = frozenset({999})
        self.special_token_ids = frozenset({BOS})

    @property
    def vocab_size(self) -> int:
        return len(self._words)

    def encode(self, text: str, add_special_tokens: bool | None = True, max_tokens: int | None = None) -> list[int]:
        ids = [self._id(word) for word in text.split()]
        return [BOS, *ids] if add_special_tokens is not False else ids

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(self.token_text(one) for one in ids if not (skip_special_tokens and one == BOS))

    def token_text(self, token_id: int) -> str:
        return f" {self._words[token_id]}" if token_id < len(self._words) else f" <{token_id}>"

    def token_bytes(self, token_id: int) -> bytes:
        return self.token_text(token_id).encode()

    def stream(self, skip_special_tokens: bool, after: Sequence[int] = ()) -> WordStream:
        return WordStream(self, skip_special_tokens)

    def described(self) -> dict[str, Any]:
        named = {"bos_token": "<s>", "eos_token": None, "unk_token": None, "pad_token": None}
        rest = {"tokenizer_class": "Words", "chat_template": self.chat_template, "add_bos_token": True}
        return named | rest | {"added_tokens_decoder": {}}

    def chat_prompt(
        self,
        messages: list[dict[str, Any]],
        add_generation_prompt: bool = True,
        chat_template_kwargs: dict[str, Any] | None = None,
        tools: Sequence[dict[str, Any]] | None = None,
        continue_final_message: bool = False,
    ) -> str:
        if not self.has_template:
            raise ModelError("this model has no chat template", hint="use /v1/completions")
        turns = [f"<{turn['role']}> {turn['content']}" for turn in normal_messages(messages, template="")]
        turns[:0] = [f"{name}={value}" for name, value in template_variables(chat_template_kwargs).items()]
        if continue_final_message and add_generation_prompt:
            raise RequestError("`continue_final_message` and `add_generation_prompt` exclude each other")
        return " ".join([*turns, "<assistant>"] if add_generation_prompt else turns)

    def _id(self, word: str) -> int:
        if word not in self._ids:
            self._ids[word] = len(self._words)
            self._words.append(word)
        return self._ids[word]


@dataclass
class WordStream:
    tokenizer: WordTokenizer
    skip_special_tokens: bool

    def push(self, token_id: int) -> str:
        return self.tokenizer.decode([token_id], self.skip_special_tokens)

    def flush(self) -> str:
        return ""
