"""What the documents tell readers to type works: Python runs, commands parse, requests are answered."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.main import get_command

from bench.drive import ModelEngines
from kvloom.cli.app import app
from kvloom.cli.settings import read_settings
from kvloom.cli.vllm_flags import in_our_words
from kvloom.config import CacheConfig, EngineConfig, ServerConfig, TierConfig
from kvloom.engine.async_engine import AsyncEngine
from listening import listening_in_thread
from snippets import INDENTED, LANGUAGES, PAGES, Snippet, of_page, snippets

SERVER = "http://127.0.0.1:8000"
"""As the documents write it."""

NOT_RUN = [("docs/http-api.md", "the form of something"), ("docs/kvchunk.md", "the form of something")]
"""All of them, so that none is added unseen."""

ALL = snippets()
RUN = [each for each in ALL if each.not_run is None]


def names(some: list[Snippet]) -> list[str]:
    return [each.name for each in some]


@pytest.fixture(scope="module")
def url(smollm2: ModelEngines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server in a thread, with a disk tier and sessions."""
    place = tmp_path_factory.mktemp("served")
    config = ServerConfig(port=0, sessions_dir=str(place / "sessions"))
    tiers = TierConfig(cache_dir=str(place / "kv"))
    engine = AsyncEngine(EngineConfig(model="smollm2-135m-instruct", cache=CacheConfig(kv_bytes="256MiB"), tiers=tiers))
    with listening_in_thread(engine, config) as found:
        yield found


def test_what_is_not_run_says_why() -> None:
    assert [(each.page, each.not_run) for each in ALL if each.not_run is not None] == NOT_RUN
    assert {each.language for each in ALL} <= LANGUAGES


PYTHON = [each for each in RUN if each.language == "python"]


@pytest.mark.parametrize("page", sorted({each.page for each in PYTHON}))
def test_python_runs(page: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page, one after another, in one namespace."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "snippet"}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for each in (each for each in PYTHON if each.page == page):
            for code in (each.given, each.text):
                source = "\n" * (each.line if code is each.text else 0) + code.replace(SERVER, url)
                exec(compile(source, each.page, "exec"), names)
    assert printed.getvalue().strip()


COMMANDS = [(each, words) for each in RUN for words in each.commands()]
KVLOOM = [(each.name, words[1:]) for each, words in COMMANDS if words[0] == "kvloom"]


def parse(words: list[str]) -> None:
    """As the command does, without running it. Raises what it would report."""
    if words[0] == "serve":
        words = ["serve", *in_our_words(words[1:])]
    command: Any = get_command(app)
    context = command.make_context("kvloom", list(words))
    while hasattr(command, "resolve_command"):
        name, command, words = command.resolve_command(context, words)
        context = command.make_context(name, list(words), parent=context)


@pytest.mark.parametrize(("name", "words"), KVLOOM, ids=[f"{name}: {' '.join(words[:2])}" for name, words in KVLOOM])
def test_commands_parse(name: str, words: list[str]) -> None:
    if words != ["--install-completion"]:
        parse(words)


@pytest.mark.parametrize(
    "words", [["serve", "x", "--no-such-flag"], ["dance"], ["chunks", "gc", "x"], ["serve", "x", "--port", "y"]]
)
def test_a_command_that_is_none_is_seen(words: list[str]) -> None:
    with pytest.raises(Exception, match=r"No such|Missing|valid integer"):
        parse(words)


CURL = [(each, words) for each, words in COMMANDS if words[0] == "curl"]


@pytest.mark.parametrize(("snippet", "words"), CURL, ids=[f"{each.name}-{n}" for n, (each, _) in enumerate(CURL)])
def test_curl_is_answered(snippet: Snippet, words: list[str], url: str) -> None:
    asked = curl(words)
    assert asked["url"].startswith(SERVER), words
    reply = httpx2.request(
        asked["method"], asked["url"].replace(SERVER, url), headers=asked["headers"], content=asked["data"], timeout=120
    )
    assert reply.status_code < 400, reply.text


def curl(words: list[str]) -> dict[str, Any]:
    """What these words ask for. Those that only concern what is shown mean nothing here."""
    found: dict[str, Any] = {"method": None, "headers": {}, "data": None}
    rest = iter(words[1:])
    for word in rest:
        if word in ("-H", "--header"):
            name, _, value = next(rest).partition(": ")
            found["headers"][name] = value
        elif word in ("-d", "--data", "--json"):
            found["data"] = next(rest)
            found["headers"].setdefault("Content-Type", "application/json")
        elif word in ("-X", "--request"):
            found["method"] = next(rest)
        elif not word.startswith("-"):
            found["url"] = word
        else:
            assert word in ("-s", "-N", "-sN", "--no-buffer", "--silent"), word
    found["method"] = found["method"] or ("POST" if found["data"] else "GET")
    return found


JSON = [each for each in RUN if each.language == "json" or (each.language == INDENTED and each.text.startswith('{"'))]


@pytest.mark.parametrize("snippet", JSON, ids=names(JSON))
def test_bodies_are_taken(snippet: Snippet, url: str) -> None:
    """Each is sent to the endpoint that it is for, with what it leaves out."""
    decoder, text = json.JSONDecoder(), re.sub(r": \{\.\.\.\}", ': {"type": "object"}', snippet.text).strip()
    while text:
        body, end = decoder.raw_decode(text)
        text = text[end:].strip()
        path, whole = request_of(body)
        reply = httpx2.post(f"{url}{path}", json=whole, timeout=120)
        assert reply.status_code == 200, reply.text


def request_of(body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    message = {"role": "user", "content": "Who hunts at night? " * 12}
    anthropic = {"model": "smollm2-135m-instruct", "max_tokens": 1}
    if "cache_control" in body:
        return "/v1/messages", anthropic | {"messages": [{"role": "user", "content": [body]}]}
    if "context_management" in body:
        return "/v1/messages", anthropic | {"messages": [message]} | body
    if "prompt" in body:
        return "/v1/completions", {"max_tokens": 1} | body
    if "input" in body:
        return "/v1/responses", {"max_output_tokens": 1} | body
    return "/v1/chat/completions", {"max_tokens": 1, "messages": [message]} | body


TOML = [each for each in RUN if each.language == "toml"]


@pytest.mark.parametrize("snippet", TOML, ids=names(TOML))
def test_settings_are_settings(snippet: Snippet, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(snippet.text)
    assert read_settings(tmp_path / "x.toml")


def test_snippets_are_found() -> None:
    assert len(PAGES) > 12
    assert len(PYTHON) > 6
    assert len(KVLOOM) > 40
    assert len(CURL) > 6
    assert len(JSON) > 6
    page = "text\n\n    kvloom run a | b x     says\n\n<!-- given: a = 1\nb = 2 -->\n<!-- not run: no -->\n"
    page += "```python\nc = a\n```\n"
    first, second = of_page("x.md", page)
    assert (first.language, first.line) == (INDENTED, 3)
    assert list(first.commands()) == [["kvloom", "run", "a", "x"], ["kvloom", "run", "b", "x"]]
    assert (second.given, second.not_run, second.text, second.line) == ("a = 1\nb = 2", "no", "c = a\n", 8)
