"""Text to tokens and back on small tokenizers made the way GGUF conversion makes them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from kvloom.errors import ModelError, ModelFileError, RequestError, UnsupportedModel
from kvloom.model.files.gguf_tokenizer import gguf_text_rules, gguf_tokenizer_json
from kvloom.model.text.tokenizer import Tokenizer
from sentencepiece_oracle import oracle
from varied_texts import TEXTS

BYTES = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}\n"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\n"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_level(**extra: Any) -> dict[str, Any]:
    tokens = ["<|im_start|>", "<|im_end|>", *BYTES, "Ġt", "he", "Ġthe", "ðŁ", "ðŁĺ", "<tool>"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, *[1] * (len(tokens) - 3), 4],
        "tokenizer.ggml.merges": ["Ġ t", "h e", "Ġt he", "ð Ł", "ðŁ ĺ"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.chat_template": TEMPLATE,
        **extra,
    }


def sentence_piece(prefix: bool) -> dict[str, Any]:
    """Runs of white space as user-defined pieces come with models that add no space in front."""
    controls, users = ["<unk>", "<s>", "</s>"], ["[x]", "[y]", "[z]", "<b>"] if prefix else ["  ", "   ", "\n\n", "<b>"]
    pieces = ["▁t", "he", "▁the", "re", "▁there", "er", "ab", "ba", "aba"]
    letters = sorted({*"abcdefghijklmnopqrstuvwxyz.,!ABC", "▁"})
    tokens = [*controls, *users, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, *letters]
    kinds = [2, 3, 3, *[4] * 4, *[6] * 256, *[1] * (len(pieces) + len(letters))]
    scores = [0.0] * (7 + 256) + [-float(rank) for rank in range(len(pieces))] + [-100.0] * len(letters)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(kinds),
        "tokenizer.ggml.scores": np.array(scores),
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": prefix,
    }


def make(metadata: dict[str, Any]) -> Tokenizer:
    backend = tokenizers.Tokenizer.from_str(gguf_tokenizer_json(metadata, "test.gguf"))
    return Tokenizer(backend, gguf_text_rules(metadata, "test.gguf"), "test")


BYTE_LEVEL, PLAIN_SP, PREFIX_SP = make(byte_level()), make(sentence_piece(False)), make(sentence_piece(True))
ALL = {"byte-level": BYTE_LEVEL, "sentencepiece": PLAIN_SP, "sentencepiece-prefix": PREFIX_SP}
text_without_controls = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁<")).map(
    lambda text: text + "<b>"
)


@pytest.mark.parametrize("tokenizer", ALL.values(), ids=ALL)
@given(text=text_without_controls)
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("tokenizer", ALL.values(), ids=ALL)
@given(text=text_without_controls)
def test_a_stream_gives_the_text_and_never_takes_back(tokenizer: Tokenizer, text: str) -> None:
    stream, so_far = tokenizer.stream(), ""
    for token in tokenizer.encode(text):
        so_far += stream.push(token)
        assert text.startswith(so_far)
    assert so_far + stream.flush() == text


def test_a_character_in_pieces_waits_for_its_last_byte() -> None:
    ids = BYTE_LEVEL.encode("a😀b")
    stream = BYTE_LEVEL.stream()
    pushed = [stream.push(token) for token in ids]
    assert len(ids) > 3
    assert "".join(pushed) == "a😀b"
    assert all("\ufffd" not in piece for piece in pushed)
    assert pushed[1] == "", "the emoji's first token is not text yet"
    cut = BYTE_LEVEL.stream()
    assert "".join([*(cut.push(token) for token in ids[:2]), cut.flush()]) == "a\ufffd"


@given(ids=st.lists(st.integers(0, BYTE_LEVEL.vocab_size - 1)))
def test_any_tokens_decode_alike_streamed_or_whole(ids: list[int]) -> None:
    stream = BYTE_LEVEL.stream(skip_special_tokens=False)
    whole = BYTE_LEVEL.decode(ids, skip_special_tokens=False)
    assert "".join([*(stream.push(token) for token in ids), stream.flush()]) == whole
    backend = tokenizers.Tokenizer.from_str(gguf_tokenizer_json(byte_level(), "test.gguf"))
    assert whole == backend.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("prefix", [False, True])
@given(text=st.text("abher t.\n€é ", max_size=24))
def test_sentencepiece_pieces_equal_the_original_library(prefix: bool, text: str) -> None:
    tokenizer = PREFIX_SP if prefix else PLAIN_SP
    assert tokenizer.encode(text, add_special_tokens=False) == ORACLES[prefix].encode(text)


ORACLES = {prefix: oracle(sentence_piece(prefix)) for prefix in (False, True)}


def test_special_tokens() -> None:
    ids = BYTE_LEVEL.encode("<|im_start|>the<tool>")
    assert ids[0] == 0
    assert BYTE_LEVEL.decode(ids) == "the<tool>"
    assert BYTE_LEVEL.decode(ids, skip_special_tokens=False) == "<|im_start|>the<tool>"
    assert PLAIN_SP.encode("b") == [1, *PLAIN_SP.encode("b", add_special_tokens=False)]
    assert BYTE_LEVEL.eos_token_ids == {1}


def test_token_text() -> None:
    (the,) = BYTE_LEVEL.encode(" the")
    assert BYTE_LEVEL.token_text(the) == " the"
    assert BYTE_LEVEL.token_text(BYTE_LEVEL.encode("😀")[0]) == "\ufffd"
    with pytest.raises(RequestError, match=r"token 99999 is not in the vocabulary of \d+"):
        BYTE_LEVEL.token_text(99999)
    with pytest.raises(RequestError):
        BYTE_LEVEL.token_text(-1)


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(RequestError, match=r"lone surrogate .* at character 3"):
        BYTE_LEVEL.encode("abc\ud83d")


def test_a_lone_surrogate_is_found_however_far_back() -> None:
    with pytest.raises(RequestError, match=r"lone surrogate .* at character 1100003"):
        BYTE_LEVEL.encode("ab" * 550_000 + "abc\ud83d")


def test_varied_texts_come_back() -> None:
    for text in TEXTS:
        assert BYTE_LEVEL.decode(BYTE_LEVEL.encode(text), skip_special_tokens=False) == text


class TestChat:
    def test_prompt(self) -> None:
        prompt = BYTE_LEVEL.chat_prompt([{"role": "user", "content": "Hi"}])
        assert prompt == "<|im_start|><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        closed = BYTE_LEVEL.chat_prompt([{"role": "user", "content": "Hi"}], add_generation_prompt=False)
        assert closed == "<|im_start|><|im_start|>user\nHi<|im_end|>\n"

    @pytest.mark.parametrize(
        ("messages", "reason"),
        [
            ([], "at least one message"),
            ([{"role": "wizard", "content": "x"}], "role 'wizard'"),
            ([{"content": "x"}], "role None"),
            (["hello"], "role None"),
            ([{"role": "user", "content": 3}], "content of type int"),
            ([{"role": "tool", "content": "x"}], "no tools"),
        ],
    )
    def test_bad_messages(self, messages: list[Any], reason: str) -> None:
        with pytest.raises(RequestError, match=reason) as caught:
            BYTE_LEVEL.chat_prompt(messages)
        assert caught.value.param == "messages"

    def test_base_model_has_no_template(self) -> None:
        with pytest.raises(ModelError, match="no chat template") as caught:
            PLAIN_SP.chat_prompt([{"role": "user", "content": "Hi"}])
        assert caught.value.hint

    def test_template_may_not_reach_out(self) -> None:
        evil = make(byte_level(**{"tokenizer.chat_template": "{{ messages.__class__.__mro__ }}"}))
        with pytest.raises(RequestError):
            evil.chat_prompt([{"role": "user", "content": "Hi"}])

    def test_broken_template(self) -> None:
        broken = make(byte_level(**{"tokenizer.chat_template": "{% for %}"}))
        with pytest.raises(ModelFileError, match="line 1"):
            broken.chat_prompt([{"role": "user", "content": "Hi"}])

    def test_helpers(self) -> None:
        template = (
            "{{ tools | tojson(indent=1) }} {% generation %}{{ strftime_now('%Y') | length }}{% endgeneration %}"
            "{% for m in messages %}{% break %}{% endfor %}"
        )
        tokenizer = make(byte_level(**{"tokenizer.chat_template": template}))
        prompt = tokenizer.chat_prompt([{"role": "user", "content": "Hi"}], tools=[{"é": "<&>"}])
        assert prompt == json.dumps([{"é": "<&>"}], indent=1, ensure_ascii=False) + " 4"


def test_turn_ends_of_the_template_stop_generation() -> None:
    rules = gguf_text_rules(byte_level(**{"tokenizer.ggml.eos_token_id": 0}), "test.gguf")
    assert rules.eos_token_ids == (0, 1), "<|im_end|> ends a turn, whatever eos says"
    base = {key: value for key, value in byte_level().items() if key != "tokenizer.chat_template"}
    assert gguf_text_rules(base | {"tokenizer.ggml.eos_token_id": 0}, "test.gguf").eos_token_ids == (0,)


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        ({"tokenizer.ggml.model": "bert"}, UnsupportedModel, "tokenizer `bert`"),
        ({"tokenizer.ggml.pre": "klingon"}, UnsupportedModel, "pre-tokenizer `klingon`"),
        ({"tokenizer.ggml.tokens": []}, ModelFileError, "no vocabulary"),
        ({"tokenizer.ggml.token_type": [1]}, ModelFileError, "1 token types"),
        ({"tokenizer.ggml.eos_token_id": 10**6, "tokenizer.ggml.add_eos_token": True}, ModelFileError, "token 1000000"),
    ],
)
def test_bad_vocabularies(change: dict[str, Any], error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        make(byte_level(**change))


def test_unknown_decoder() -> None:
    with pytest.raises(UnsupportedModel, match="decoder `none`"):
        Tokenizer(tokenizers.Tokenizer(tokenizers.models.BPE()), gguf_text_rules(byte_level(), "x"), "test")


class TestTypesThatLie:
    """Some converters call markers normal text."""

    TEMPLATE = TEMPLATE.replace("<|im_end|>", "<|odd|>")

    def metadata(self, kind: int, **more: Any) -> dict[str, Any]:
        base = byte_level(**{"tokenizer.chat_template": self.TEMPLATE, **more})
        tokens, types = base["tokenizer.ggml.tokens"], base["tokenizer.ggml.token_type"]
        return base | {
            "tokenizer.ggml.tokens": [*tokens, "<|odd|>"],
            "tokenizer.ggml.token_type": [kind, *types[1:], kind],
        }

    @pytest.mark.parametrize("kind", [1, 3, 4])
    def test_what_the_template_writes_behind_an_answer_ends_a_turn(self, kind: int) -> None:
        tokenizer = make(self.metadata(kind))
        odd = tokenizer.vocab_size - 1
        assert tokenizer.eos_token_ids == {1, odd}
        (token,) = tokenizer.encode("<|odd|>")
        assert token == odd
        assert tokenizer.decode([odd]) == ""
        prompt = tokenizer.chat_prompt([{"role": "user", "content": "a"}])
        assert odd in tokenizer.encode(prompt, add_special_tokens=False)

    def test_other_markers_of_the_template_are_one_token(self) -> None:
        template = "{% for m in messages %}<|odd|>{{ m.content }}<|im_end|>{% endfor %}"
        tokenizer = make(self.metadata(1, **{"tokenizer.chat_template": template, "tokenizer.ggml.bos_token_id": 9}))
        assert tokenizer.eos_token_ids == {1}
        (odd,) = tokenizer.encode("<|odd|>")
        assert tokenizer.decode([odd]) == "<|odd|>", "it ends nothing: it is shown"

    def test_words_stay_words(self) -> None:
        metadata = self.metadata(1) | {
            "tokenizer.chat_template": "{% for m in messages %}{{ m.content }} the{% endfor %}"
        }
        the = byte_level()["tokenizer.ggml.tokens"].index("Ġthe")
        tokenizer = make(metadata)
        assert tokenizer.eos_token_ids == {1}
        assert tokenizer.decode([the]) == " the"
        tokenizer = make(metadata | {"tokenizer.ggml.eos_token_id": the})
        assert tokenizer.eos_token_ids == {the}
        assert tokenizer.decode(tokenizer.encode("so the")) == "so the"


@pytest.mark.parametrize(
    ("pre", "flag", "begins"),
    [
        ("llama-bpe", None, True),
        ("llama3", None, True),
        ("llama-v3", None, True),
        ("tekken", None, True),
        ("llama-bpe", False, False),
        ("smollm", None, False),
        ("qwen2", None, False),
        ("gpt-2", True, True),
    ],
)
def test_some_kinds_begin_with_bos(pre: str, flag: bool | None, begins: bool) -> None:
    more = {} if flag is None else {"tokenizer.ggml.add_bos_token": flag}
    tokenizer = make(byte_level(**{"tokenizer.ggml.pre": pre, **more}))
    assert tokenizer.encode("b")[:-1] == [0] * begins
    assert tokenizer.lead == (0,), "a text that is computed alone is computed behind it in any case"
    assert len(tokenizer.encode("b", add_special_tokens=False)) == 1


def test_no_bos_where_the_file_names_none() -> None:
    metadata = byte_level(**{"tokenizer.ggml.pre": "llama-bpe"})
    del metadata["tokenizer.ggml.bos_token_id"]
    assert len(make(metadata).encode("b")) == 1
    assert make(metadata).lead == ()


def test_a_text_that_brings_its_start_token_gets_no_second_one() -> None:
    plain = PLAIN_SP.encode("ab", add_special_tokens=False)
    assert PLAIN_SP.encode("ab", add_special_tokens=None) == [1, *plain]
    assert PLAIN_SP.encode("<s>ab", add_special_tokens=None) == [1, *plain]
    assert PLAIN_SP.encode("<s>ab", add_special_tokens=True) == [1, 1, *plain], "as asked"
    assert PLAIN_SP.encode("<s><s>ab", add_special_tokens=None) == [1, 1, *plain], "as written"
    assert PLAIN_SP.encode("<s>ab", add_special_tokens=False) == [1, *plain]
    assert BYTE_LEVEL.encode("<|im_start|><|im_start|>b", add_special_tokens=None)[:2] == [0, 0], "it puts none itself"
