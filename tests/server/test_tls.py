"""HTTPS, and certificates of clients."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from kvloom.config import ServerConfig
from kvloom.errors import ConfigError
from kvloom.server.app import create_app
from kvloom.server.run import bind, check_tls, make_server, url_of

from .echo_engine import EchoEngine

DATA = Path(__file__).parents[1] / "data"
CERT, KEY = str(DATA / "tls-cert.pem"), str(DATA / "tls-key.pem")
"""Signed by itself, for localhost and 127.0.0.1, for a hundred years; the key is nobody's."""


@asynccontextmanager
async def listening(engine: EchoEngine, config: ServerConfig) -> AsyncIterator[str]:
    check_tls(config)
    bound = bind(config)
    server = make_server(create_app(engine, config), config)
    task = asyncio.create_task(server.serve(sockets=[bound]))
    while not server.started:
        await asyncio.sleep(0.005)
    yield url_of(bound, "https")
    server.should_exit = True
    await asyncio.wait_for(task, 10)


async def test_an_answer_and_a_stream_over_https(engine: EchoEngine) -> None:
    trusted = ssl.create_default_context(cafile=CERT)
    config = ServerConfig(port=0, ssl_certfile=CERT, ssl_keyfile=KEY)
    async with listening(engine, config) as url, httpx2.AsyncClient(verify=trusted, base_url=url) as http:
        assert url.startswith("https://")
        reply = await http.post("/v1/completions", json={"prompt": "a b", "max_tokens": 3})
        assert reply.json()["choices"][0]["text"].split() == ["a", "b"]
        reply = await http.post("/v1/completions", json={"prompt": "a b", "max_tokens": 3, "stream": True})
        assert reply.text.endswith("data: [DONE]\n\n")
        async with httpx2.AsyncClient(base_url=url) as distrustful:
            with pytest.raises(httpx2.ConnectError, match="certificate verify failed"):
                await distrustful.get("/health")


async def test_clients_may_have_to_show_a_certificate(engine: EchoEngine) -> None:
    config = ServerConfig(port=0, ssl_certfile=CERT, ssl_keyfile=KEY, ssl_ca_certs=CERT)
    known = ssl.create_default_context(cafile=CERT)
    known.load_cert_chain(CERT, KEY)
    async with listening(engine, config) as url:
        async with httpx2.AsyncClient(verify=known, base_url=url) as http:
            assert (await http.get("/health")).status_code == 200
        async with httpx2.AsyncClient(verify=ssl.create_default_context(cafile=CERT), base_url=url) as stranger:
            with pytest.raises(httpx2.TransportError):
                await stranger.get("/health")


def test_what_is_no_use_is_told_before_a_model_is_loaded(tmp_path: Path) -> None:
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    with pytest.raises(ConfigError, match="TLS needs both"):
        ServerConfig(ssl_certfile=CERT)
    with pytest.raises(ConfigError, match="ssl_ca_certs is of no use"):
        ServerConfig(ssl_ca_certs=CERT)
    for cert, key, says in (
        (str(rubbish), KEY, "is of no use"),
        (CERT, str(rubbish), "is of no use"),
        (CERT, str(tmp_path / "none.pem"), "there is no file"),
    ):
        with pytest.raises(ConfigError, match=says):
            check_tls(ServerConfig(ssl_certfile=cert, ssl_keyfile=key))
    check_tls(ServerConfig())
