"""Checks the types of all text settings in model files, before a tokenizer is made from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kvloom.errors import ModelFileError
from kvloom.model.files.json_file import read_json
from kvloom.model.keys import Keys
from kvloom.model.reading import is_there

_MOST_ID = (1 << 32) - 1
_READ_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


def check_gguf_text(metadata: Mapping[str, Any], origin: str) -> None:
    """Raise ModelFileError unless every ``tokenizer`` key that we read has the expected type."""
    keys = Keys(metadata, origin, "tokenizer.ggml.")
    _check_texts(keys, "tokens", keys.need("tokens"))
    merges = keys.get("merges")
    if merges is not None and len(merges):
        _check_texts(keys, "merges", merges)
        odd = next((merge for merge in merges if " " not in merge), None)
        if odd is not None:
            raise ModelFileError(f"`{origin}`: `tokenizer.ggml.merges` has {odd[:80]!r}, not two pieces and a space")
    _check_numbers(keys, "token_type", np.integer)
    _check_numbers(keys, "scores", np.floating)
    for key in metadata:
        if key.startswith(keys.prefix) and key.endswith("_token_id"):
            keys.size(key.removeprefix(keys.prefix), most=_MOST_ID, least=0)
    for key in ("add_bos_token", "add_eos_token", "add_space_prefix"):
        keys.flag(key, False)
    for key in ("model", "pre"):
        keys.text(key, "")
    Keys(metadata, origin).text("tokenizer.chat_template", "")


def check_hf_text(directory: Path, config: Mapping[str, Any]) -> None:
    """Raise ModelFileError unless the files beside config.json are files and what we read has the expected types."""
    for name in _READ_FILES:
        is_there(directory / name)
    _check_ids(Keys(config, str(directory / "config.json")))
    generation = directory / "generation_config.json"
    if is_there(generation):
        _check_ids(Keys(read_json(generation), str(generation)))
    tokenizer = directory / "tokenizer_config.json"
    if is_there(tokenizer):
        keys = Keys(read_json(tokenizer), str(tokenizer))
        for key in _SPECIAL:
            _check_special(keys, key)
        _check_templates(keys)


def _check_texts(keys: Keys, key: str, value: Any) -> None:
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise keys.odd(key, "a list of texts")


def _check_numbers(keys: Keys, key: str, kind: type[np.integer[Any] | np.floating[Any]]) -> None:
    value = keys.get(key)
    if value is None:
        return
    if not isinstance(value, np.ndarray) or not np.issubdtype(value.dtype, kind):
        raise keys.odd(key, "a list of numbers")
    if math.isnan(float(value.sum())):
        raise keys.odd(key, "a list of numbers, all of them finite")


def _check_ids(keys: Keys) -> None:
    for key in ("eos_token_id", "bos_token_id"):
        value = keys.get(key, [])
        ids = value if isinstance(value, list) else [value]
        if any(type(token) is not int or not 0 <= token <= _MOST_ID for token in ids):
            raise keys.odd(key, "a token id, or a list of them")


def _check_special(keys: Keys, key: str) -> None:
    value = keys.get(key, "")
    text = value.get("content") if isinstance(value, Mapping) else value
    if not isinstance(text, str):
        raise keys.odd(key, "a text, or an object with `content`")


def _check_templates(keys: Keys) -> None:
    value = keys.get("chat_template", "")
    named = value if isinstance(value, list) else [{"name": "default", "template": value}]
    if not all(
        isinstance(entry, Mapping) and all(isinstance(entry.get(field), str) for field in ("name", "template"))
        for entry in named
    ):
        raise keys.odd("chat_template", "a text, or a list of objects with `name` and `template`")
