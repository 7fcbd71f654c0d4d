"""Tokenizer files of a Hugging Face style directory: what transformers makes of them is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from hf_directory import backend, ours, theirs, write
from kvloom.model.text.tokenizer import load_backend

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


TEXTS = ["", "the cat", "<s>the", "a<|im_end|>b", "<|odd|> <new>the<new2>", "the</s>"]


def named(text: str) -> dict[str, Any]:
    return {"content": text, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}


def listed(text: str, special: bool = True) -> dict[str, Any]:
    return named(text) | {"special": special}


@pytest.mark.parametrize(
    ("bos", "files"),
    [
        ("<s>", {}),
        (None, {"tokenizer_config": {"bos_token": "<s>", "eos_token": "</s>"}}),
        (None, {"tokenizer_config": {"bos_token": "<s>", "add_bos_token": True}}),
        ("<s>", {"tokenizer_config": {"bos_token": "<s>", "add_bos_token": False}}),
        (None, {"tokenizer_config": {"bos_token": "<s>", "eos_token": "</s>", "add_eos_token": True}}),
        ("<s>", {"tokenizer_config": {"eos_token": "</s>", "add_eos_token": True}}),
        (None, {"tokenizer_config": {"add_bos_token": True}}),
        (
            None,
            {"tokenizer_config": {"add_bos_token": True}, "special_tokens_map": {"bos_token": named("<s>")}},
        ),
        (
            None,
            {
                "tokenizer_config": {"bos_token": "</s>", "add_bos_token": True},
                "special_tokens_map": {"bos_token": "<s>", "additional_special_tokens": ["<new>", "<new2>"]},
            },
        ),
        (
            None,
            {
                "tokenizer_config": {
                    "bos_token": "<s>",
                    "eos_token": "<new>",
                    "add_bos_token": True,
                    "added_tokens_decoder": {"265": listed("<new2>", False), "264": listed("<new>")},
                },
                "special_tokens_map": {"bos_token": "</s>"},
            },
        ),
        (None, {"tokenizer_config": {"additional_special_tokens": ["<|odd|>", "<new>"]}}),
    ],
)
def test_texts_become_the_tokens_of_transformers(tmp_path: Path, bos: str | None, files: dict[str, Any]) -> None:
    directory = write(tmp_path / "model", backend(bos=bos), **files)
    tokenizer, reference = ours(directory), theirs(directory)
    for text in TEXTS:
        for special in (True, False):
            assert tokenizer.encode(text, special) == reference.encode(text, add_special_tokens=special), (
                text,
                special,
            )
        ids = tokenizer.encode(text)
        for skip in (True, False):
            assert tokenizer.decode(ids, skip) == reference.decode(ids, skip_special_tokens=skip)
    assert tokenizer.bos_token_id == reference.bos_token_id
    assert reference.eos_token_id is None or reference.eos_token_id in tokenizer.eos_token_ids


def test_tokens_that_the_model_has_no_row_for_stay_text(tmp_path: Path) -> None:
    made = backend()
    files = {"tokenizer_config": {"pad_token": "[PAD]", "unk_token": "[UNK]"}}
    tokenizer = ours(write(tmp_path / "model", made, **files), {"vocab_size": made.get_vocab_size() + 1})
    assert max(tokenizer.encode("[PAD][UNK]")) == made.get_vocab_size()
    assert tokenizer.vocab_size == made.get_vocab_size() + 1


def chatml(end: str) -> str:
    return "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}" + end + "\n{% endfor %}"


class TestTurnEnds:
    """Special tokens are, by id: 260 <s>, 261 </s>, 262 <|im_start|>, 263 <|im_end|>; 259 is <|odd|>, a plain piece."""

    @pytest.mark.parametrize(
        ("config", "files", "ends"),
        [
            ({"eos_token_id": 5}, {"generation_config": {"eos_token_id": [6, 7]}}, {5, 6, 7}),
            ({"text_config": {"eos_token_id": 5}}, {"tokenizer_config": {"eos_token": "</s>"}}, {5, 261}),
            ({}, {"special_tokens_map": {"eos_token": named("</s>")}}, {261}),
            ({"eos_token_id": 261}, {"chat_template": chatml("<|im_end|>")}, {261, 263}),
            ({}, {"tokenizer_config": {"chat_template": chatml("<|im_end|>"), "eos_token": "</s>"}}, {261, 263}),
            ({}, {"chat_template": chatml("{{ eos_token }}"), "tokenizer_config": {"eos_token": "</s>"}}, {261}),
            ({}, {"chat_template": chatml("<|odd|>")}, {259}),
        ],
    )
    def test_all_that_any_file_names(
        self, tmp_path: Path, config: dict[str, Any], files: dict[str, Any], ends: set[int]
    ) -> None:
        assert ours(write(tmp_path / "model", backend(), **files), config).eos_token_ids == ends

    @pytest.mark.parametrize("end", ["", " the", "he", "[not there]", "<|nobody|>", " the end"])
    def test_words_are_none(self, tmp_path: Path, end: str) -> None:
        assert ours(write(tmp_path / "model", backend(), chat_template=chatml(end))).eos_token_ids == set()

    @pytest.mark.parametrize("template", ["{% for %}", "{{ raise_exception('no') }}", "{{ 1 / 0 }}"])
    def test_a_template_that_cannot_run_does_not_hinder(self, tmp_path: Path, template: str) -> None:
        directory = write(tmp_path / "model", backend(), chat_template=template + "{# <|im_end|> #}")
        assert ours(directory).eos_token_ids == {263}

    def test_an_end_in_the_plain_vocabulary_is_one_token_and_not_shown(self, tmp_path: Path) -> None:
        plain = ours(write(tmp_path / "plain", backend()))
        assert len(plain.encode("a<|odd|>")) > 2
        tokenizer = ours(write(tmp_path / "model", backend(), chat_template=chatml("<|odd|>")))
        assert tokenizer.encode("a<|odd|>") == [*plain.encode("a"), 259]
        assert tokenizer.decode([*plain.encode("a"), 259]) == "a"

    def test_an_end_that_is_listed_as_ordinary_is_not_shown(self, tmp_path: Path) -> None:
        made = backend(special=("<s>", "</s>"))
        made.add_tokens([AddedToken("<|im_end|>", special=False, normalized=False)])
        tokenizer = ours(write(tmp_path / "model", made, chat_template=chatml("<|im_end|>")))
        assert tokenizer.decode(tokenizer.encode("a<|im_end|>")) == "a"
