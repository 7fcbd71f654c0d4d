"""Small Hugging Face style directories of tokenizer files, and what transformers makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
import transformers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from kvloom.model.files.hf_tokenizer import convert_hf_tokenizer
from kvloom.model.files.manifest import TOKENIZER_FILE
from kvloom.model.text.tokenizer import Tokenizer, load_backend

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = [("Ġ", "t"), ("h", "e"), ("Ġt", "he")]
SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")


def backend(special: tuple[str, ...] = SPECIAL, bos: str | None = None) -> tokenizers.Tokenizer:
    """Byte-level BPE; ``bos``: its post-processor puts this token first."""
    vocab = {text: index for index, text in enumerate([*BYTES, *("".join(pair) for pair in MERGES), "<|odd|>"])}
    made = tokenizers.Tokenizer(models.BPE(vocab, MERGES))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    if bos is not None:
        token = made.token_to_id(bos)
        made.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, token)])
    return made


def write(directory: Path, made: tokenizers.Tokenizer, **files: dict[str, Any] | str) -> Path:
    """``files``: by stem, JSON objects; ``chat_template`` is text."""
    directory.mkdir(parents=True, exist_ok=True)
    made.save(str(directory / TOKENIZER_FILE))
    for name, value in files.items():
        if isinstance(value, str):
            (directory / f"{name}.jinja").write_text(value, encoding="utf-8")
        else:
            (directory / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return directory


def ours(directory: Path, config: dict[str, Any] | None = None) -> Tokenizer:
    """Converted as a pull does it."""
    target = directory / "converted"
    target.mkdir()
    rules = convert_hf_tokenizer(directory, target, config or {})
    return Tokenizer(load_backend(target / TOKENIZER_FILE), rules, "test")


def theirs(directory: Path) -> transformers.PreTrainedTokenizerBase:
    return transformers.PreTrainedTokenizerFast.from_pretrained(directory)
