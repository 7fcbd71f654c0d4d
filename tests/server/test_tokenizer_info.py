"""``/tokenizer_info``: who reads it as a tokenizer_config.json has the server's tokens and prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from kvloom.config import ServerConfig
from kvloom.server.app import create_app
from trained_tokenizer import trained_backend, trained_tokenizer

from .conftest import Engines
from .echo_engine import EchoEngine

TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %}{{ turn.role }}: {{ turn.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
TURNS = [{"role": "user", "content": "over the fox"}, {"role": "assistant", "content": "jumps"}]


def client(engine: EchoEngine, config: ServerConfig | None = None) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(create_app(engine, config)), base_url="http://kvloom")


async def told_by(engine: EchoEngine) -> dict[str, Any]:
    async with client(engine) as http:
        reply = await http.get("/tokenizer_info")
    assert reply.status_code == 200, reply.text
    told: dict[str, Any] = reply.json()
    return told


async def test_transformers_reads_the_same_tokenizer_of_it(new_engine: Engines, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    backend = trained_backend()
    backend.add_special_tokens(["<begin>"])
    special = {"bos_token": "<begin>", "eos_token": "<end>"}
    ours = trained_tokenizer(backend, special_tokens=special, chat_template=TEMPLATE)
    told = await told_by(new_engine(tokenizer=ours, vocab_size=512))
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    assert (theirs.bos_token, theirs.eos_token, theirs.model_max_length) == ("<begin>", "<end>", 64)
    assert theirs.get_added_vocab() == {"<end>": 0, "<begin>": backend.token_to_id("<begin>")}
    prompt = theirs.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True)
    assert prompt == ours.chat_prompt(TURNS)
    assert theirs.encode(prompt, add_special_tokens=False) == ours.encode(prompt, False)


async def test_a_model_without_special_tokens_and_template_says_so(new_engine: Engines) -> None:
    told = await told_by(new_engine(tokenizer=trained_tokenizer(), vocab_size=512))
    assert told["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert [told[name] for name in ("chat_template", "bos_token", "eos_token", "pad_token")] == [None] * 4
    assert told["add_bos_token"] is False
    assert told["added_tokens_decoder"]["0"]["content"] == "<end>"


async def test_it_wants_the_key(engine: EchoEngine) -> None:
    async with client(engine, ServerConfig(api_key="secret-key")) as http:
        assert (await http.get("/tokenizer_info")).status_code == 401
        assert (await http.get("/tokenizer_info", headers={"x-api-key": "secret-key"})).json()["bos_token"] == "<s>"
