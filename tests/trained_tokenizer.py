"""A byte-level BPE tokenizer that knows every byte, trained in a moment."""

from __future__ import annotations

from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from kvloom.model.text.rules import TextRules
from kvloom.model.text.tokenizer import Tokenizer

TEXT = "The quick brown fox, 123 jumps over it.\n"


def trained_backend() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=alphabet, special_tokens=["<end>"], show_progress=False
    )
    backend.train_from_iterator([TEXT, "a" * 64, " " * 64, "\n" * 64], trainer)
    return backend


def trained_tokenizer(backend: tokenizers.Tokenizer | None = None, **rules: Any) -> Tokenizer:
    given = {"eos_token_ids": (0,), "bos_token_id": None, "special_tokens": {}, "chat_template": None} | rules
    return Tokenizer(backend or trained_backend(), TextRules(**given), "trained")
