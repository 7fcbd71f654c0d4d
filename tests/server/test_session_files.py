"""Contexts and sessions over HTTP: for admins, and only where there is a directory for them."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from kvloom.config import ServerConfig
from kvloom.server.app import create_app

from .conftest import Engines

LONG = {"prompt": "a b c d e f g h i j k l m n o p q r s t", "max_tokens": 2}
ADMIN, USER = {"x-api-key": "the-admin"}, {"x-api-key": "the-user"}


def client(engine: object, config: ServerConfig) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(create_app(engine, config))  # type: ignore[arg-type]
    return httpx2.AsyncClient(transport=transport, base_url="http://kvloom")


@pytest.fixture
def config(tmp_path: Path) -> ServerConfig:
    return ServerConfig(sessions_dir=str(tmp_path), api_key="the-user", admin_key="the-admin")


async def test_a_session_outlives_a_server(new_engine: Engines, config: ServerConfig, tmp_path: Path) -> None:
    async with client(new_engine(), config) as http:
        first = await http.post("/v1/completions", json=LONG, headers=USER)
        told = (await http.get("/cache/contexts", headers=ADMIN)).json()
        assert told["total"] == len(told["contexts"]) == 1
        found = told["contexts"][0]
        shown = (await http.get(f"/cache/contexts/{found['id']}", headers=ADMIN)).json()
        assert {span["tier"] for spans in shown["segments"].values() for span in spans} == {"ram"}
        saved = await http.post("/cache/save", json={"context": found["id"], "name": "mine"}, headers=ADMIN)
        assert saved.json() == {"name": "mine", "tokens": found["tokens"], "bytes": saved.json()["bytes"]}
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size == saved.json()["bytes"]
    assert file.stat().st_mode & 0o077 == 0
    async with client(new_engine(), config) as http:
        restored = await http.post("/cache/restore", json={"name": "mine"}, headers=ADMIN)
        assert restored.json() == {"name": "mine", "tokens": found["tokens"]}
        again = await http.post("/v1/completions", json=LONG, headers=USER)
        assert again.json()["choices"][0]["text"] == first.json()["choices"][0]["text"]
        assert again.json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 10
        other = await http.post("/v1/completions", json=LONG, headers=ADMIN)
        assert other.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0, "another key's salt"


async def test_why_something_was_missed_is_told_to_whom_asked(new_engine: Engines, config: ServerConfig) -> None:
    async with client(new_engine(), config) as http:
        first = (await http.post("/v1/completions", json=LONG, headers=USER)).json()
        second = (await http.post("/v1/completions", json=LONG | {"prompt": [LONG["prompt"]] * 2}, headers=USER)).json()
        told = (await http.get(f"/cache/requests/{first['id']}", headers=USER)).json()
        (prompt,) = told["prompts"]
        assert prompt["missed"] == [{"start": 0, "stop": prompt["tokens"], "why": "new"}]
        assert (prompt["cached_tokens"], prompt["reused"]) == (0, [])
        told = (await http.get(f"/cache/requests/{second['id']}", headers=ADMIN)).json()
        assert [each["missed"][-1]["why"] for each in told["prompts"]] == ["last-token"] * 2
        assert told["prompts"][0]["reused"][0]["tier"] == "ram"
        admins = (await http.post("/v1/completions", json=LONG, headers=ADMIN)).json()
        told = (await http.get(f"/cache/requests/{admins['id']}", headers=ADMIN)).json()
        assert told["prompts"][0]["missed"][0]["why"] == "new", "that it is there under another salt is not told"
        for id in (admins["id"], "nothing"):
            reply = await http.get(f"/cache/requests/{id}", headers=USER)
            assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")
        assert (await http.post("/reset_prefix_cache", headers=USER)).status_code == 403
        assert (await http.post("/reset_prefix_cache", headers=ADMIN)).json() == {"status": "ok"}
        assert (await http.get("/cache/contexts", headers=ADMIN)).json()["total"] == 0


async def test_what_may_not_be_and_what_is_not_there(new_engine: Engines, config: ServerConfig, tmp_path: Path) -> None:
    async with client(new_engine(), config) as http:
        for method, path in (("GET", "/cache/contexts"), ("POST", "/cache/save"), ("POST", "/cache/restore")):
            assert (await http.request(method, path, headers=USER)).status_code == 403
        missing = await http.post("/cache/restore", json={"name": "none"}, headers=ADMIN)
        assert (missing.status_code, missing.json()["error"]["code"]) == (409, "session_refused")
        for name in ("../x", "", ".hidden", "a/b", "x" * 65):
            reply = await http.post("/cache/restore", json={"name": name}, headers=ADMIN)
            assert (reply.status_code, reply.json()["error"]["param"]) == (400, "name")
        gone = await http.post("/cache/save", json={"context": "x", "name": "y"}, headers=ADMIN)
        assert (gone.status_code, gone.json()["error"]["param"]) == (400, "context")
        for body in (b"[", b"{}", b'{"name": 3}', b'{"name": "x", "other": 1}'):
            assert (await http.post("/cache/restore", content=body, headers=ADMIN)).status_code == 400
    assert list(tmp_path.iterdir()) == []
    async with client(new_engine(), ServerConfig()) as http:
        reply = await http.post("/cache/restore", json={"name": "x"})
        assert reply.status_code == 400
        assert "not supported by this server" in reply.json()["error"]["message"]
