"""Log probabilities over HTTP, by a real engine and tokenizer: tokens' own bytes, and where they are in the text."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, processors

import tiny
from kvloom.engine.async_engine import AsyncEngine
from kvloom.engine.params import SamplingParams
from kvloom.engine.sampling import Sampler
from kvloom.model.text.rules import TextRules
from kvloom.model.text.tokenizer import Tokenizer
from kvloom.server.app import create_app

EMOJI = ["<0xF0>", "<0x9F>", "<0x98>", "<0x80>"]
WORDS = [word[:size] for word in ("▁user", "▁hello") for size in range(2, len(word) + 1)]
PIECES = [*EMOJI, "<0x81>", *WORDS, *"▁abENDéxuserhlo"]
VOCAB = {piece: token for token, piece in enumerate(dict.fromkeys(["<unk>", "<s>", "</s>", *PIECES]))}
MERGES = [(word[:-1], word[-1]) for word in WORDS]
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def make_tokenizer() -> Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE(VOCAB, MERGES, unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(text, special=True) for text in ("<unk>", "<s>", "</s>")])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return Tokenizer(backend, TextRules((), 1, {}, TEMPLATE), "tiny", tiny.VOCAB)


@pytest.fixture
async def http(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx2.AsyncClient]:
    tokenizer = make_tokenizer()
    engine = AsyncEngine.over(tiny.make_engine(tokenizer=tokenizer), tokenizer, "tiny")
    app = create_app(engine)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://kvloom") as client:
        yield client
    engine.close()


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch):
    """Make every answer say these pieces."""

    def script(*pieces: str) -> None:
        counts: dict[int, int] = {}

        def draw(sampler, logits, argmax=None) -> int:
            at = counts[id(sampler)] = counts.get(id(sampler), -1) + 1
            return VOCAB[pieces[at % len(pieces)]]

        monkeypatch.setattr(Sampler, "draw", draw)

    return script


async def complete(http: httpx2.AsyncClient, **body: Any) -> dict[str, Any]:
    reply = await http.post("/v1/completions", json={"model": "tiny", "logprobs": 3} | body)
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]


async def stream(http: httpx2.AsyncClient, **body: Any) -> dict[str, Any]:
    """The chunks of choice 0, added up."""
    reply = await http.post("/v1/completions", json={"model": "tiny", "logprobs": 3, "stream": True} | body)
    assert reply.status_code == 200, reply.text
    chunks = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
    whole: dict[str, Any] = {"text": "", "logprobs": {}}
    for choice in (choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == 0):
        for name, values in (choice["logprobs"] or {}).items():
            whole["logprobs"].setdefault(name, []).extend(values or ())
        whole["text"] += choice["text"]
        assert all(offset <= len(whole["text"]) for offset in whole["logprobs"].get("text_offset", ()))
        whole["finish_reason"] = choice["finish_reason"]
    return whole


both = pytest.mark.parametrize("ask", [complete, stream])


@both
async def test_parts_of_a_character_are_spelled_apart(http, say, ask) -> None:
    say("a", *EMOJI, "b")
    choice = await ask(http, prompt="x", max_tokens=6)
    assert choice["text"] == "a😀b"
    assert choice["logprobs"]["tokens"] == ["a", "bytes:\\xf0", "bytes:\\x9f", "bytes:\\x98", "bytes:\\x80", "b"]
    assert choice["logprobs"]["text_offset"] == [0, 1, 1, 1, 1, 2]


async def test_chat_tells_a_tokens_own_bytes(http, say) -> None:
    say("▁user", *EMOJI)
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "logprobs": True, "top_logprobs": 20}
    reply = await http.post("/v1/chat/completions", json=body | {"max_tokens": 5})
    (choice,) = reply.json()["choices"]
    assert choice["message"]["content"] == " user😀"
    content = choice["logprobs"]["content"]
    assert bytes(byte for entry in content for byte in entry["bytes"]).decode() == " user😀"
    tokenizer = make_tokenizer()
    spelled = {tuple(tokenizer.token_bytes(token)): piece for piece, token in VOCAB.items()}
    for entry in content:
        assert len(entry["top_logprobs"]) == 20
        for other in entry["top_logprobs"]:
            data = bytes(other["bytes"])
            assert not data or tuple(data) in spelled
            assert other["token"] == (data.decode() if data not in PARTS else f"bytes:\\x{data[0]:02x}")


PARTS = [bytes([byte]) for byte in (0xF0, 0x9F, 0x98, 0x80, 0x81)]


async def test_parts_do_not_merge_among_the_likeliest(http, say) -> None:
    say("a")
    choice = await complete(http, prompt="x", max_tokens=1, logprobs=97)
    (top,) = choice["logprobs"]["top_logprobs"]
    assert {f"bytes:\\x{part[0]:02x}" for part in PARTS} <= set(top)
    assert len(top) == len(VOCAB) + 1, "all that have a text, and one for those without"


@both
@pytest.mark.parametrize(
    ("pieces", "asked", "text", "offsets"),
    [
        (["a", "E", "N", "D"], {"stop": "END"}, "a", [0, 1, 1, 1]),
        (["a", "E", "N", "x"], {"stop": "END"}, "aENx", [0, 1, 2, 3]),
        (["a", "E", "N", "D"], {"stop": "END", "include_stop_str_in_output": True}, "aEND", [0, 1, 2, 3]),
        (["a", "▁user", "b"], {"stop": "us"}, "a ", [0, 1]),
        (["a", "</s>", "b", "<s>"], {}, "ab", [0, 1, 1, 2]),
        (["a", "</s>", "b", "<s>"], {"skip_special_tokens": False}, "a</s>b<s>", [0, 1, 5, 6]),
        (["▁user", "▁user"], {}, " user user", [0, 5]),
        (["▁user", "▁user"], {"prompt": [1]}, "user user", [0, 4]),
        (["a", "é", *EMOJI], {"stop": "zz"}, "aé😀", [0, 1, 2, 2, 2, 2]),
        (["a", *EMOJI[:2]], {}, "a\ufffd", [0, 1, 1]),
    ],
)
async def test_offsets_index_the_text(http, say, ask, pieces, asked, text, offsets) -> None:
    say(*pieces)
    choice = await ask(http, **({"prompt": "x", "max_tokens": len(pieces)} | asked))
    assert choice["text"] == text
    assert choice["logprobs"]["text_offset"] == offsets
    assert len(choice["logprobs"]["tokens"]) == len(offsets)


@both
@pytest.mark.parametrize(
    ("prompt", "echoed", "offsets"),
    [
        ("hello", "hello", [0, 0]),
        (" hello", " hello", [0, 0, 1]),
        ("ab😀 user", "ab😀 user", [0, 0, 0, 1, 2, 2, 2, 2, 3]),
        ("e\u0301 hello user", "e\u0301 hello user", [0, 0, 0, 2, 8]),
        ("a</s>b", "a</s>b", [0, 0, 0, 1, 5, 5]),
        ([1, VOCAB["▁hello"]], "hello", [0, 0]),
        ([VOCAB["▁hello"], 2, VOCAB["▁user"]], "hello user", [0, 5, 5]),
    ],
)
async def test_an_echoed_prompt_and_its_answer_are_one_text(http, say, ask, prompt, echoed, offsets) -> None:
    say("▁user", "a", "▁user")
    choice = await ask(http, prompt=prompt, max_tokens=3, echo=True)
    assert choice["text"] == echoed + " usera user"
    end = len(echoed)
    assert choice["logprobs"]["text_offset"] == [*offsets, end, end + 5, end + 6]
    assert choice["logprobs"]["tokens"][-3:] == [" user", "a", " user"]
    assert choice["logprobs"]["token_logprobs"][0] is None
    assert all(value <= 0.0 for value in choice["logprobs"]["token_logprobs"][1:])


@both
async def test_a_character_begun_in_the_prompt_ends_in_the_answer(http, say, ask) -> None:
    say(*EMOJI[2:], "b")
    choice = await ask(http, prompt=[VOCAB["a"], *(VOCAB[part] for part in EMOJI[:2])], max_tokens=3, echo=True)
    assert choice["text"] == "a😀b"
    assert choice["logprobs"]["text_offset"] == [0, 1, 1, 1, 1, 2]


@both
@pytest.mark.parametrize("prompt", ["hello user", [VOCAB["▁hello"]], [1, VOCAB["▁hello"], VOCAB["<0xF0>"]]])
async def test_no_tokens_score_the_prompt_alone(http, ask, prompt) -> None:
    longer = await complete(http, prompt=prompt, max_tokens=1, echo=True, temperature=0)
    choice = await ask(http, prompt=prompt, max_tokens=0, echo=True, n=2)
    assert choice["finish_reason"] == "length"
    assert choice["text"] == make_tokenizer().decode(
        prompt if isinstance(prompt, list) else make_tokenizer().encode(prompt)
    )
    for name, values in choice["logprobs"].items():
        assert values == longer["logprobs"][name][:-1]


async def test_no_tokens_without_scores(http) -> None:
    body = {"model": "tiny", "prompt": "hello", "max_tokens": 0}
    reply = (await http.post("/v1/completions", json=body)).json()
    assert [choice["text"] for choice in reply["choices"]] == [""]
    assert reply["usage"]["completion_tokens"] == 0
    assert reply["choices"][0]["logprobs"] is None
    assert (await complete(http, prompt="hello", max_tokens=0))["logprobs"]["tokens"] == []
    assert (await complete(http, prompt="hello", max_tokens=0, echo=True, logprobs=None))["text"] == "hello"
    full = await complete(http, prompt=[3] * 512, max_tokens=0, echo=True, logprobs=0)
    assert len(full["logprobs"]["tokens"]) == 512, "a prompt may fill the context when no answer follows"
    refused = await http.post("/v1/completions", json=body | {"prompt": [3] * 512, "max_tokens": 1})
    assert refused.status_code == 400


async def test_a_harness_reads_likelihoods_as_it_does(http) -> None:
    """lm-evaluation-harness's own reading of an echoed prompt, for a continuation after 3 tokens."""
    prompt = tiny.random_prompt(9, 4)
    body = {"prompt": [prompt], "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    scores = (await complete(http, **body))["logprobs"]
    values, tops = scores["token_logprobs"][3:-1], scores["top_logprobs"][3:-1]
    engine = tiny.make_engine()
    params = SamplingParams(temperature=0.0, max_tokens=0, prompt_logprobs=1)
    (update,) = tiny.run(engine, {"a": prompt}, params)["a"].updates
    want = [entry[token] for entry, token in zip(update.prompt_logprobs[3:], prompt[3:], strict=True)]
    assert sum(values) == pytest.approx(sum(one.logprob for one in want))
    greedy = [value == max(top.values()) for value, top in zip(values, tops, strict=True)]
    assert greedy == [one.rank == 1 for one in want]


@pytest.mark.parametrize("asked", [{}, {"logprobs": None}, {"logprobs": False}, {"logprobs": True}])
async def test_no_alternatives_may_be_asked_for(http, asked) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1, "top_logprobs": 0}
    reply = await http.post("/v1/chat/completions", json=body | asked)
    assert reply.status_code == 200
    scores = reply.json()["choices"][0]["logprobs"]
    assert scores["content"][0]["top_logprobs"] == [] if asked.get("logprobs") else scores is None
