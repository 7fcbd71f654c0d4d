"""``kvloom serve`` in a process of its own, over a tiny engine: what it says, that it serves, how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import httpx2

from script import script

SERVE = """
import sys
from pathlib import Path
from kvloom.cli import backend, main
from tests.cli.conftest import Backend

fake = Backend(Path("."))
backend.resolve, backend.open_engine = fake.resolve, fake.open_engine
try:
    main(["serve", "mock", "--port", "0", "--threads", "2"])
finally:
    print("left open" if fake.engine.alive else "closed")
"""


def test_serve_says_what_it_does_and_ends_on_a_signal() -> None:
    command = script(SERVE)
    environment = os.environ | {"KVLOOM_API_KEY": "a-secret", "NO_COLOR": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stderr is not None
        banner: list[str] = []
        while not banner or not banner[-1].startswith("serving"):
            banner.append(server.stderr.readline().rstrip("\n"))
            assert len(banner) < 10, banner
        url = banner[-1].split()[1].removesuffix("/v1")
        listed = _get(f"{url}/v1/models")
        refused, window = httpx2.get(f"{url}/v1/models"), httpx2.get(f"{url}/ui")
        server.send_signal(signal.SIGTERM)
        out, errors = server.communicate(timeout=20)
    assert banner[0] == "model      mock (gemma3, 4 KiB)"
    assert banner[1] == "KV         4 MiB of int16: room for 0 x 512 tokens"
    assert (
        banner[2] == "pages      of 16 tokens: full 8.125 KiB (1 layers x 2 heads x 64), "
        "window512 16.25 KiB (2 layers x 2 heads x 64)"
    )
    assert banner[3] == "threads    2"
    assert banner[4] == (
        "on         text completions, structured output, embeddings, prefix reuse, fusion of documents"
    )
    assert banner[5].startswith("off        chat and tools (the model has no chat template), ")
    assert banner[5].endswith("traces (--otlp-traces-endpoint), TLS (--ssl-certfile)")
    assert banner[6] == f"window     {url}/ui"
    assert banner[7].endswith("/v1 (API key required)")
    assert listed["data"][0]["id"] == "mock"
    assert refused.status_code == 401
    assert window.headers["content-type"].startswith("text/html")
    assert server.returncode == 0, errors
    assert out == "closed\n"
    assert errors == "stopped\n"
    assert "a-secret" not in "".join(banner)


def _get(url: str) -> dict[str, list[dict[str, str]]]:
    """The socket is bound before it listens: try until it does."""
    deadline = time.monotonic() + 10
    while True:
        try:
            reply = httpx2.get(url, headers={"Authorization": "Bearer a-secret"})
            return dict(reply.raise_for_status().json())
        except httpx2.ConnectError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
