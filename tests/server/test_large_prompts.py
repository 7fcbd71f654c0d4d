"""Prompts of megabytes at a real server, in a process of its own: nobody else waits, and memory comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from script import script

TEXT = "The quick brown fox, 123 jumps over it.\n"

SERVE = """
from kvloom.config import ServerConfig
from kvloom.server.app import create_app
from kvloom.server.run import bind, serve, url_of
from tests.server.echo_engine import EchoEngine
from trained_tokenizer import trained_tokenizer

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
config = ServerConfig(port=0, drain_seconds=1)
engine = EchoEngine(max_model_len=8192, tokenizer=trained_tokenizer(chat_template=TEMPLATE))
bound = bind(config)
bound.listen()
print(url_of(bound), flush=True)
serve(create_app(engine, config), bound, config)
"""


@pytest.fixture
def server() -> Iterator[tuple[str, int]]:
    """(url, process id)"""
    with subprocess.Popen(script(SERVE), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process.pid
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def watch(url: str, waits: list[float], done: asyncio.Event) -> None:
    async with httpx2.AsyncClient(base_url=url, timeout=60) as http:
        while not done.is_set():
            started = time.perf_counter()
            assert (await http.get("/health")).status_code == 200
            waits.append(time.perf_counter() - started)
            await asyncio.sleep(0.005)


def bodies(megabytes: int) -> dict[str, bytes]:
    text = TEXT.replace("\n", "\\n").encode()
    text *= megabytes * 2**20 // len(text)
    text = text[:-200]
    return {
        "/v1/completions": b'{"model": "mock", "prompt": "' + text + b'"}',
        "/v1/chat/completions": b'{"model": "mock", "messages": [{"role": "user", "content": "' + text + b'"}]}',
    }


async def test_health_answers_while_megabytes_are_refused(server: tuple[str, int]) -> None:
    url, pid = server
    waits: list[float] = []
    async with httpx2.AsyncClient(base_url=url, timeout=120) as http:

        async def send(path: str, body: bytes) -> None:
            reply = await http.post(path, content=body, headers={"content-type": "application/json"})
            error = reply.json()["error"]
            assert reply.status_code == 400
            assert error["code"] == "context_length_exceeded"
            assert error["message"].startswith("This model's maximum context length is 8192 tokens.")

        async def small() -> None:
            for path, body in bodies(1).items():
                await send(path, body)

        await small()
        await asyncio.sleep(1.5)
        before = resident_bytes(pid)
        done = asyncio.Event()
        watching = asyncio.create_task(watch(url, waits, done))
        for path, body in bodies(16).items():
            await send(path, body)
        await asyncio.gather(*(send(path, body) for path, body in bodies(4).items() for _ in range(3)))
        done.set()
        await watching
        deadline = time.monotonic() + 15
        while (after := resident_bytes(pid)) > before * 1.1 and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
    print(f"{len(waits)} answers, the longest after {max(waits):.3f} s; {before >> 20} MiB before, {after >> 20} after")
    assert max(waits) < 1
    assert after <= before * 1.1
