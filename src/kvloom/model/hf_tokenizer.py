"""Tokenizer files of a Hugging Face style directory: copied, or converted once from older forms."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from kvloom.errors import ModelFileError
from kvloom.model.json_file import read_json
from kvloom.model.manifest import TOKENIZER_FILE, TextRules

_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


def copy_tokenizer(directory: Path, target: Path) -> None:
    """Put ``tokenizer.json`` into ``target``. Raises ModelFileError when the directory has no tokenizer at all."""
    ready = directory / TOKENIZER_FILE
    if ready.exists():
        if ready.resolve() != (target / TOKENIZER_FILE).resolve():
            shutil.copyfile(ready, target / TOKENIZER_FILE)
        return
    if not any((directory / name).exists() for name in ("tokenizer.model", "vocab.json")):
        raise ModelFileError(
            f"`{directory}` has no tokenizer: neither {TOKENIZER_FILE}, tokenizer.model nor vocab.json"
        )
    try:
        from transformers import AutoTokenizer  # slow to import, and needed for old directories only

        converted = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        converted.backend_tokenizer.save(str(target / TOKENIZER_FILE))
    except Exception as error:  # the converters raise anything
        raise ModelFileError(f"cannot convert the tokenizer of `{directory}`: {error}") from error


def hf_text_rules(directory: Path, config: dict[str, Any]) -> TextRules:
    """Stop tokens, chat template and special tokens, from the directory's JSON files."""
    optional = {name: _optional(directory / name) for name in ("generation_config.json", "tokenizer_config.json")}
    generation, tokenizer = optional["generation_config.json"], optional["tokenizer_config.json"]
    bos = config.get("bos_token_id")
    return TextRules(
        eos_token_ids=_eos(generation.get("eos_token_id")) or _eos(config.get("eos_token_id")),
        bos_token_id=bos if isinstance(bos, int) else None,
        special_tokens={name: text for name in _SPECIAL if (text := _token_text(tokenizer.get(name))) is not None},
        chat_template=_template(directory, tokenizer),
    )


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _eos(value: Any) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,)
    return tuple(sorted(int(token) for token in value)) if value else ()


def _token_text(value: Any) -> str | None:
    """A special token is written as its text or as {"content": text, ...}."""
    return value.get("content") if isinstance(value, dict) else value


def _template(directory: Path, tokenizer: dict[str, Any]) -> str | None:
    beside = directory / "chat_template.jinja"
    if beside.exists():
        return beside.read_text(encoding="utf-8")
    template = tokenizer.get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {entry["name"]: entry["template"] for entry in template}
        return named.get("default")
    return template
