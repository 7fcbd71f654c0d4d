"""Raw sockets against a real server: every bound, what is told, and that others do not notice."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from kvloom.config import ServerConfig
from kvloom.errors import ConfigError
from kvloom.server.app import create_app
from kvloom.server.run import bind, make_server
from script import script

from .echo_engine import EchoEngine

GET = b"GET /health HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
BODY = json.dumps({"model": "mock", "prompt": "a b", "max_tokens": 1}).encode()
LONG = json.dumps({"model": "mock", "prompt": "a b", "max_tokens": 5000}).encode()


@dataclass
class Server:
    port: int
    engine: EchoEngine
    connections: set[Any]

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def send(self, *pieces: bytes) -> bytes:
        """Everything that comes back until the server closes."""
        reader, writer = await self.connect()
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass
        return await self.rest(reader, writer)

    @staticmethod
    async def rest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        async with asyncio.timeout(10):
            try:
                return await reader.read()
            finally:
                writer.close()

    async def healthy(self) -> bool:
        answer = await self.send(GET + b"Connection: close\r\n\r\n")
        return answer.startswith(b"HTTP/1.1 200") and answer.endswith(b'{"status":"ok"}')


@asynccontextmanager
async def listening(engine: EchoEngine | None = None, **settings: Any) -> AsyncIterator[Server]:
    """A server over an engine of its own."""
    config = ServerConfig(port=0, drain_seconds=2, **settings)
    bound = bind(config)
    engine = engine or EchoEngine()
    server = make_server(create_app(engine, config), config)
    task = asyncio.create_task(server.serve(sockets=[bound]))
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield Server(bound.getsockname()[1], engine, server.server_state.connections)
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 10)
        engine.close()


def told(answer: bytes, status: int, code: str) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), answer[:200]
    assert b"connection: close" in head
    assert b"content-type: application/json" in head
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    return error


def headers(count: int, size: int = 10) -> bytes:
    return b"".join([b"X-%d: %s\r\n" % (n, b"v" * size) for n in range(count)])


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (GET + headers(200) + b"\r\n", 431, "headers_too_large"),
        (GET + headers(50, 1000) + b"\r\n", 431, "headers_too_large"),
        (GET + b"X: " + b"v" * 50_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (GET + b"X: " + b"v" * 600_000, 431, "headers_too_large"),
        (GET + b"X" * 600_000, 431, "headers_too_large"),
        (b"\r\n" * 200_000, 431, "headers_too_large"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "url_too_long"),
        (b"GET /" + b"a" * 600_000, 414, "url_too_long"),
        (b"\xff\xfe\x00\r\n\r\n", 400, "invalid_http"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "invalid_http"),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400, "invalid_http"),
        (GET + b"no colon\r\n\r\n", 400, "invalid_http"),
        (POST + b"Content-Length: x\r\n\r\n", 400, "invalid_http"),
        (POST + b"Content-Length: -1\r\n\r\n", 400, "invalid_http"),
        (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400, "invalid_http"),
        (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", 400, "invalid_http"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "invalid_http"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}XX", 400, "invalid_http"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + headers(200), 431, "headers_too_large"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"v" * 600_000, 431, "headers_too_large"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n2;" + b"v" * 600_000, 431, "headers_too_large"),
    ],
)
async def test_what_cannot_be_served_is_told_so(
    request_bytes: bytes, status: int, code: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async with listening() as server:
        told(await server.send(request_bytes), status, code)
        assert await server.healthy()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_bounds_hold_for_any_pieces(size: int) -> None:
    async with listening(max_header_bytes=2000, max_url_bytes=300) as server:
        for sent, status, code in (
            (GET + headers(60, 40) + b"\r\n", 431, "headers_too_large"),
            (b"GET /" + b"a" * 400 + b" HTTP/1.1\r\n\r\n", 414, "url_too_long"),
        ):
            reader, writer = await server.connect()
            for at in range(0, len(sent), size):
                writer.write(sent[at : at + size])
                await asyncio.sleep(0)
            told(await server.rest(reader, writer), status, code)


async def test_what_is_within_the_bounds_is_served() -> None:
    async with listening() as server:
        for request in (
            GET + headers(90, 300) + b"Connection: close\r\n\r\n",
            b"GET /health?" + b"a" * 8000 + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        ):
            assert (await server.send(request)).startswith(b"HTTP/1.1 200")
        chunks = b"".join([b"1;some=thing\r\n%c\r\n" % byte for byte in BODY]) + b"0\r\nTrailer: x\r\n\r\n"
        chunked = POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + chunks
        assert (await server.send(chunked)).startswith(b"HTTP/1.1 200")
        assert (await server.send(*[chunked[n : n + 1] for n in range(len(chunked))])).startswith(b"HTTP/1.1 200")


async def test_headers_that_stop_time_out() -> None:
    async with listening(header_seconds=0.3) as server:
        told(await server.send(GET), 408, "request_timeout")
        told(await server.send(b"G"), 408, "request_timeout")
        assert await server.send(b"") == b"", "who says nothing is told nothing"
        assert await server.send(b"\r\n") == b""
        async with asyncio.timeout(5):
            while server.connections:
                await asyncio.sleep(0.05)


async def test_headers_that_drip_time_out() -> None:
    async with listening(header_seconds=0.3) as server:
        reader, writer = await server.connect()
        began = time.monotonic()
        answer = asyncio.create_task(reader.read())
        while not answer.done() and time.monotonic() - began < 8:
            writer.write(b"\r\n" if time.monotonic() - began < 0.1 else GET[:1])
            await asyncio.sleep(0.02)
        writer.close()
        assert (await answer).startswith((b"HTTP/1.1 408", b"HTTP/1.1 400"))


async def test_a_second_request_may_not_drip_either() -> None:
    async with listening(header_seconds=0.3) as server:
        for begun in (b"G", b"\r\n"):
            reader, writer = await server.connect()
            writer.write(GET + b"\r\n")
            await reader.readuntil(b'{"status":"ok"}')
            writer.write(begun)
            assert (await server.rest(reader, writer)).startswith(b"HTTP/1.1 408" if begun == b"G" else b"")


@pytest.mark.parametrize("drip", [False, True])
@pytest.mark.parametrize("form", [b"Content-Length: 100000\r\n", b"Transfer-Encoding: chunked\r\n"])
async def test_a_body_that_stops_or_drips_times_out(drip: bool, form: bytes) -> None:
    async with listening(body_seconds=0.4) as server:
        reader, writer = await server.connect()
        writer.write(POST + form + b"\r\n")
        answer = asyncio.create_task(reader.read())
        async with asyncio.timeout(8):
            while not answer.done():
                await asyncio.sleep(0.05)
                if drip:
                    writer.write(b"1\r\n \r\n" if b"chunked" in form else b" ")
        writer.close()
        told(await answer, 408, "request_timeout")
        assert await server.healthy()
        assert server.engine.seen == []


async def test_a_body_that_goes_on_is_not_cut_off() -> None:
    """Slow, but it moves: three times as long as it may be silent."""
    async with listening(body_seconds=0.5) as server:
        body = BODY[:-1] + b" " * 6000 + b"}"
        reader, writer = await server.connect()
        writer.write(POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body))
        for n in range(15):
            writer.write(body[n * len(body) // 15 : (n + 1) * len(body) // 15])
            await asyncio.sleep(0.1)
        assert (await server.rest(reader, writer)).startswith(b"HTTP/1.1 200")


async def test_who_is_refused_cannot_send_a_body_for_ever() -> None:
    async with listening(api_key="one") as server:
        reader, writer = await server.connect()
        writer.write(POST + b"Content-Length: 1000000000\r\n\r\n")
        answer = asyncio.create_task(reader.read())
        async with asyncio.timeout(8):
            while not answer.done():
                writer.write(b" " * 1000)
                await asyncio.sleep(0.05)
        writer.close()
        assert (await answer).startswith(b"HTTP/1.1 401")


async def test_who_is_refused_early_may_ask_again() -> None:
    """The answer comes before the body has; then the body, and another request on the same connection."""
    async with listening(api_key="one") as server:
        reader, writer = await server.connect()
        writer.write(POST + b"Content-Length: %d\r\n\r\n" % len(BODY))
        await reader.readuntil(b"invalid_api_key")
        writer.write(BODY + GET + b"Connection: close\r\n\r\n")
        assert (await server.rest(reader, writer)).endswith(b'{"status":"ok"}')


async def test_an_idle_connection_is_closed() -> None:
    async with listening(keep_alive_seconds=1) as server:
        reader, writer = await server.connect()
        writer.write(GET + b"\r\n")
        assert (await server.rest(reader, writer)).endswith(b'{"status":"ok"}')


async def test_an_answer_that_nobody_reads_is_given_up() -> None:
    word = "w" * 12_000_000
    async with listening(send_seconds=0.5) as server:
        body = json.dumps({"model": "mock", "prompt": word, "max_tokens": 1, "echo": True}).encode()
        _, writer = await server.connect()
        writer.write(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        async with asyncio.timeout(10):
            while not server.engine.stats().generated_tokens or server.connections:
                await asyncio.sleep(0.05)
        writer.close()


async def test_slow_connections_make_room_for_new_ones() -> None:
    """More than there is room for, of each kind: others are served all the while."""
    async with listening(max_connections=8) as server:
        writers = []
        for n in range(60):
            _, writer = await server.connect()
            writers.append(writer)
            writer.write((b"", b"G", GET, POST + b"Content-Length: 9\r\n\r\n{", GET + headers(200))[n % 5])
            await writer.drain()
            assert await server.healthy()
        assert len(server.connections) <= 9
        for writer in writers:
            writer.close()


async def test_who_makes_room_is_told_if_he_had_begun() -> None:
    async with listening(max_connections=1) as server:
        for begun in (GET, POST + b"Content-Length: 9\r\n\r\n{"):
            reader, writer = await server.connect()
            writer.write(begun)
            await asyncio.sleep(0.05)
            assert await server.healthy()
            told(await server.rest(reader, writer), 503, "too_many_connections")


async def test_requests_that_run_do_not_make_room() -> None:
    async with listening(EchoEngine(pace_s=0.005, max_model_len=8000), max_connections=2) as server:
        running = []
        for _ in range(2):
            reader, writer = await server.connect()
            writer.write(POST + b"Content-Length: %d\r\n\r\n" % len(LONG) + LONG)
            running.append((reader, writer))
        while len(server.engine.live) < 2:
            await asyncio.sleep(0.005)
        told(await server.send(GET + b"\r\n"), 503, "too_many_connections")
        assert len(server.engine.live) == 2
        running[0][1].close()
        while len(server.engine.live) == 2:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        assert await server.healthy()
        running[1][1].close()


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with listening() as server:
        asked = (GET + b"\r\n") * 5 + GET.replace(b"health", b"version") + b"Connection: close\r\n\r\n"
        answer = await server.send(asked)
        assert answer.count(b"HTTP/1.1 200") == 6
        assert b'"version"' in answer.rsplit(b"\r\n\r\n", 1)[1]


async def test_only_so_many_are_pipelined() -> None:
    """What was asked for within the bound is answered, then the connection ends."""
    async with listening() as server:
        answer = await server.send((GET + b"\r\n") * 5000)
        assert 1 <= answer.count(b"HTTP/1.1 200") <= 20
        assert answer.endswith(b'{"status":"ok"}')


@pytest.mark.parametrize("bad", [b"\xff\xff\r\n\r\n", GET + headers(200), b"GET /" + b"a" * 9000])
async def test_a_bad_request_behind_a_good_one_does_not_garble_its_answer(bad: bytes) -> None:
    async with listening(EchoEngine(pace_s=0.05)) as server:
        answer = await server.send(POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY, bad)
        assert answer.count(b"HTTP/1.1") == 1
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["choices"]


async def test_leaving_ends_the_request_before_a_pipelined_one() -> None:
    async with listening(EchoEngine(pace_s=0.005, max_model_len=8000)) as server:
        _, writer = await server.connect()
        writer.write(POST + b"Content-Length: %d\r\n\r\n" % len(LONG) + LONG + GET + b"\r\n")
        async with asyncio.timeout(5):
            while not server.engine.live:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)
            writer.close()
            while server.engine.live:
                await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    "bad",
    [
        *({"max_connections": 0}, {"max_headers": 0}, {"header_seconds": 0}, {"body_seconds": float("inf")}),
        *({"keep_alive_seconds": -1}, {"max_url_bytes": -5}, {"max_header_bytes": 0}, {"body_seconds": float("nan")}),
        {"send_seconds": 0},
    ],
)
def test_bounds_that_cannot_be(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        ServerConfig(**bad)


SERVE = """
from kvloom.config import ServerConfig
from kvloom.server.app import create_app
from kvloom.server.run import bind, serve, url_of
from tests.server.echo_engine import EchoEngine

