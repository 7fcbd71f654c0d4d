"""``kvloom cache contexts | save | restore`` and ``kvloom inspect URL`` against a server in a thread."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from kvloom.cli import main
from kvloom.config import ServerConfig
from listening import listening_in_thread
from tests.server.echo_engine import EchoEngine


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    config, engine = ServerConfig(port=0, sessions_dir=str(tmp_path)), EchoEngine()
    with listening_in_thread(engine, config) as found:
        yield found


def run(*arguments: str, verb: str = "cache") -> int:
    with pytest.raises(SystemExit) as end:
        main([verb, *arguments])
    return int(end.value.code or 0)


def test_a_text_is_listed_saved_and_restored(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVLOOM_ADMIN_KEY", "any")
    answer = httpx2.post(f"{url}/v1/completions", json={"prompt": "a " * 40, "max_tokens": 2}).raise_for_status()
    assert run("contexts", "--url", url, "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)["contexts"]
    assert run("contexts", "--url", f"{url}/v1") == 0
    assert found["id"] in capsys.readouterr().out
    assert run("contexts", found["id"], "--url", url) == 0
    assert re.search(r"^ +0 to +42  ram ", capsys.readouterr().out, re.MULTILINE)
    assert run("contexts", answer.json()["id"], "--url", url) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["0", "to", "43", "hot", "ram"]
    assert run("save", found["id"], "mine", "--url", url) == 0
    assert capsys.readouterr().out.startswith(f"saved {found['tokens']} tokens as mine")
    assert run("restore", "mine", "--url", url) == 0
    assert capsys.readouterr().out == f"restored {found['tokens']} tokens of mine\n"
    assert run("save", found["id"], "again", "--url", url, "--json") == 0
    assert json.loads(capsys.readouterr().out)["name"] == "again"
    assert run("restore", "again", "--url", url, "--json") == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == found["tokens"]
    assert run("restore", "other", "--url", url) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: `other")
    assert hint.startswith("hint: ")


def test_a_server_is_inspected(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        httpx2.post(f"{url}/v1/completions", json={"prompt": "a " * 40, "max_tokens": 2}).raise_for_status()
    assert run(url, "--json", verb="inspect") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["model"], len(told["contexts"])) == ("mock", 2)
    assert run(f"{url}/v1", verb="inspect") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "model      mock, contexts of up to 64 tokens"
    assert f"of {4} MiB: 0 B held" in lines[2]
    assert "reused     40 prompt tokens: 40 from ram" in lines
    assert "computed   42 prompt tokens: 1 last-token, 41 new" in lines
    assert lines[-2:] == [f"  {each['id']}  over  43 tokens: 43 hot" for each in told["contexts"]]
    assert run("http://127.0.0.1:9", verb="inspect") == 2
    assert "no answer from http://127.0.0.1:9" in capsys.readouterr().err


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("contexts", "--url", "http://127.0.0.1:9") == 2
    assert "no answer from http://127.0.0.1:9" in capsys.readouterr().err
    assert run("contexts", "--url", "localhost") == 2
    assert "is no URL" in capsys.readouterr().err
