"""``kvloom inspect`` with a context: the map, the numbers, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

import tiny
from kvloom.cli import backend, main
from kvloom.cli.app import app
from kvloom.cli.retention import Retention
from kvloom.cli.say import bytes_text
from kvloom.config import EngineConfig
from kvloom.engine.async_engine import AsyncEngine
from kvloom.engine.build import Loaded
from kvloom.engine.outputs import CompressedContext
from kvloom.errors import ConfigError
from kvloom.server.app import create_app

from .conftest import Backend, manifest

WINDOWS = (None, 24)
"""Two layers of two KV heads; the second sees 23 of what comes before a token."""
TEXT = "A quick brown fox, and a lazy dog that it jumps over."[:41]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Loaded]:
    """Those that were loaded."""
    found: list[Loaded] = []

    def load(config: EngineConfig) -> Loaded:
        engine = tiny.make_engine(WINDOWS)
        found.append(Loaded(manifest(tmp_path), tiny.CharTokenizer(), engine))  # type: ignore[arg-type]
        return found[-1]

    monkeypatch.setattr(backend, "load_engine", load)
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "context.txt"
    path.write_text(TEXT)
    return path


def inspect(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["inspect", "mock", *arguments], input=stdin, catch_exceptions=False)


MAP = """\
method     sink_recent:ratio=0.75,sinks=4,protect_first=4,protect_last=0
context    40 tokens, 4 of them protected
entries    32 of 126 stay: 25.4%
bytes      {kept} of {exact}: {share:.1f}%

layer  heads    entries that stay
    0  22           20 of      80   25.0%
    1  22           12 of      46   26.1%

a KV head keeps . nothing, 0 below 10%, 1 from 10%, ... 9 from 90% of its entries, # all
"""


def test_known_counts_are_drawn(loaded: list[Loaded], file: Path) -> None:
    """Of 40 entries 30 go; of 23 in the window, 17. There is no colour where there is no terminal."""
    asked = ("--compression", "sink_recent:ratio=0.75,protect_first=4", "--prompt-file")
    result = inspect(*asked, str(file))
    facts = json.loads(inspect(*asked, str(file), "--json").stdout)["contexts"][0]
    layout = loaded[0].engine.layout
    assert facts["bytes"]["exact"] == layout.dense_bytes(40)
    sizes = {name: bytes_text(size) for name, size in facts["bytes"].items()}
    assert result.stdout == MAP.format(**sizes, share=100 * facts["bytes"]["kept"] / facts["bytes"]["exact"])
    assert inspect(*asked, "-", stdin=TEXT).stdout == result.stdout


def test_the_numbers(loaded: list[Loaded], file: Path) -> None:
    found = json.loads(inspect("--compression", "random:ratio=0.5", "--prompt-file", str(file), "--json").stdout)
    assert found["model"] == "mock"
    (context,) = found["contexts"]
    assert context["layers"] == [
        {"layer": 0, "exact": 40, "kept": [20, 20]},
        {"layer": 1, "exact": 23, "kept": [11, 11]},
    ]
    assert context["entries"] == {"exact": 126, "kept": 62}
    assert (context["method"], context["ratio"], context["tokens"], context["protected"]) == ("random", 0.5, 40, 0)
    assert 0 < context["bytes"]["kept"] < context["bytes"]["exact"] * 1.2


@pytest.mark.parametrize(("words", "heads"), [("keep_all", "##"), ("keep_none", "..")])
def test_all_and_nothing(loaded: list[Loaded], file: Path, words: str, heads: str) -> None:
    lines = inspect("--compression", words, "--prompt-file", str(file)).stdout.splitlines()
    assert [line.split()[1] for line in lines if line[:5].strip().isdecimal()] == [heads, heads]


def test_a_text_within_a_budget(
    loaded: list[Loaded], capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path
) -> None:
    """One that has room is told to; one that memory has no room for is drawn as it was compressed for the last time."""
    said = _fails(capsys, "--compression", "knorm:budget=10000000", "--prompt-file", str(file))
    assert "stays exact: it has room in 10000000 bytes" in said
    budget, long = loaded[0].engine.layout.peak_bytes(160), tmp_path / "long"
    long.write_text(TEXT * (300 // len(TEXT) + 1))
    asked = ("--compression", f"knorm:budget={budget}", "--prompt-file", str(long), "--json")
    (context,) = json.loads(inspect(*asked).stdout)["contexts"]
    assert (context["ratio"], context["budget"]) == (None, budget)
    assert context["times"] > 1
    assert context["bytes"]["kept"] < budget < context["bytes"]["exact"]


def test_a_terminal_has_colours(loaded: list[Loaded]) -> None:
    context = CompressedContext("knorm", {}, 0.5, 40, 0, {0: (40, 0), 1: (3, 12)}, 4096)
    lines = list(Retention.of(context, tiny.make_engine(WINDOWS).layout).lines())
    console = Console(force_terminal=True, color_system="standard", width=200)
    with console.capture() as shown:
        console.print(lines[6])
    assert "\x1b[1;31m#\x1b[0m" in shown.get()
    assert lines[6].plain == "    0  #.           40 of      80   50.0%"
    assert lines[7].plain == "    1  15           15 of      46   32.6%"


async def _answer(prompts: list[list[int]]) -> dict[str, Any]:
    engine = AsyncEngine.over(tiny.make_engine(WINDOWS), tiny.CharTokenizer(), "tiny")
    try:
        transport = httpx2.ASGITransport(create_app(engine))
        async with httpx2.AsyncClient(transport=transport, base_url="http://kvloom") as http:
            body = {"model": "tiny", "prompt": prompts, "max_tokens": 1}
            cache = {"compression": {"method": "random", "ratio": 0.5}, "compress_after": 40}
            reply = await http.post("/v1/completions", json=body | {"kvloom": {"cache": cache}})
            found: dict[str, Any] = reply.json()
            return found
    finally:
        engine.close()


async def test_a_saved_answer_is_drawn_alike(loaded: list[Loaded], file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the answer or its usage; a map for every prompt; and no weights are loaded."""
    answer = await _answer([tiny.random_prompt(41, 1), tiny.random_prompt(50, 2)])
    here = inspect("--compression", "random:ratio=0.5", "--prompt-file", str(file)).stdout
    monkeypatch.setattr("kvloom.cli.inspect_context._layout", lambda model, settings: loaded[0].engine.layout)
    loaded_before = len(loaded)
    for shown in (answer, answer["usage"]):
        file.write_text(json.dumps(shown))
        drawn = inspect("--usage", str(file)).stdout
        assert drawn == f"{here}\n{here}"
    assert inspect("--usage", "-", stdin=json.dumps(answer)).stdout == drawn
    assert len(json.loads(inspect("--usage", str(file), "--json").stdout)["contexts"]) == 2
    assert len(loaded) == loaded_before