config = ServerConfig(port=0, drain_seconds=1, api_key="one")
bound = bind(config)
bound.listen()
print(url_of(bound), flush=True)
serve(create_app(EchoEngine(), config), bound, config)
"""


def resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


@pytest.mark.parametrize("kind", ["many headers", "one header", "url", "body", "trailers"])
async def test_a_flood_without_a_key_takes_no_memory(kind: str) -> None:
    """100 MiB on each of four connections; the server must not grow, and must answer others meanwhile."""
    begin, piece = {
        "many headers": (GET, b"X: v\r\n" * 10_000),
        "one header": (GET + b"X: ", b"v" * 60_000),
        "url": (b"GET /", b"a" * 60_000),
        "body": (POST + b"Content-Length: 1000000000\r\n\r\n", b" " * 60_000),
        "trailers": (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: v\r\n" * 10_000),
    }[kind]
    with subprocess.Popen(script(SERVE), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        port = int(url.rsplit(":", 1)[1])

        async def flood() -> None:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(begin)
                for _ in range(100 * 2**20 // len(piece)):
                    writer.write(piece)
                    await writer.drain()
            except ConnectionError:
                pass
            writer.close()

        async with httpx2.AsyncClient(base_url=url, timeout=10) as http:
            assert (await http.get("/health")).status_code == 200
            before = resident_mib(process.pid)
            floods, most = [asyncio.create_task(flood()) for _ in range(4)], 0.0
            while not all(each.done() for each in floods):
                began = time.monotonic()
                assert (await http.get("/health")).status_code == 200
                assert time.monotonic() - began < 2
                most = max(most, resident_mib(process.pid) - before)
                await asyncio.sleep(0.01)
        process.terminate()
        assert process.wait(10) == 0
    assert most < 20
