"""The text of an answer continues its prompt: the oracle decodes both together and cuts off the prompt's text."""

from __future__ import annotations

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

import tiny
from kvloom.engine.params import SamplingParams
from kvloom.model.text.rules import TextRules
from kvloom.model.text.tokenizer import Tokenizer

PIECES = ["▁user", "▁hello", "▁", "us", "er", "h", "e", "l", "o", "u", "s", "r", "é", "!"]


def _backend(decoder: decoders.Decoder, byte_level: bool = False) -> tokenizers.Tokenizer:
    if byte_level:
        pieces = ["Ġuser", "Ġhello", *sorted(pre_tokenizers.ByteLevel.alphabet())]
        merges = [("Ġ", "user"), ("Ġ", "hello")]
        vocab = {piece: index for index, piece in enumerate(["<unk>", "<s>", "</s>", *pieces, "user", "hello"])}
    else:
        pieces = [*(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
        merges = []
        vocab = {piece: index for index, piece in enumerate(["<unk>", "<s>", "</s>", *pieces])}
    backend = tokenizers.Tokenizer(models.BPE(vocab, merges, byte_fallback=not byte_level, unk_token="<unk>"))
    if byte_level:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoder
    backend.add_special_tokens([AddedToken(text, special=True) for text in ("<unk>", "<s>", "</s>")])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return backend


def _strip(start: int) -> decoders.Decoder:
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", start, 0)]
    return decoders.Sequence(steps)


BACKENDS = {
    "Strip": _backend(_strip(1)),
    "no Strip": _backend(_strip(0)),
    "Metaspace": _backend(
        decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace("▁", "always"), decoders.Fuse()])
    ),
    "Metaspace first": _backend(
        decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace("▁", "first"), decoders.Fuse()])
    ),
    "ByteLevel": _backend(decoders.ByteLevel(), byte_level=True),
}
RULES = TextRules(eos_token_ids=(2,), bos_token_id=1, special_tokens={}, chat_template=None)
every_backend = pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
texts = st.text("user hello é!", max_size=12)


def streamed(tokenizer: Tokenizer, ids: list[int], skip: bool, after: list[int]) -> str:
    stream = tokenizer.stream(skip, after)
    return "".join([*(stream.push(token) for token in ids), stream.flush()])


@every_backend
@given(before=texts, answer=texts, bos=st.booleans(), skip=st.booleans())
def test_a_continuation_is_what_it_adds(
    backend: tokenizers.Tokenizer, before: str, answer: str, bos: bool, skip: bool
) -> None:
    prompt = backend.encode(before, add_special_tokens=bos).ids
    ids = backend.encode(answer, add_special_tokens=False).ids
    if prompt[-1:] == [261] or ids[:1] == [261]:  # a lone ▁ at the start: Metaspace drops as many as a token has
        return
    both, first = (backend.decode(part, skip_special_tokens=skip) for part in (prompt + ids, prompt))
    assert streamed(Tokenizer(backend, RULES, "test"), ids, skip, prompt) == both[len(first) :]


@every_backend
@pytest.mark.parametrize("bos", [False, True])
def test_the_first_space_stays_unless_the_text_begins(backend: tokenizers.Tokenizer, bos: bool) -> None:
    tokenizer = Tokenizer(backend, RULES, "test")
    user = backend.token_to_id("▁user") or backend.token_to_id("Ġuser")
    hello = backend.encode("hello", add_special_tokens=bos).ids
    assert streamed(tokenizer, [user, user], True, hello) == " user user"
    begins = backend.decode([user, user])
    assert streamed(tokenizer, [user, user], True, [1] if bos else []) == begins
    assert tokenizer.decode([user, user]) == begins
    assert streamed(tokenizer, [user, user], False, [1]) == backend.decode([1, user, user], False)[len("<s>") :]


@every_backend
def test_a_character_begun_in_the_prompt_is_told_whole(backend: tokenizers.Tokenizer) -> None:
    tokenizer = Tokenizer(backend, RULES, "test")
    ids = backend.encode("hello 😀 user 😀").ids
    for cut in range(1, len(ids)):
        stream = tokenizer.stream()
        echo = "".join(stream.push(token) for token in ids[:cut])
        assert echo + streamed(tokenizer, ids[cut:], True, ids[:cut]) == backend.decode(ids)


def test_the_engine_continues_its_prompt() -> None:
    """Forced by a bias; ids of the tiny model and of the tokenizer are the same."""
    vocab = {piece: index for index, piece in enumerate(["<unk>", "<s>", "</s>", *PIECES])}
    backend = tokenizers.Tokenizer(models.BPE(vocab, [], unk_token="<unk>"))
    backend.decoder = _strip(1)
    backend.add_special_tokens([AddedToken(text, special=True) for text in ("<unk>", "<s>", "</s>")])
    engine = tiny.make_engine(tokenizer=Tokenizer(backend, RULES, "test", tiny.VOCAB))
    user, hello = vocab["▁user"], vocab["▁hello"]
    for prompt, stop, want in (
        ([1, hello], (), " user user user"),
        ([hello], (), " user user user"),
        ([1], (), "user user user"),
        ([1, 2, 1], (), "user user user"),
        ([1, hello], ("r us",), " use"),
        ([1, hello], (" user",), ""),
    ):
        params = SamplingParams(temperature=0.0, max_tokens=3, logit_bias={user: 100.0}, stop=stop, n=2)
        done = tiny.run(engine, {"a": prompt}, params)["a"]
        assert done.text == {0: want, 1: want}
