"""``kvloom serve`` ends in time after a signal, whatever its threads and clients still do."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pytest
import tokenizers
import transformers

from script import script
from trained_tokenizer import TEXT, trained_backend

ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DRAIN_S = 1
IN_TIME_S = DRAIN_S + 2 + 5
"""The drain, what is left for leaving, and patience with a busy machine."""

MAIN = """
import dataclasses
from kvloom.cli import main, settings

as_given = settings.Settings.server
settings.Settings.server = lambda *given: dataclasses.replace(as_given(*given), drain_seconds=1)
"""

STUCK = f"""
import threading
from pathlib import Path
from kvloom.cli import backend
from tests.cli.conftest import Backend
from tests.server.echo_engine import EchoEngine
{MAIN}
class Stuck(EchoEngine):
    def close(self):
        threading.Event().wait()

fake = Backend(Path("."))
fake.make_engine = Stuck
backend.resolve, backend.open_engine = fake.resolve, fake.open_engine
main(["serve", "mock", "--port", "0"])
"""


@contextmanager
def running(command: list[str], store: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and its address once it serves."""
    environment = os.environ | {"NO_COLOR": "1", "KVLOOM_HOME": str(store)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        said: list[str] = []
        try:
            while not said or not said[-1].startswith("serving"):
                said.append(server.stderr.readline())
                assert said[-1], said
            yield server, said[-1].split()[1].removesuffix("/v1")
        finally:
            server.kill()


def end(server: subprocess.Popen[str]) -> str:
    """Ask it to stop; it must have ended in time. Returns what it said last."""
    started = time.monotonic()
    server.send_signal(signal.SIGTERM)
    said = server.communicate(timeout=60)[1]
    assert time.monotonic() - started < IN_TIME_S
    assert server.returncode == 0, said
    assert "Traceback" not in said
    return said


def test_a_stuck_engine_does_not_hold_it_up(tmp_path: Path) -> None:
    with running(script(STUCK), tmp_path) as (server, url):
        assert httpx2.get(f"{url}/health").status_code == 200
        assert "without waiting" in end(server)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose chat template has no end, and whose tokenizer has no words: one piece per letter."""
    directory = tmp_path_factory.mktemp("endless")
    config = transformers.LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=4_000_000,
        tie_word_embeddings=True,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(directory)
    backend: tokenizers.Tokenizer = trained_backend()
    backend.save(str(directory / "tokenizer.json"))
    (directory / "chat_template.jinja").write_text(ENDLESS)
    return directory


def post(url: str, path: str, **body: object) -> threading.Thread:
    """Ask, and do not care for the answer."""

    def ask() -> None:
        with suppress(httpx2.HTTPError):
            httpx2.post(f"{url}{path}", json=body, timeout=60)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    return thread


def test_it_leaves_while_a_template_loops_and_texts_are_tokenized(model: Path, tmp_path: Path) -> None:
    verb = ["serve", str(model), "--port", "0", "--threads", "1", "--kv-bytes", "64MiB"]
    command = script(f"{MAIN}main()", *verb)
    with running(command, tmp_path) as (server, url):
        name = httpx2.get(f"{url}/v1/models").json()["data"][0]["id"]
        message = {"role": "user", "content": "Hi"}
        asked = [
            post(url, "/v1/chat/completions", model=name, messages=[message]),
            post(url, "/v1/completions", model=name, prompt=TEXT * 100_000),
        ]
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as half, socket.create_connection((host, int(port))):
            half.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            time.sleep(0.5)
            assert httpx2.get(f"{url}/health").status_code == 200
            end(server)
        for thread in asked:
            thread.join(10)
