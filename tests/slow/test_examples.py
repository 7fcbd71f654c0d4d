"""The examples run as they stand."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from bench.drive import ModelEngines

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


def test_quickstart(smollm2: ModelEngines) -> None:
    lines = run("quickstart.py").splitlines()
    assert "Paris" in lines[0]
    assert lines[2] == "5 of 7 prompt tokens came from the cache"
    assert int(lines[3].split()[0]) > 0


def test_shared_prefix(smollm2: ModelEngines) -> None:
    printed = run("shared_prefix.py")
    reused = [int(line.split()[0]) for line in printed.splitlines() if "prompt tokens reused" in line]
    assert reused[0] == 0
    assert reused[1] > 400
    assert ": new" in printed


def test_retrieval(smollm2: ModelEngines, tmp_path: Path) -> None:
    """The second time nothing is computed: KV lies in a directory."""
    asked = ["--together", "3", "--question", "In which year was the observatory founded?", str(EXAMPLES / "data")]
    asked += ["--cache-dir", str(tmp_path)]
    first, second = run("rag.py", *asked).splitlines(), run("rag.py", *asked).splitlines()
    assert ", 0 of which were computed" not in first[0]
    assert ", 0 of which were computed" in second[0]
    assert "1931" in first[3]
    assert "1931" in second[3]
    for line in (first[5], second[5]):  # on a busy machine steps may say that fusing is not worth it
        told = re.search(r"passages (\d+), of which (\d+) were there and \d+ were repaired", line)
        assert "0 of them in the cache" in line if told is None else told[1] == told[2]


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import demo

    return demo


def test_the_demo_says_what_the_server_said(demo) -> None:
    def refuse(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(400, json={"error": {"message": "too long"}})

    client = httpx2.Client(base_url="http://demo", transport=httpx2.MockTransport(refuse))
    with pytest.raises(demo.DemoError, match=r"400.*too long"):
        demo.ask(client, "?")


def test_the_demo_reads_a_stream(demo) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/cache":
            return httpx2.Response(200, json={"cache": {"held_bytes": 1, "cached_bytes": 9}})
        usage = {"prompt_tokens": 40, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 32}}
        events = [{"choices": [{"delta": {"content": text}}]} for text in ("A", " cat", ".")]
        body = "".join(f"data: {json.dumps(event)}\n\n" for event in [*events, {"choices": [], "usage": usage}])
        return httpx2.Response(200, text=body + "data: [DONE]\n\n")

    client = httpx2.Client(base_url="http://demo", transport=httpx2.MockTransport(answer))
    got = demo.ask(client, "?")
    assert (got.text, got.prompt_tokens, got.cached_tokens, got.kv_bytes) == ("A cat.", 40, 32, 10)


def test_the_demo_asks_about_documents_in_two_orders(demo, capsys: pytest.CaptureFixture[str]) -> None:
    """Fused and not, with what the server says of each."""
    asked = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/cache":
            return httpx2.Response(200, json={"cache": {"held_bytes": 1, "cached_bytes": 9}})
        if request.url.path == "/cache/reset":
            return httpx2.Response(200)
        asked.append(json.loads(request.content))
        usage = {"prompt_tokens": 2000, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 20}}
        if asked[-1]["kvloom"]["cache"]:
            told = {"prefix_cached_tokens": 20, "reused_tokens": 1951, "repaired_tokens": 301}
            usage["kvloom"] = {"fused": [told]}
        events = [{"choices": [{"delta": {"content": "1931"}}]}, {"choices": [], "usage": usage}]
        return httpx2.Response(200, text="".join(f"data: {json.dumps(event)}\n\n" for event in events))

    client = httpx2.Client(base_url="http://demo", transport=httpx2.MockTransport(answer))
    demo.show_documents(demo.ask_documents(client))
    printed = capsys.readouterr().out
    assert "1951" in printed
    assert "301" in printed
    assert [bool(each["kvloom"]["cache"]) for each in asked] == [True, False, True, False]
    texts = [[part["text"] for part in each["messages"][1]["content"][:-1]] for each in asked]
    assert texts[0] == texts[1] == texts[3][::-1]
    assert len(texts[0]) == demo.SECTIONS
