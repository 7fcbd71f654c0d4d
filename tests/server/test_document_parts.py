"""Documents over HTTP: in every dialect, fused beside exact requests, and never to an exact request's harm."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

import tiny
import tiny_decoder
from kvloom.config import ServerConfig
from kvloom.engine.async_engine import AsyncEngine
from kvloom.engine.cache_params import CacheParams
from kvloom.model.text.messages import normal_messages
from kvloom.policy.fusion import found_by_content, fusion_of
from kvloom.server.app import create_app

from .echo_engine import EchoEngine

OWL = "Owls hunt at night, by what they hear."
FOX = "A fox is a hunter, too, but of the day."
ASK = "Who hunts at night?"
A3 = {"selector": "a3", "ratio": 0.2}
FUSED = {"kvloom": {"cache": {"fusion": A3}}}
CHAT, RESPONSES, MESSAGES, TEXT = "/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/completions"


class Characters(tiny.CharTokenizer):
    """A token per character, and a template that reads texts."""

    def chat_prompt(self, messages: list[dict[str, Any]], *rest: Any, **more: Any) -> str:
        turns = [f"{turn['role']}: {turn['content']}" for turn in normal_messages(messages, "")]
        return " ".join([*turns, "assistant:"])

    def encode(self, text: str, add_special_tokens: bool | None = True, max_tokens: int | None = None) -> list[int]:
        return super().encode(text.replace("\n", " "))


def body(path: str, *documents: str, ask: str = ASK) -> dict[str, Any]:
    """The same question about the same documents."""
    said: dict[str, Any] = {"model": "tiny", "temperature": 0}
    parts = [{"type": "document", "text": text} for text in documents]
    match path:
        case "/v1/chat/completions":
            turn = {"role": "user", "content": [*parts, {"type": "text", "text": ask}]}
            return said | {"messages": [turn], "max_tokens": 4, "ignore_eos": True}
        case "/v1/responses":
            turn = {"role": "user", "content": [*parts, {"type": "input_text", "text": ask}]}
            return said | {"input": [turn], "max_output_tokens": 4}
        case _:
            source = [{"type": "document", "source": {"type": "text", "data": text}} for text in documents]
            turn = {"role": "user", "content": [*source, {"type": "text", "text": ask}]}
            return said | {"messages": [turn], "max_tokens": 4}


def tokens_of(*documents: str, ask: str = ASK) -> list[int]:
    return Characters().encode(" ".join(["user:", *documents, ask, "assistant:"]))


def spans_of(*documents: str) -> tuple[tuple[int, int], ...]:
    spans, at = [], len("user: ")
    for text in documents:
        spans.append((at, at + len(text)))
        at += len(text) + 1
    return tuple(spans)


@asynccontextmanager
async def serving(**given: Any) -> AsyncIterator[tuple[httpx2.AsyncClient, AsyncEngine]]:
    """It fuses whether that is worth it or not."""
    core = tiny.make_engine(model=tiny_decoder.decoder((None, None, None)), tokenizer=Characters())
    core.intake.worth = lambda cache, prompt_tokens: True
    engine = AsyncEngine.over(core, Characters(), "tiny")
    transport = httpx2.ASGITransport(create_app(engine, **given))
    try:
        async with httpx2.AsyncClient(transport=transport, base_url="http://kvloom") as http:
            yield http, engine
            await engine.check()
            assert engine.stats().cache.held_pages == 0
    finally:
        engine.close()


def fused_in(usage: dict[str, Any]) -> dict[str, int]:
    (told,) = usage["kvloom"]["fused"]
    return told


async def post(http: httpx2.AsyncClient, path: str, asked: dict[str, Any]) -> dict[str, Any]:
    reply = await http.post(path, json=asked)
    assert reply.status_code == 200, reply.text
    assert "x-kvloom-ignored" not in reply.headers
    document: dict[str, Any] = reply.json()
    return document


def answer_of(reply: dict[str, Any]) -> str:
    if "choices" in reply:
        return str(reply["choices"][0]["message"]["content"])
    blocks = reply["output"][0]["content"] if "output" in reply else reply["content"]
    return str(blocks[0]["text"]) if blocks else ""


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
async def test_documents_reach_the_engine_as_spans_of_tokens(engine: EchoEngine, path: str) -> None:
    transport = httpx2.ASGITransport(create_app(engine))
    asked = body(path, OWL, FOX) | {"model": "mock"}
    asked.pop("ignore_eos", None)
    async with httpx2.AsyncClient(transport=transport, base_url="http://kvloom") as http:
        await post(http, path, asked)
        await post(http, path, asked | {"kvloom": {"cache": {"fusion": {"selector": "epic", "tokens": 2}}}})
    plain, fused = engine.caches
    owl, fox = len(OWL.split()), len(FOX.split())
    assert plain == CacheParams()
    spans = (1, 1 + owl), (1 + owl, 1 + owl + fox)
    assert fused == CacheParams(fusion=fusion_of("epic", tokens=2), documents=spans)
    assert engine.prompts[0] == engine.prompts[1], "the prompt is the same, fused or not"
    assert engine.tokenizer.decode(engine.prompts[0]) == f" <user> {OWL} {FOX} {ASK} <assistant>"


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
async def test_usage_tells_what_was_reused_and_repaired(path: str) -> None:
    documents = len(OWL) + len(FOX)
    async with serving() as (http, _):
        first = fused_in((await post(http, path, body(path, OWL, FOX) | FUSED))["usage"])
        other = (await post(http, path, body(path, FOX, OWL, ask="And by day?") | FUSED))["usage"]
        plain = (await post(http, path, body(path, OWL)))["usage"]
        metrics = (await http.get("/metrics")).text
    again = fused_in(other)
    prompt = len(tokens_of(FOX, OWL, ask="And by day?"))
    assert first["selector"] == "a3:ratio=0.2,check_layer=1"
    assert (first["document_tokens"], first["reused_tokens"]) == (documents, 0)
    assert (again["document_tokens"], again["reused_tokens"], again["prefix_cached_tokens"]) == (
        documents,
        documents,
        6,
    )
    assert again["computed_tokens"] == prompt - documents - 6
    assert again["repaired_tokens"] == int((6 + documents + 1) * 0.2)
    assert "kvloom" not in plain
    cached = {CHAT: ("prompt_tokens_details", "cached_tokens"), RESPONSES: ("input_tokens_details", "cached_tokens")}
    found = other["cache_read_input_tokens"] if path == MESSAGES else other[cached[path][0]][cached[path][1]]
    assert found == 6, "what is reused of documents is no prefix"
    labels = '{model_name="tiny",selector="a3"}'
    assert f"kvloom:fused_prompts_total{labels} 2.0" in metrics
    assert f"kvloom:fused_found_tokens_total{labels} {documents}.0" in metrics
    assert f"kvloom:fused_computed_tokens_total{labels} {documents}.0" in metrics
    assert f"kvloom:fused_repaired_tokens_total{labels} {first['repaired_tokens'] * 2}.0" in metrics


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
async def test_what_is_left_of_documents_is_read_by_who_asks_for_the_same(path: str) -> None:
    asked = {"kvloom": {"cache": {"fusion": A3, "compression": {"method": "knorm", "ratio": 0.5}}}}
    async with serving() as (http, _):
        first = await post(http, path, body(path, OWL, FOX) | asked)
        again = await post(http, path, body(path, OWL, FOX) | asked)
        whole = await post(http, path, body(path, OWL, FOX) | FUSED)
    assert answer_of(again) == answer_of(first)
    assert fused_in(again["usage"])["compression"] == "knorm:ratio=0.5"
    assert fused_in(again["usage"])["reused_tokens"] == len(OWL) + len(FOX)
    assert fused_in(whole["usage"])["compression"] is None


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
async def test_exact_requests_beside_fused_ones_are_exact(path: str) -> None:
    """Before, beside and after them; and no exact look-up finds what a fused request computed."""
    exact = body(path, OWL, FOX)
    async with serving() as (http, _):
        expected = answer_of(await post(http, path, exact | {"kvloom": {"cache": {"write": False}}}))
        mixed = [exact | FUSED if n % 2 else exact | {"kvloom": {"cache": {"read": False}}} for n in range(8)]
        replies = await asyncio.gather(*(post(http, path, each) for each in mixed))
        assert [answer_of(reply) for reply in replies[::2]] == [expected] * 4
        assert len({answer_of(reply) for reply in replies[1::2]}) == 1
    async with serving() as (http, engine):
        await post(http, path, exact | FUSED)
        counted = engine.stats().cache.hit_tokens
        assert answer_of(await post(http, path, exact)) == expected
        assert engine.stats().cache.hit_tokens - counted == 6


async def test_all_of_it_repaired_is_the_exact_answer() -> None:
    everything = {"kvloom": {"cache": {"fusion": {"selector": "recompute"}}}}
    async with serving() as (http, _):
        expected = answer_of(await post(http, CHAT, body(CHAT, OWL, FOX)))
        assert answer_of(await post(http, CHAT, body(CHAT, OWL, FOX) | everything)) == expected


async def test_a_stream_says_the_same() -> None:
    async with serving() as (http, _):
        openai = AsyncOpenAI(api_key="none", base_url="http://kvloom/v1", http_client=http, max_retries=0)
        claude = AsyncAnthropic(api_key="none", base_url="http://kvloom", http_client=http, max_retries=0)
        await post(http, CHAT, body(CHAT, OWL, FOX) | FUSED)
        asked = body(CHAT, OWL, FOX)
        extra = {"ignore_eos": asked.pop("ignore_eos")} | FUSED
        usage = {"include_usage": True}
        stream = await openai.chat.completions.create(**asked, stream=True, stream_options=usage, extra_body=extra)
        last = [chunk async for chunk in stream][-1]
        assert fused_in(last.usage.model_dump())["reused_tokens"] == len(OWL) + len(FOX)  # type: ignore[union-attr]
        asked = body(MESSAGES, OWL, FOX)
        extra = {"temperature": asked.pop("temperature")} | FUSED
        async with claude.messages.stream(**asked, extra_body=extra) as events:
            final = await events.get_final_message()
        assert fused_in(final.usage.model_dump())["reused_tokens"] == len(OWL) + len(FOX)


async def test_tokenize_and_count_tokens_agree_with_the_prompt() -> None:
    async with serving() as (http, _):
        usage = (await post(http, CHAT, body(CHAT, OWL, FOX)))["usage"]
        tokenized = await post(http, "/tokenize", {"messages": body(CHAT, OWL, FOX)["messages"]})
        counted = await post(
            http, "/v1/messages/count_tokens", {"messages": body(MESSAGES, OWL, FOX)["messages"], "model": "tiny"}
        )
    assert tokenized["tokens"] == tokens_of(OWL, FOX)
    assert usage["prompt_tokens"] == counted["input_tokens"] == tokenized["count"]


async def test_blocks_of_anthropics_documents() -> None:
    blocks = {"type": "content", "content": [{"type": "text", "text": "Owls"}, {"type": "text", "text": "hunt."}]}
    turn = {
        "role": "user",
        "content": [
            {"type": "document", "source": blocks, "title": "On owls", "citations": {"enabled": False}},
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": FOX}, "context": "old"},
            {"type": "text", "text": ASK},
        ],
    }
    asked = {"model": "tiny", "max_tokens": 1, "messages": [turn]} | FUSED
    async with serving() as (http, _):
        told = fused_in((await post(http, MESSAGES, asked))["usage"])
    assert told["document_tokens"] == len("On owls Owls hunt.") + len(f"old {FOX}")


async def test_a_breakpoint_behind_a_document_reaches_to_its_end(engine: EchoEngine) -> None:
    source = {"type": "text", "data": OWL}
    block = {"type": "document", "source": source, "cache_control": {"type": "ephemeral"}}
    turn = {"role": "user", "content": [block, {"type": "text", "text": ASK}]}
    transport = httpx2.ASGITransport(create_app(engine))
    async with httpx2.AsyncClient(transport=transport, base_url="http://kvloom") as http:
        await post(http, MESSAGES, {"model": "mock", "max_tokens": 1, "messages": [turn]})
    (cache,) = engine.caches
    assert [mark.tokens for mark in cache.marks] == [1 + len(OWL.split())]


async def test_a_response_that_is_continued_has_its_documents_still() -> None:
    async with serving() as (http, _):
        first = await post(http, RESPONSES, body(RESPONSES, OWL, FOX) | FUSED)
        more = {"model": "tiny", "input": "And?", "previous_response_id": first["id"], "max_output_tokens": 2}
        told = fused_in((await post(http, RESPONSES, more | FUSED))["usage"])
        listed = await http.get(f"/v1/responses/{first['id']}/input_items")
    assert told["reused_tokens"] == told["document_tokens"] == len(OWL) + len(FOX)
    assert listed.json()["data"][0]["content"][0] == {"type": "document", "text": OWL}


async def test_spans_of_tokens_in_completions() -> None:
    prompt, documents = tokens_of(OWL, FOX), [list(span) for span in spans_of(OWL, FOX)]
    cache = {"fusion": A3, "documents": documents}
    asked = {"model": "tiny", "prompt": prompt, "max_tokens": 4, "temperature": 0, "kvloom": {"cache": cache}}
    async with serving() as (http, _):
        chat = await post(http, CHAT, body(CHAT, OWL, FOX) | FUSED)
        text = await post(http, TEXT, asked | {"ignore_eos": True})
    assert fused_in(text["usage"])["reused_tokens"] == len(OWL) + len(FOX)
    assert text["choices"][0]["text"] == answer_of(chat)


async def test_passages_are_found_by_content() -> None:
    passages = ["".join(map(chr, (32 + t for t in tiny.random_prompt(150, seed)))) for seed in (1, 2)]
    by_content = {"kvloom": {"cache": {"fusion": A3, "documents": "by content"}}}

    def asked(*order: str) -> dict[str, Any]:
        turn = {"role": "user", "content": "".join(order) + ASK}
        return {"model": "tiny", "messages": [turn], "max_tokens": 2, "temperature": 0} | by_content

    async with serving() as (http, _):
        first = fused_in((await post(http, CHAT, asked(*passages)))["usage"])
        moved = fused_in((await post(http, CHAT, asked(*reversed(passages))))["usage"])
        short = await post(http, CHAT, asked("Owls."))
    tokens = Characters().encode(f"user: {''.join(passages)}{ASK} assistant:")
    assert first["document_tokens"] == sum(map(len, found_by_content(tokens))) > 0
    assert first["reused_tokens"] == 0
    assert moved["reused_tokens"] > 50
    assert "kvloom" not in short["usage"]


@pytest.mark.parametrize(
    ("asked", "param", "says"),
    [
        ({"fusion": "a3"}, "kvloom.cache.fusion", "an object"),
        ({"fusion": {}}, "kvloom.cache.fusion.selector", "required"),
        ({"fusion": {"selector": "best"}}, "kvloom.cache.fusion.selector", "unknown selector `best`"),
        ({"fusion": {"selector": "a3+a3"}}, "kvloom.cache.fusion.selector", "twice"),
        ({"fusion": A3 | {"ratio": 1.5}}, "kvloom.cache.fusion.ratio", "from 0 to 1"),
        ({"fusion": A3 | {"ratio": "x"}}, "kvloom.cache.fusion.ratio", "number"),
        ({"fusion": A3 | {"name": "x"}}, "kvloom.cache.fusion.name", "no parameter `name`"),
        ({"fusion": A3 | {"tokens": 3}}, "kvloom.cache.fusion.tokens", "no parameter `tokens`"),
        ({"fusion": A3 | {"kernel": "x"}}, "kvloom.cache.fusion.kernel", "an odd number"),
        ({"fusion": A3 | {"check_layer": 2}}, "kvloom.cache.fusion.check_layer", "must leave a layer of 3"),
        ({"fusion": A3 | {"check_layer": 0.5}}, "kvloom.cache.fusion.check_layer", "from 0 on"),
        ({"fusion": A3, "documents": "somewhere"}, "kvloom.cache.documents", "`by content`"),
        ({"fusion": A3, "documents": [[1]]}, "kvloom.cache.documents", "spans"),
        ({"fusion": A3, "documents": [[5, 2]]}, "kvloom.cache.documents", "one after another"),
        ({"fusion": A3, "documents": "by content"}, "kvloom.cache.fusion", "other ones"),
        ({"fusion": A3, "documents": [[1, 9]]}, "kvloom.cache.fusion", "other ones"),
        ({"documents": "marked"}, "kvloom.cache.documents", "documents a fusion"),
        ({"fusion": A3, "compression": {"method": "snapkv", "ratio": 0.5}}, "kvloom.cache.compression", "looks on"),
        ({"fusion": A3, "compression": {"method": "knorm", "budget": 90000}}, "kvloom.cache.compression", "one by one"),
        ({"fusion": A3, "lossy": True}, "kvloom.cache.lossy", "is exact"),
        ({"fusion": A3, "kept_as": "chunk"}, "kvloom.cache.fusion", "over several"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
async def test_what_cannot_be_asked(path: str, asked: dict[str, Any], param: str, says: str) -> None:
    async with serving() as (http, _):
        reply = await http.post(path, json=body(path, OWL, FOX) | {"kvloom": {"cache": asked}})
    error = reply.json()["error"]
    assert reply.status_code == 400
    assert says in error["message"]
    assert error["param"] == param


@pytest.mark.parametrize(
    ("path", "asked", "says"),
    [
        (CHAT, {"messages": [{"role": "user", "content": ASK}]}, "the prompt marks none"),
        (TEXT, {"prompt": ASK}, "the prompt marks none"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "needs a string `text`"),
        (
            CHAT,
            {"messages": [{"role": "assistant", "content": [{"type": "document", "text": OWL}]}]},
            "a document in a message of role 'assistant'",
        ),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "document", "text": OWL}] * 257}]},
            "at most 256",
        ),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "document", "text": ""}]}]}, "is empty"),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "document", "text": "x" * 600}]}]},
            "maximum context length",
        ),
        (
            MESSAGES,
            {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "url"}}]}]},
            "only text, content and file are",
        ),
        (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "refusal and document are"),
    ],
)
async def test_documents_that_cannot_be_fused(path: str, asked: dict[str, Any], says: str) -> None:
    limit = {"max_output_tokens": 2} if path == RESPONSES else {"max_tokens": 2}
    async with serving() as (http, _):
        reply = await http.post(path, json={"model": "tiny"} | limit | asked | FUSED)
    assert reply.status_code == 400
    assert says in reply.json()["error"]["message"]


async def test_a_model_with_windows_fuses_too() -> None:
    core = tiny.make_engine(model=tiny_decoder.decoder((None, 24, None)), tokenizer=Characters())
    core.intake.worth = lambda cache, prompt_tokens: True
    engine = AsyncEngine.over(core, Characters(), "tiny")
    transport = httpx2.ASGITransport(create_app(engine))
    async with httpx2.AsyncClient(transport=transport, base_url="http://kvloom") as http:
        reply = await http.post(CHAT, json=body(CHAT, OWL) | FUSED)
    engine.close()
    assert reply.status_code == 200
    assert reply.json()["usage"]["kvloom"]["fused"][0]["document_tokens"] == len(OWL)


async def test_a_default_compression_is_not_for_who_asks_for_a_fusion() -> None:
    async with serving(config=ServerConfig(compression="knorm:ratio=0.5")) as (http, _):
        usage = (await post(http, CHAT, body(CHAT, OWL, FOX) | FUSED))["usage"]
        other = (await post(http, CHAT, body(CHAT, OWL, FOX)))["usage"]
    assert set(usage["kvloom"]) == {"fused"}
    assert set(other["kvloom"]) == {"compressed"}


async def test_documents_are_apart_by_salt() -> None:
    async with serving() as (http, _):
        await post(http, CHAT, body(CHAT, OWL, FOX) | FUSED | {"cache_salt": "mine"})
        theirs = fused_in((await post(http, CHAT, body(CHAT, OWL, FOX) | FUSED))["usage"])
        mine = fused_in((await post(http, CHAT, body(CHAT, FOX, OWL) | FUSED | {"cache_salt": "mine"}))["usage"])
    assert theirs["reused_tokens"] == 0
    assert mine["reused_tokens"] == len(OWL) + len(FOX)


def by_name(path: str, name: str, text: str | None = None, ask: str = ASK) -> dict[str, Any]:
    """A question about one document, which is named, and sent too if there is a text."""
    asked = body(path, text or "", ask=ask)
    turn = asked["input" if path == RESPONSES else "messages"][0]
    part: dict[str, Any] = {"type": "document", "id": name} | ({} if text is None else {"text": text})
    if path == MESSAGES:
        source = {"type": "file", "file_id": name} if text is None else {"type": "text", "data": text}
        part = {"type": "document", "source": source} | ({} if text is None else {"id": name})
    turn["content"][0] = part
    return asked


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
async def test_a_document_is_named_by_its_id(path: str) -> None:
    async with serving() as (http, _):
        sent = await post(http, path, by_name(path, "owl", OWL) | FUSED)
        for other in (CHAT, RESPONSES, MESSAGES):
            named = await post(http, other, by_name(other, "owl", ask="By day?") | FUSED)
            assert fused_in(named["usage"])["reused_tokens"] == len(OWL)
        again = await post(http, path, by_name(path, "owl") | FUSED)
        assert answer_of(again) == answer_of(sent)
        unknown = await http.post(path, json=by_name(path, "fox") | FUSED)
        tokenized = await post(http, "/tokenize", {"messages": by_name(CHAT, "owl")["messages"]})
    assert unknown.status_code == 400
    assert "no document with the id `fox`" in unknown.json()["error"]["message"]
    assert tokenized["tokens"] == tokens_of(OWL)


async def test_a_title_is_kept_with_the_text() -> None:
    asked = by_name(CHAT, "owl", OWL)
    asked["messages"][0]["content"][0]["title"] = "On owls"
    async with serving() as (http, _):
        await post(http, CHAT, asked)
        tokenized = await post(http, "/tokenize", {"messages": by_name(CHAT, "owl")["messages"]})
    assert tokenized["tokens"] == tokens_of(f"On owls {OWL}")


async def test_a_continued_response_has_the_text_that_its_id_had() -> None:
    async with serving() as (http, _):
        await post(http, CHAT, by_name(CHAT, "owl", OWL))
        first = await post(http, RESPONSES, by_name(RESPONSES, "owl") | FUSED)
        await post(http, CHAT, by_name(CHAT, "owl", FOX))
        more = {"model": "tiny", "input": "And?", "previous_response_id": first["id"], "max_output_tokens": 2}
        told = fused_in((await post(http, RESPONSES, more | FUSED))["usage"])
        assert (told["document_tokens"], told["reused_tokens"]) == (len(OWL), len(OWL))
        tokenized = await post(http, "/tokenize", {"messages": by_name(CHAT, "owl")["messages"]})
    assert tokenized["tokens"] == tokens_of(FOX), "and the id its newer one"


async def test_ids_are_for_the_key_that_sent_them(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("alice alices-key\nbob bobs-key\n")
    async with serving(config=ServerConfig(api_keys_file=str(keys))) as (http, _):
        status = {}
        for name, key, text in (("a", "alices-key", OWL), ("b", "alices-key", None), ("c", "bobs-key", None)):
            headers = {"Authorization": f"Bearer {key}"}
            status[name] = (await http.post(CHAT, json=by_name(CHAT, "owl", text), headers=headers)).status_code
    assert status == {"a": 200, "b": 200, "c": 400}


@pytest.mark.parametrize("name", [3, "", "x" * 300, "a\nb"])
async def test_ids_that_are_none(name: Any) -> None:
    async with serving() as (http, _):
        reply = await http.post(CHAT, json=by_name(CHAT, name, OWL))
    assert reply.status_code == 400
    assert "1 to 256 printable characters" in reply.json()["error"]["message"]
