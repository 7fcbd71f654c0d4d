"""The real models' tokenizers against transformers' and the original SentencePiece library."""

from __future__ import annotations

import warnings

import pytest
import transformers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

from kvloom.model.files.gguf_file import read_gguf
from kvloom.model.files.loading import load_tokenizer
from real_models import manifest_of
from sentencepiece_oracle import oracle
from varied_texts import TEXTS

pytestmark = pytest.mark.real


def theirs(name: str) -> transformers.PreTrainedTokenizerBase:
    path = manifest_of(name).weight_path(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reader's own deprecations
        return transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def test_smollm2_equals_transformers() -> None:
    ours, reference = load_tokenizer(manifest_of("smollm2-135m-instruct")), theirs("smollm2-135m-instruct")
    # The file names its pre-tokenizer (smollm), which splits all numerals; transformers' GGUF reader knows no such name
    # and would join a numeral like ½ with the space before it.
    reference.backend_tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(False)])
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == reference.encode(text), text
        for skip in (True, False):
            assert ours.decode(ids, skip) == reference.decode(ids, skip_special_tokens=skip), text
    chat = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "x"},
    ]
    reference.chat_template = read_gguf(manifest_of("smollm2-135m-instruct").weight_path(0)).metadata[
        "tokenizer.chat_template"
    ]
    for generation in (True, False):
        expected = reference.apply_chat_template(chat, tokenize=False, add_generation_prompt=generation)
        assert ours.chat_prompt(chat, add_generation_prompt=generation) == expected
    assert ours.eos_token_ids == {reference.convert_tokens_to_ids("<|im_end|>")}
    assert ours.vocab_size == len(reference) == 49152


def test_gemma_equals_sentencepiece() -> None:
    manifest = manifest_of("gemma-3-270m")
    ours, reference = load_tokenizer(manifest), oracle(read_gguf(manifest.weight_path(0)).metadata)
    compared = [text for text in TEXTS if "<bos>" not in text and "<unk>" not in text]  # those it never parses in text
    assert len(compared) == len(TEXTS) - 2
    for text in compared:
        ids = ours.encode(text, add_special_tokens=False)
        assert ids == reference.encode(text), text
        assert ours.encode(text) == [2, *ids]
        assert ours.decode(ids, skip_special_tokens=False) == text


def test_gemma_equals_transformers() -> None:
    ours, reference = load_tokenizer(manifest_of("gemma-3-270m")), theirs("gemma-3-270m")
    for text in TEXTS:
        assert ours.encode(text) == reference.encode(text), text
