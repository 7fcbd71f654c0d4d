"""Keys: who gets in, from where they come, and what a salt is made of."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI

from kvloom.config import ServerConfig
from kvloom.errors import ConfigError, DataFileError
from kvloom.server.app import create_app
from kvloom.server.edge.keys import Key, Keyring

from .echo_engine import EchoEngine

FILE = """\
# who may ask

alice   alices-key
bob     schlüssel-für-bob
ops     ops-key   admin
"""
TEXT = {"model": "mock", "prompt": "a b c", "max_tokens": 1}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(FILE, encoding="utf-8")
    return path


def talk(app: FastAPI) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://kvloom")


def bearer(key: str, scheme: str = "Bearer") -> dict[bytes, bytes]:
    return {b"Authorization": f"{scheme} {key}".encode()}


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
@pytest.mark.parametrize("key", ["alices-key", "schlüssel-für-bob", "ops-key", "from-the-environment"])
async def test_every_key_gets_in(engine: EchoEngine, path: Path, key: str, scheme: str) -> None:
    app = create_app(engine, ServerConfig(api_key="from-the-environment", api_keys_file=str(path)))
    async with talk(app) as http:
        assert (await http.get("/v1/models", headers=bearer(key, scheme))).status_code == 200


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"Bearer", b"Bearer ", b"Bearer alice", b"Bearer alices-keyx", b"Bearer alices-ke", b"alices-key"),
        *(b"Basic alices-key", b"Bearer \xff\xfe", "Bearer schlüssel-für-bob".encode("latin-1"), b"Bearer #"),
    ],
)
async def test_nothing_else_does(engine: EchoEngine, path: Path, value: bytes) -> None:
    async with talk(create_app(engine, ServerConfig(api_keys_file=str(path)))) as http:
        reply = await http.get("/v1/models", headers={b"Authorization": value})
        assert reply.status_code == 401
        assert reply.headers["www-authenticate"] == "Bearer"


async def test_what_is_guarded(engine: EchoEngine, path: Path) -> None:
    """Whatever is not named as open: what comes later is guarded from its first day."""
    async with talk(create_app(engine, ServerConfig(api_keys_file=str(path)))) as http:
        for open_path in ("/health", "/version"):
            assert (await http.get(open_path)).status_code == 200
        for guarded in ("/metrics", "/cache", "/v1/models", "/v1", "/nothing", "//v1/models", "/metrics/", "/health/x"):
            assert (await http.get(guarded)).status_code == 401, guarded
    async with talk(create_app(engine, ServerConfig(api_keys_file=str(path), open_metrics=True))) as http:
        for figures in ("/metrics", "/cache"):
            assert (await http.get(figures)).status_code == 200
        assert (await http.get("/v1/models")).status_code == 401
        assert (await http.post("/cache/reset")).status_code == 401


@pytest.mark.parametrize(
    ("settings", "headers", "status"),
    [
        ({}, {}, 200),
        ({"host": "localhost"}, {}, 200),
        ({"host": "::1"}, {}, 200),
        ({"host": "0.0.0.0"}, {}, 403),
        ({"host": "kvloom.example"}, {}, 403),
        ({"api_key": "one"}, bearer("one"), 403),
        ({"api_key": "one", "admin_key": "two"}, bearer("one"), 403),
        ({"api_key": "one", "admin_key": "two"}, bearer("two"), 200),
        ({"host": "0.0.0.0", "admin_key": "two"}, bearer("two"), 200),
        ({"admin_key": "two"}, {}, 401),
    ],
)
async def test_who_may_reset_the_cache(
    engine: EchoEngine, settings: dict[str, str], headers: dict[bytes, bytes], status: int
) -> None:
    async with talk(create_app(engine, ServerConfig(**settings))) as http:
        reply = await http.post("/cache/reset", headers=headers)
        assert (await http.post("/cache/check", headers=headers)).status_code == status
    assert reply.status_code == status
    assert engine.resets == (status == 200)
    if status == 403:
        assert reply.json()["error"]["code"] == "admin_only"
        assert "KVLOOM_ADMIN_KEY" in reply.json()["error"]["message"]


async def test_a_line_marked_admin(engine: EchoEngine, path: Path) -> None:
    async with talk(create_app(engine, ServerConfig(api_keys_file=str(path)))) as http:
        assert (await http.post("/cache/reset", headers=bearer("alices-key"))).status_code == 403
        assert (await http.post("/cache/reset", headers=bearer("ops-key"))).status_code == 200


def test_a_salt_hangs_on_key_and_own_salt_alone() -> None:
    """Golden: hmac.digest(b"alices-key", b"kvloom cache salt 1\\0" + ..., "sha256"), as OpenSSL computes it too."""
    key = Key("alice", "alices-key")
    assert key.salt(None) == "445aebd4068db1cf434473296f7ca6f59d5de786bee6e9c3d4d43336a4c77c8a"
    assert key.salt("x") == "d7f53bee0cf0c9941b4beafb30944b8369573455537701ac98e51394871db49e"
    assert key.salt("") != key.salt(None)
    assert Key("renamed", "alices-key", "admin").salt("x") == key.salt("x")


async def test_the_engine_gets_the_keys_salt(engine: EchoEngine, path: Path) -> None:
    config = ServerConfig(api_keys_file=str(path))
    async with talk(create_app(engine, config)) as http:
        for key in ("alices-key", "ops-key"):
            for more in ({}, {"cache_salt": "x"}):
                await http.post("/v1/completions", json=TEXT | more, headers=bearer(key))
    assert len({cache.salt for cache in engine.caches}) == 4
    assert engine.caches[0].salt == Key("alice", "alices-key").salt(None)


def test_two_of_one_kind_are_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match="`default` and `alice` are the same"):
        Keyring.of(ServerConfig(api_key="alices-key", api_keys_file=str(path)))
    path.write_text("admin other-key\n")
    with pytest.raises(ConfigError, match="two API keys have the name `admin`"):
        Keyring.of(ServerConfig(admin_key="a-key", api_keys_file=str(path)))


@pytest.mark.parametrize("secret", [" x", "x ", "a\nb", "a\0b", "\udcff"])
def test_keys_that_no_header_can_carry(secret: str) -> None:
    with pytest.raises(ConfigError, match="control characters") as caught:
        Keyring.of(ServerConfig(api_key=secret))
    assert secret not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a k1\nb\n", "line 2: has 1 words, expected 2 to 6"),
        ("\n\na k1 admin compression=exact now\n", "line 3: after name and key can only come"),
        ("a k1 admin now\n", "line 1: after name and key can only come"),
        ("a k1 admin admin\n", "each once"),
        ("a k1 compression=exact compression=exact\n", "each once"),
        ("b k2\na k1 compression=best\n", "line 2: unknown method `best`"),
        ("a k1 compression=knorm\n", "line 1: method `knorm` needs a ratio"),
        ("a k1 compression=\n", "line 1: unknown method ``"),
        ("a/b k1\n", "line 1: the first word is not a valid name"),
        ("a k1\n# k1\na k2\n", "line 3: the name `a` was used in line 1"),
        ("a k1\nb k1\n", "line 2: the key already belongs to `a`"),
        ("a k1 root\n", "line 1: after name and key can only come `admin` and `compression=...`, "),
        ("a k\x011\n", "line 1: the key `a` has control characters"),
        ("# nobody\n", "has no keys"),
        ("", "has no keys"),
    ],
)
def test_bad_lines_are_named_and_keys_are_not(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(DataFileError) as caught:
        Keyring.of(ServerConfig(api_keys_file=str(path)))
    assert says in str(caught.value)
    assert "k1" not in f"{caught.value} {caught.value.hint}".replace(str(path), "")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="cannot be read: No such file"):
        Keyring.of(ServerConfig(api_keys_file=str(tmp_path / "nothing")))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataFileError, match="is not UTF-8 text"):
        Keyring.of(ServerConfig(api_keys_file=str(tmp_path / "binary")))


def test_a_key_is_never_shown(path: Path) -> None:
    config = ServerConfig(api_key="first-secret", admin_key="second-secret", api_keys_file=str(path))
    shown = repr((config, Keyring.of(config).keys))
    assert "secret'" not in shown
    assert "alices-key" not in shown


@pytest.mark.parametrize("name", ["/health", "/version", "/metrics", "/cache"])
async def test_head_is_get_without_the_body(http: httpx2.AsyncClient, name: str) -> None:
    head, get = await http.head(name), await http.get(name)
    assert head.status_code == get.status_code == 200
    assert head.headers["content-type"] == get.headers["content-type"]


async def test_browsers_ask_first_and_need_no_key_for_that(engine: EchoEngine) -> None:
    page = "https://app.example"
    config = ServerConfig(api_key="one", cors_origins=f"{page}, http://localhost:3000")
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    async with talk(create_app(engine, config)) as http:
        reply = await http.options("/v1/completions", headers={"Origin": page, **asks})
        assert reply.status_code == 200
        assert reply.headers["access-control-allow-origin"] == page
        assert "authorization" in reply.headers["access-control-allow-headers"]
        refused = await http.get("/v1/models", headers={"Origin": page})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == page, "the page can read why"
        foreign = await http.options("/v1/completions", headers={"Origin": "https://evil.example", **asks})
        assert foreign.status_code == 400
        assert "access-control-allow-origin" not in foreign.headers
    async with talk(create_app(engine, ServerConfig(api_key="one"))) as http:
        assert (await http.options("/v1/completions", headers={"Origin": page, **asks})).status_code == 401


@pytest.mark.parametrize("origins", ["app.example", "https://app.example/", "https://a.example,,", "ftp://x"])
def test_origins_that_cannot_be(origins: str) -> None:
    with pytest.raises(ConfigError, match="is not an origin"):
        ServerConfig(cors_origins=origins)
