"""Texts that cannot fit are told early, those that fit never are, and others run meanwhile."""

from __future__ import annotations

import json
import threading
import time
import unicodedata
from collections import defaultdict
from functools import cache
from itertools import pairwise

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers

from kvloom.errors import PromptTooLong
from kvloom.model.text import text_bound
from kvloom.model.text.text_bound import TextBound
from trained_tokenizer import TEXT, trained_backend, trained_tokenizer

BACKEND, TOKENIZER = trained_backend(), trained_tokenizer()


def test_other_threads_run_while_a_large_text_is_tokenized() -> None:
    ticks: list[float] = []
    done = threading.Event()

    def tick() -> None:
        while not done.wait(0.001):
            ticks.append(time.perf_counter())

    thread = threading.Thread(target=tick)
    thread.start()
    started = time.perf_counter()
    TOKENIZER.encode(TEXT * 15_000)
    took = time.perf_counter() - started
    done.set()
    thread.join()
    within = [at for at in ticks if started < at < started + took]
    assert max(late - soon for soon, late in pairwise(within)) < took / 2


@given(
    text=st.lists(st.sampled_from([TEXT, "a", " ", "\n", "é", "😀", "<end>", "x"]), max_size=500).map("".join)
    | st.integers(0, 30_000).map(lambda count: "a" * count)
    | st.integers(0, 30_000).map(lambda count: " " * count),
    allowed=st.integers(1, 2_000),
)
def test_what_fits_is_never_refused(text: str, allowed: int) -> None:
    ids = BACKEND.encode(text).ids
    try:
        assert TOKENIZER.encode(text, max_tokens=allowed) == ids
    except PromptTooLong:
        assert len(ids) > allowed
    assert TOKENIZER.encode(text, max_tokens=max(1, len(ids))) == ids


@pytest.mark.parametrize("text", [TEXT * 400_000, "a" * 16_000_000, "\n" * 4_000_000, "1" * 4_000_000, "é" * 4_000_000])
def test_no_more_is_read_than_decides(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    read: list[int] = []

    def encode(backend: tokenizers.Tokenizer, text: str, add_special_tokens: bool) -> tokenizers.Encoding:
        read.append(len(text))
        return backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0]

    monkeypatch.setattr(text_bound, "encode", encode)
    bound = TextBound(BACKEND)
    with pytest.raises(PromptTooLong, match=r"^This model's maximum context length is 1000 tokens\. However, "):
        bound.check(text, len(text.encode()), 1000)
    assert sum(read) < 100_000


def test_by_bytes_alone() -> None:
    limit = TextBound(BACKEND).bytes_per_token
    assert limit is not None
    assert limit >= max(len(piece) for piece in BACKEND.get_vocab())
    with pytest.raises(PromptTooLong, match=r"no token stands for more than"):
        TextBound(BACKEND).check("a" * 500_000, 500_000, 1000)


def changed(**parts: object) -> tokenizers.Tokenizer:
    backend = trained_backend()
    for name, part in parts.items():
        setattr(backend, name, part)
    return backend


def with_added(**options: bool) -> tokenizers.Tokenizer:
    backend = trained_backend()
    backend.add_tokens([tokenizers.AddedToken("<mask>", **options)])
    return backend


def without_a_byte() -> tokenizers.Tokenizer:
    state = json.loads(BACKEND.to_str())
    token = state["model"]["vocab"].pop("!")
    state["model"]["vocab"]["!!"] = token
    return tokenizers.Tokenizer.from_str(json.dumps(state))


@pytest.mark.parametrize(
    "backend",
    [
        changed(normalizer=normalizers.Strip()),
        changed(normalizer=normalizers.Replace("aa", "a")),
        changed(normalizer=normalizers.Replace(tokenizers.Regex("a+"), "aaaaaaaa")),
        changed(normalizer=normalizers.Sequence([normalizers.NFC(), normalizers.NFKC()])),
        changed(pre_tokenizer=pre_tokenizers.Whitespace()),
        changed(
            pre_tokenizer=pre_tokenizers.Sequence(
                [pre_tokenizers.Split("a", "removed"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
            )
        ),
        with_added(lstrip=True),
        with_added(rstrip=True),
        without_a_byte(),
        tokenizers.Tokenizer(tokenizers.models.WordPiece({"[UNK]": 0}, unk_token="[UNK]")),
    ],
)
def test_where_characters_vanish_nothing_is_said_of_bytes(backend: tokenizers.Tokenizer) -> None:
    assert TextBound(backend).bytes_per_token is None


@pytest.mark.parametrize("side", ["lstrip", "rstrip"])
def test_white_space_that_a_token_swallows(side: str) -> None:
    tokenizer = trained_tokenizer(with_added(**{side: True}))
    text = " " * 300_000 + "<mask>" + " " * 300_000
    ids = tokenizer.encode(text)
    assert tokenizer.encode(text, max_tokens=len(ids)) == ids
    only = text.strip(" ") + " " * 300_000 if side == "rstrip" else " " * 300_000 + "<mask>"
    assert len(tokenizer.encode(only, max_tokens=10)) == 1


def test_composing_shrinks_a_text_by_less_than_we_say() -> None:
    """The longest way to write each composed character, from Unicode's own tables."""
    ways: dict[str, int] = defaultdict(int)
    for letter in map(chr, [*range(0xD800), *range(0xE000, 0x30000)]):  # nothing above is composed of anything
        apart = unicodedata.normalize("NFD", letter)
        if apart != letter:
            ways[apart] = max(ways[apart], len(letter.encode()))
    for letter in set("".join(ways)):
        ways[letter] = max(ways[letter], len(letter.encode()))

    @cache
    def longest(apart: str) -> int:
        return max(
            (ways[apart[:n]] + longest(apart[n:]) for n in range(1, len(apart) + 1) if apart[:n] in ways), default=0
        )

    worst = max(longest(apart) / len(unicodedata.normalize("NFC", apart).encode()) for apart in list(ways))
    assert 3 < worst <= 4
    assert TextBound(changed(normalizer=normalizers.NFC())).bytes_per_token == 4 * (
        TextBound(BACKEND).bytes_per_token or 0
    )