def _context(**changes: Any) -> dict[str, Any]:
    kept = [{"layer": 0, "entries": [1, 1]}, {"layer": 1, "entries": [1, 1]}]
    plain = {"method": "knorm", "params": {}, "ratio": 0.5, "tokens": 40, "protected": 0, "bytes": 9, "kept": kept}
    return {"usage": {"kvloom": {"compressed": [plain | changes]}}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("no JSON", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1]", "says nothing of compressed contexts"),
        ("{}", "says nothing of compressed contexts"),
        ('{"usage": null}', "says nothing of compressed contexts"),
        ('{"usage": {"kvloom": {"compressed": []}}}', "says nothing of compressed contexts"),
        (json.dumps(_context(tokens="x")), "says nothing of compressed contexts"),
        (json.dumps(_context(tokens=1e999)), "says nothing of compressed contexts"),
        (json.dumps(_context()), "that is no context of this model"),
        (json.dumps(_context(kept=[])), "that is no context of this model"),
    ],
)
def test_answers_that_cannot_be_drawn(
    fake: Backend, capsys: pytest.CaptureFixture[str], file: Path, text: str, says: str
) -> None:
    """The model has three layers."""
    file.write_text(text)
    assert says in _fails(capsys, "--usage", str(file))


def test_more_than_there_was_is_refused() -> None:
    context = CompressedContext("knorm", {}, 0.5, 40, 0, {0: (40, 0), 1: (24, 1)}, 4096)
    with pytest.raises(ConfigError, match="that is no context of this model"):
        Retention.of(context, tiny.make_engine(WINDOWS).layout)


@pytest.mark.parametrize(
    ("arguments", "says", "loads"),
    [
        (["--compression", "knorm:ratio=0.5"], "a context is a text, and what is done to it", 0),
        (["--prompt-file", "FILE"], "a context is a text, and what is done to it", 0),
        (["--prompt-file", "FILE", "--usage", "FILE"], "--usage is about an answer", 0),
        (["--prompt-file", "FILE", "--compression", "best:ratio=0.5"], "unknown method `best`", 0),
        (["--prompt-file", "FILE", "--compression", "knorm"], "needs a ratio", 0),
        (["--prompt-file", "FILE", "--compression", "exact"], "there is nothing to draw", 0),
        (["--prompt-file", "FILE.no", "--compression", "knorm:ratio=0.5"], "cannot be read: No such file", 0),
        (["--usage", "FILE.no"], "cannot be read: No such file", 0),
        (["--prompt-file", "FILE", "--compression", "kvzap:ratio=0.5"], "no predictor of KVzip's scores ships", 1),
        (["--prompt-file", "FILE", "--compression", "knorm:ratio=0.9,protect=0:30"], "are protected, and only", 1),
    ],
)
def test_what_is_refused(
    fake: Backend,
    loaded: list[Loaded],
    capsys: pytest.CaptureFixture[str],
    file: Path,
    arguments: list[str],
    says: str,
    loads: int,
) -> None:
    assert says in _fails(capsys, *(each.replace("FILE", str(file)) for each in arguments))
    assert len(loaded) == loads


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "has no text"),
        (b" \n", "has no text"),
        (b"\xff", "is not UTF-8 text, at byte 0"),
        (b"x", "a prompt of 1 tokens has no context"),
        (b"x" * 513, "maximum context length is 512 tokens"),
    ],
)
def test_texts_that_are_none(
    loaded: list[Loaded], capsys: pytest.CaptureFixture[str], file: Path, raw: bytes, says: str
) -> None:
    file.write_bytes(raw)
    assert says in _fails(capsys, "--compression", "knorm:ratio=0.5", "--prompt-file", str(file))


def _fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["inspect", "mock", *arguments])
    said = capsys.readouterr()
    assert end.value.code == 2, said.err
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert "Traceback" not in said.err
    return said.err
