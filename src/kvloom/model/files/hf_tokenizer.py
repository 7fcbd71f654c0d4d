"""Tokenizer files of a Hugging Face style directory: completed, or converted from older forms, once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from kvloom.errors import ModelFileError
from kvloom.model.files.generation_config import hf_recommended
from kvloom.model.files.json_file import read_json
from kvloom.model.files.manifest import TOKENIZER_FILE
from kvloom.model.files.turn_ends import turn_ends
from kvloom.model.text.rules import TextRules
from kvloom.model.text.tokenizer import load_backend

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LISTED = ("additional_special_tokens", "extra_special_tokens")


def convert_hf_tokenizer(directory: Path, target: Path, config: Mapping[str, Any]) -> TextRules:
    """Write ``tokenizer.json`` into ``target``, including the special tokens declared in the files beside it.

    tokenizer.json decides what surrounds a text: ``add_bos_token`` and ``add_eos_token`` are for older files. A turn
    ends at every token that any of the files calls an end of text, and at the one that the template writes.
    Raises ModelFileError when the directory has no tokenizer at all.
    """
    settings = _Settings.read(directory)
    backend = _backend(directory)
    settings.add_tokens(backend, _rows(config))
    template = _template(directory, settings.values)
    ends = turn_ends(template, settings.special, backend.get_vocab(with_added_tokens=True))
    backend.add_special_tokens(sorted(ends))  # one in the plain vocabulary is one token, too
    backend.save(str(target / TOKENIZER_FILE))
    generation = _optional(directory / "generation_config.json")
    named = [_eos(source.get("eos_token_id")) for source in (generation, config, config.get("text_config") or {})]
    spelled = [backend.token_to_id(text) for text in (*ends, *settings.texts("eos_token"))]
    found = {token for token in [*spelled, *(token for tokens in named for token in tokens)] if token is not None}
    return TextRules(
        eos_token_ids=tuple(sorted(found)),
        bos_token_id=_bos(settings, backend, config),
        special_tokens=settings.special,
        chat_template=template,
        sampling=hf_recommended(generation, f"`{directory}`: generation_config.json"),
    )


@dataclass(frozen=True, slots=True)
class _Settings:
    """tokenizer_config.json, completed from special_tokens_map.json as transformers does it."""

    values: dict[str, Any]

    @staticmethod
    def read(directory: Path) -> _Settings:
        values = _optional(directory / "tokenizer_config.json")
        if "added_tokens_decoder" not in values:  # files of before 2024 keep the special tokens in one of their own
            values = values | _optional(directory / "special_tokens_map.json")
        return _Settings(values)

    @property
    def special(self) -> dict[str, str]:
        return {name: text for name in _NAMED for text in self.texts(name)}

    def texts(self, name: str) -> tuple[str, ...]:
        text = _token_text(self.values.get(name))
        return () if text is None else (text,)

    def add_tokens(self, backend: tokenizers.Tokenizer, rows: float) -> None:
        """Make special tokens that tokenizer.json does not list match as a whole; the model has ``rows`` tokens."""
        known = {token.content: token for token in backend.get_added_tokens_decoder().values()}
        named = set(self.special.values())
        decoder: dict[str, Any] = self.values.get("added_tokens_decoder") or {}
        listed = [_added(decoder[key]) for key in sorted(decoder, key=int)]
        changed = [token for token in listed if repr(known.get(token.content)) != repr(token)]
        for token in changed:
            token.special = token.special or token.content in named
        seen = {*known, *(token.content for token in changed)}
        bare = [_added(value) for value in self._named_and_listed()]
        for token in [*changed, *(token for token in bare if token.content not in seen)]:
            if backend.token_to_id(token.content) is not None or backend.get_vocab_size() < rows:
                backend.add_tokens([token])

    def _named_and_listed(self) -> Iterator[Any]:
        yield from (self.values[name] for name in _NAMED if self.texts(name))
        for name in _LISTED:
            value = self.values.get(name)
            yield from value if isinstance(value, list) else []


def _backend(directory: Path) -> tokenizers.Tokenizer:
    ready = directory / TOKENIZER_FILE
    if ready.exists():
        return load_backend(ready)
    if not any((directory / name).exists() for name in ("tokenizer.model", "vocab.json")):
        raise ModelFileError(
            f"`{directory}` has no tokenizer: neither {TOKENIZER_FILE}, tokenizer.model nor vocab.json"
        )
    try:
        from transformers import AutoTokenizer  # slow to import, and needed for old directories only

        return AutoTokenizer.from_pretrained(directory, local_files_only=True).backend_tokenizer
    except Exception as error:  # the converters raise anything
        raise ModelFileError(f"cannot convert the tokenizer of `{directory}`: {error}") from error


def _rows(config: Mapping[str, Any]) -> float:
    size = (config.get("text_config") or config).get("vocab_size")
    return size if isinstance(size, int) else math.inf


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _eos(value: Any) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,)
    return tuple(sorted(int(token) for token in value)) if value else ()


def _bos(settings: _Settings, backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> int | None:
    for text in settings.texts("bos_token"):
        token: int | None = backend.token_to_id(text)
        return token
    bos = config.get("bos_token_id")
    return bos if isinstance(bos, int) else None


def _token_text(value: Any) -> str | None:
    """A special token is written as its text or as {"content": text, ...}."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) and text else None


def _added(value: Any) -> tokenizers.AddedToken:
    if not isinstance(value, dict):
        return tokenizers.AddedToken(str(value), special=True)
    flags = {name: bool(value[name]) for name in ("single_word", "lstrip", "rstrip", "normalized") if name in value}
    return tokenizers.AddedToken(str(value["content"]), special=bool(value.get("special", True)), **flags)


def _template(directory: Path, tokenizer: Mapping[str, Any]) -> str | None:
    beside = directory / "chat_template.jinja"
    if beside.exists():
        return beside.read_text(encoding="utf-8")
    template = tokenizer.get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {entry["name"]: entry["template"] for entry in template}
        return named.get("default")
    return template
