"""Tokenizer files of a Hugging Face style directory: what transformers makes of them is right."""

from __future__ import annotations

from pathlib import Path

from hf_directory import backend
from kvloom.model.tokenizer import load_backend

LONG = "the cat sat on the mat, and the dog beside it"


class TestCallSettings:
    """A file may hold what its maker had set for one call: each changes the prompt without a word."""

    def test_truncation_and_padding_are_forgotten(self, tmp_path: Path) -> None:
        saved = backend()
        plain = saved.encode(LONG).ids
        saved.enable_truncation(8)
        saved.enable_padding(pad_id=0, pad_token="<s>", length=200)
        saved.save(str(tmp_path / "tokenizer.json"))
        assert load_backend(tmp_path / "tokenizer.json").encode(LONG).ids == plain

    def test_dropout_is_forgotten(self, tmp_path: Path) -> None:
        saved = backend()
        plain = saved.encode(LONG).ids
        saved.model.dropout = 0.9
        saved.save(str(tmp_path / "tokenizer.json"))
        assert [load_backend(tmp_path / "tokenizer.json").encode(LONG).ids for _ in range(5)] == [plain] * 5
