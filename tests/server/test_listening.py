"""A real uvicorn on a real socket: leaving, stopping, a taken port."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import httpx2
import openai
import pytest

from kvloom.config import ServerConfig
from kvloom.errors import ConfigError
from kvloom.server.app import create_app
from kvloom.server.run import bind, make_server, url_of
from script import script

from .conftest import Engines
from .echo_engine import EchoEngine

LONG = {"model": "mock", "prompt": "one two three", "max_tokens": 5000}


@asynccontextmanager
async def listening(engine: EchoEngine) -> AsyncIterator[str]:
    config = ServerConfig(port=0, drain_seconds=2)
    bound = bind(config)
    server = make_server(create_app(engine, config), config)
    task = asyncio.create_task(server.serve(sockets=[bound]))
    while not server.started:
        await asyncio.sleep(0.005)
    yield url_of(bound)
    server.should_exit = True
    await asyncio.wait_for(task, 10)


async def until(condition: object, seconds: float = 3.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_aborts_over_a_real_socket(new_engine: Engines, stream: bool) -> None:
    engine = new_engine(pace_s=0.005, max_model_len=8000)
    async with listening(engine) as url, httpx2.AsyncClient(base_url=url) as http:
        asked = http.build_request("POST", "/v1/completions", json=LONG | {"stream": stream})
        if stream:
            reply = await http.send(asked, stream=True)
            async for _ in reply.aiter_bytes():
                break
            assert len(engine.live) == 1
            await reply.aclose()
        else:
            task = asyncio.create_task(http.send(asked))
            await until(lambda: engine.live)
            task.cancel()
            await asyncio.wait((task,))
        await until(lambda: not engine.live)
        assert engine.aborted == engine.seen
        await engine.assert_idle()
        assert (await http.get("/health")).status_code == 200


async def test_the_client_over_a_real_socket(engine: EchoEngine) -> None:
    async with listening(engine) as url, openai.AsyncOpenAI(api_key="x", base_url=f"{url}/v1") as client:
        stream = await client.chat.completions.create(
            model="mock", messages=[{"role": "user", "content": "a b"}], max_tokens=4, stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == " <user> a b <assistant>"


async def test_invalid_http_does_not_hurt(engine: EchoEngine) -> None:
    async with listening(engine) as url:
        host, port = url.removeprefix("http://").split(":")
        for rubbish in (b"\xff\xfe\x00\r\n\r\n", b"POST /v1/completions HTTP/1.1\r\nContent-Length: x\r\n\r\n"):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(rubbish)
            assert b" 400 " in await reader.readline()
            writer.close()
            await writer.wait_closed()
        async with httpx2.AsyncClient(base_url=url) as http:
            assert (await http.get("/health")).status_code == 200


async def test_leaving_amid_the_body_is_quiet(engine: EchoEngine, caplog: pytest.LogCaptureFixture) -> None:
    async with listening(engine) as url:
        host, port = url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(0.05)
    assert caplog.text == ""


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is in use") as caught:
            bind(ServerConfig(port=port))
        assert "--port" in str(caught.value.hint)


def test_hosts_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="cannot resolve host `no such host`"):
        bind(ServerConfig(host="no such host", port=0))
    with pytest.raises(ConfigError, match=r"cannot listen on port 0 of 192\.0\.2\.1"):
        bind(ServerConfig(host="192.0.2.1", port=0))


SERVE = """
import sys
import time
from kvloom.config import ServerConfig
from kvloom.server.app import create_app
from kvloom.server.run import bind, serve, url_of
from tests.server.echo_engine import EchoEngine

config = ServerConfig(port=0, drain_seconds=int(sys.argv[1]))
engine = EchoEngine(pace_s=0.01, max_model_len=8000)
bound = bind(config)
print(url_of(bound), flush=True)
serve(create_app(engine, config), bound, config)
engine.close()
print(engine.engine.stats().finished, len(engine.aborted), len(engine.live), flush=True)
"""


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("drain_s", [20, 1])
def test_a_signal_ends_the_server_gracefully(stop: signal.Signals, drain_s: int) -> None:
    """With time to drain the stream ends as it would have; without, it is aborted. Either way the process ends well."""
    tokens = 60 if drain_s > 1 else 5000
    command = script(SERVE, str(drain_s))
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server,
        ExitStack() as whatever_happens,
    ):
        whatever_happens.callback(server.kill)
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        received = b""
        with httpx2.Client(base_url=url, timeout=10) as http:
            for _ in range(200):
                try:
                    http.get("/health")
                    break
                except httpx2.ConnectError:
                    time.sleep(0.05)
            asked = LONG | {"stream": True, "max_tokens": tokens}
            with http.stream("POST", "/v1/completions", json=asked) as reply:
                for part in reply.iter_bytes():
                    if not received:
                        server.send_signal(stop)
                    received += part
        said, errors = server.communicate(timeout=10)
    assert server.returncode == 0, errors
    assert (b"[DONE]" in received) == (drain_s > 1)
    assert (b"the server is stopping" in received) == (drain_s == 1)
    assert said.strip() == ("{'length': 1} 0 0" if drain_s > 1 else "{'abort': 1} 1 0")
    assert "Traceback" not in errors
