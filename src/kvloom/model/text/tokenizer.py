"""Text to tokens and back, whole or as a stream, over the ``tokenizers`` library."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from kvloom.errors import ModelError, ModelFileError, RequestError, UnsupportedModel
from kvloom.model.text.chat import render_chat
from kvloom.model.text.messages import normal_messages, template_variables, until_marked, with_marked_end
from kvloom.model.text.rules import TextRules
from kvloom.model.text.text_bound import TextBound, encode

_SPACE = "▁"
_LONGEST_CHARACTER = 4
"""Bytes of UTF-8."""

_CLASS = "PreTrainedTokenizerFast"
"""Of transformers, for any ``tokenizer.json``."""
_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")
_OF_ADDED = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")

_SLICE = 2**20
"""Characters to encode at a time."""


def load_backend(path: Path) -> tokenizers.Tokenizer:
    """Read a tokenizer.json, without its authors' settings for padding or training. Raises ModelFileError."""
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ModelFileError(f"cannot read the tokenizer `{path}`: {error}") from error
    # Each of these would silently truncate, pad or vary a prompt.
    backend.no_truncation()
    backend.no_padding()
    if isinstance(backend.model, tokenizers.models.BPE):
        backend.model.dropout = None
    return backend


class Tokenizer:
    """Encodes and decodes. Safe to share between threads.

    ``num_ids``: ids that the model knows, if it knows more than the tokenizer has texts for; the others are empty.
    """

    def __init__(self, backend: tokenizers.Tokenizer, rules: TextRules, model_name: str, num_ids: int = 0) -> None:
        self._backend = backend
        self._rules = rules
        self._model_name = model_name
        added = backend.get_added_tokens_decoder()
        self._added = {token: entry.content for token, entry in added.items()}
        self._twins = dict(rules.twins)
        special = {token for token, entry in added.items() if entry.special}
        self._special = frozenset(special | {token for token, other in rules.twins if other in special})
        self._num_ids = max(num_ids, backend.get_vocab_size(with_added_tokens=True))
        self._spell, self._spell_added, self._strip_first_space = _speller(backend, model_name)
        self._bytes: dict[int, bytes] = {}
        self._bound = TextBound(backend)
        self._begin = _begin(backend)

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end a text."""
        return frozenset(self._rules.eos_token_ids)

    @property
    def special_token_ids(self) -> frozenset[int]:
        """Tokens that stand for no text: they mark turns, beginnings and ends."""
        return self._special

    @property
    def bos_token_id(self) -> int | None:
        return self._rules.bos_token_id

    @property
    def lead(self) -> tuple[int, ...]:
        """What is put before a text that is computed alone: the start token, also of a model that needs none before
        its prompts; nothing, if it has none.

        The first token of all draws attention whatever it is. It must not be one of the text, which has others before
        it where it is used.
        """
        first = self.bos_token_id if self._begin is None else self._begin
        return () if first is None else (first,)

    @cached_property
    def identity(self) -> str:
        """SHA-256, hexadecimal, of all that says which tokens a text has."""
        return hashlib.sha256(self._backend.to_str().encode("utf-8")).hexdigest()

    @property
    def vocab_size(self) -> int:
        return self._backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, add_special_tokens: bool | None = True, max_tokens: int | None = None) -> list[int]:
        """Token ids of ``text``. ``max_tokens`` lets this stop early at a text that cannot fit; it is not a hard limit.

        ``add_special_tokens``: add the model's start and end tokens; None does so, too, but does not repeat the start
        token of a text that has it. Raises RequestError when the text is not valid Unicode (a lone surrogate),
        PromptTooLong when it certainly has more than ``max_tokens``.
        """
        num_bytes = _num_bytes(text)
        if max_tokens is not None and num_bytes > max_tokens:
            self._bound.check(text, num_bytes, max_tokens)
        ids = list(encode(self._backend, text, add_special_tokens is not False).ids)
        twice = add_special_tokens is None and self._begin is not None and ids[:2] == [self._begin] * 2
        return ids[1:] if twice else ids

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text of whole tokens; bytes that form no character become U+FFFD. Raises RequestError for an unknown id."""
        stream = self.stream(skip_special_tokens)
        return "".join([*(stream.push(token) for token in ids), stream.flush()])

    def token_text(self, token_id: int) -> str:
        """One token's text, its leading space included; a part of a character shows as U+FFFD."""
        return self.token_bytes(token_id).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token represents, none for an id without a text. Raises RequestError for an unknown id."""
        known = self._bytes.get(token_id)
        if known is None:
            known = self._bytes[token_id] = self._find_bytes(token_id)
        return known

    def stream(self, skip_special_tokens: bool = True, after: Sequence[int] = ()) -> TokenStream:
        """Decode tokens one by one: the text that each adds after the preceding tokens ``after``.

        A leading space that the tokenizer prepended is removed, but only at the start of a text, not where one
        continues. A character whose first bytes are in ``after`` is returned whole.
        """
        skipped = self._special if skip_special_tokens else frozenset()
        said = (token for token in after if token not in skipped)
        begun = bool(after) and any(self.token_bytes(token) for token in said)
        stream = TokenStream(self, skipped, self._strip_first_space and not begun)
        if begun:
            stream.resume(after)
        return stream

    def described(self) -> dict[str, Any]:
        """As a file ``tokenizer_config.json`` says it: special tokens by name, added ones by id, the chat template."""
        return {
            "tokenizer_class": _CLASS,
            "chat_template": self._rules.chat_template,
            **dict.fromkeys(_NAMED),
            **self._rules.special_tokens,
            "add_bos_token": self._begin is not None,
            "added_tokens_decoder": {
                str(token): {name: getattr(entry, name) for name in _OF_ADDED}
                for token, entry in sorted(self._backend.get_added_tokens_decoder().items())
            },
        }

    @property
    def has_chat_template(self) -> bool:
        return self._rules.chat_template is not None

    @property
    def chat_template(self) -> str | None:
        """In Jinja, as it came with the model."""
        return self._rules.chat_template

    def chat_prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        continue_final_message: bool = False,
    ) -> str:
        """The model's own prompt for a chat; encode it with ``add_special_tokens=False``, the template writes them.

        ``chat_template_kwargs`` reach the template as variables (``enable_thinking`` ...). ``continue_final_message``:
        the prompt ends with the last message's content, which the answer continues. Raises ModelError when the model
        has no template, RequestError when the messages do not suit it.
        """
        template = self._rules.chat_template
        if template is None:
            raise ModelError(
                f"model `{self._model_name}` has no chat template",
                hint="it is a base model: send a plain prompt, or choose an instruct model",
            )
        ours = {"tools": tools, "documents": None, "add_generation_prompt": add_generation_prompt}
        variables = {**self._rules.special_tokens, **ours, **template_variables(chat_template_kwargs)}
        turns = normal_messages(messages, template)
        if not continue_final_message:
            return render_chat(template, turns, variables)
        if add_generation_prompt:
            raise RequestError(
                "`continue_final_message` and `add_generation_prompt` exclude each other",
                hint="set `add_generation_prompt` to false",
                param="continue_final_message",
            )
        return until_marked(render_chat(template, with_marked_end(turns), variables))

    def _find_bytes(self, token_id: int) -> bytes:
        token = self._twins.get(token_id, token_id)
        if token in self._added:
            return self._spell_added(self._added[token])
        piece = self._backend.id_to_token(token) if 0 <= token < 2**32 else None
        if piece is not None:
            return self._spell(piece)
        if 0 <= token < self._num_ids:  # a head is often wider than the vocabulary
            return b""
        raise RequestError(f"token {token_id} is not in the vocabulary of {self._num_ids}")


class TokenStream:
    """Turns a stream of tokens into text. Bytes of an incomplete character are held until it is complete."""

    def __init__(self, tokenizer: Tokenizer, skipped: frozenset[int], strip_first_space: bool) -> None:
        self._tokenizer = tokenizer
        self._skipped = skipped
        self._strip = strip_first_space
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._waiting = False  # whether the decoder holds bytes of an incomplete character

    def resume(self, before: Sequence[int]) -> None:
        """Continue after tokens whose text is known: only the bytes of a character that they left incomplete matter."""
        tail = b""
        for token in reversed(before):
            if token not in self._skipped:
                tail = self._tokenizer.token_bytes(token) + tail
            if len(tail) >= _LONGEST_CHARACTER:
                break
        self._decode(tail)

    def push(self, token_id: int) -> str:
        """Add one token; return the text that is now certain, possibly empty."""
        if token_id in self._skipped:
            return ""
        data = self._tokenizer.token_bytes(token_id)
        if self._strip and data:
            data, self._strip = data.removeprefix(b" "), False
        if not self._waiting and data.isascii():  # the common case: whole characters, and no bytes held
            return data.decode("ascii")
        return self._decode(data)

    def flush(self) -> str:
        """End the stream: bytes still held are incomplete, and become U+FFFD."""
        self._waiting = False
        return self._decoder.decode(b"", final=True)

    def _decode(self, data: bytes) -> str:
        text = self._decoder.decode(data)
        self._waiting = bool(self._decoder.getstate()[0])
        return text


def _num_bytes(text: str) -> int:
    """Of its UTF-8. In slices, between which other threads may run. Raises RequestError."""
    total = 0
    for start in range(0, len(text), _SLICE):
        try:
            total += len(text[start : start + _SLICE].encode("utf-8"))
        except UnicodeEncodeError as error:
            at = start + error.start
            raise RequestError(
                f"the text is not valid Unicode: a lone surrogate {text[at]!r} at character {at}"
            ) from error
    return total


def _begin(backend: tokenizers.Tokenizer) -> int | None:
    """The token that the backend prepends to every text, if any."""
    plain, whole = (backend.encode("a", add_special_tokens=special).ids for special in (False, True))
    return whole[0] if whole[:1] != plain[:1] else None


Speller = Callable[[str], bytes]
"""From a vocabulary piece to the bytes it represents."""


def _speller(backend: tokenizers.Tokenizer, model_name: str) -> tuple[Speller, Speller, bool]:
    """From the decoder: how pieces and added tokens spell bytes, and whether a text's first space is removed."""
    decoder = json.loads(backend.decoder.__getstate__()) if backend.decoder is not None else {}
    steps = {step["type"]: step for step in decoder.get("decoders", [decoder]) if "type" in step}
    if "ByteLevel" in steps:
        return _spell_byte_level, str.encode, False
    if "ByteFallback" in steps or "Metaspace" in steps:
        prefixed = steps.get("Metaspace", {}).get("prepend_scheme", "never") != "never"
        return _spell_sentence_piece, _spell_spaces, prefixed or steps.get("Strip", {}).get("start", 0) > 0
    raise UnsupportedModel(
        f"model `{model_name}` has a tokenizer with decoder `{', '.join(steps) or 'none'}`",
        hint="kvloom supports byte-level BPE and SentencePiece BPE with byte fallback",
    )


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()


def _spell_byte_level(piece: str) -> bytes:
    if all(letter in _BYTE_OF for letter in piece):
        return bytes(_BYTE_OF[letter] for letter in piece)
    return piece.encode("utf-8")


def _spell_sentence_piece(piece: str) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return _spell_spaces(piece)


def _spell_spaces(text: str) -> bytes:
    return text.replace(_SPACE, " ").encode("utf-8")
