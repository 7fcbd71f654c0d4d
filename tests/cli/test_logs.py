"""What a server logs: lines for people, or objects; a line for every request, if it is asked for."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import httpx2
import pytest

from kvloom.cli.logs import logging_of
from kvloom.config import ServerConfig
from kvloom.errors import ConfigError
from kvloom.server.app import create_app
from tests.server.faulty_engine import FaultyEngine

TEXT = {"prompt": "a b c", "max_tokens": 4}


def lines(captured: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in captured.splitlines()]


async def test_every_line_is_an_object_with_a_time_and_a_level(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("alice s3cret\n")
    config = ServerConfig(log_format="json", access_log=True, api_keys_file=str(keys))
    engine = FaultyEngine()
    with logging_of(config) as say:
        say("KV         4 MiB of int16")
        say("warning: somebody may read this")
        transport = httpx2.ASGITransport(create_app(engine, config))
        async with httpx2.AsyncClient(transport=transport, base_url="http://kvloom") as http:
            known = {"Authorization": "Bearer s3cret", "x-request-id": "mine"}
            await http.post("/v1/completions", json=TEXT, headers=known)
            await http.post("/v1/completions", json=TEXT | {"prompt": "a !crash"}, headers=known)
            await http.get("/v1/models")
    engine.close()
    said = lines(capsys.readouterr().err)
    assert all(line["time"] and line["level"] in ("info", "warning", "error") for line in said)
    assert [line["message"] for line in said[:2]] == ["KV 4 MiB of int16", "somebody may read this"]
    assert [line["level"] for line in said[:2]] == ["info", "warning"]
    asked = [line for line in said if line.get("logger") == "kvloom.access"]
    assert [(line["client"], line["status"], line["path"]) for line in asked] == [
        ("alice", 200, "/v1/completions"),
        ("alice", 500, "/v1/completions"),
        (None, 401, "/v1/models"),
    ]
    assert asked[0]["request_id"] == "mine"
    assert isinstance(asked[0]["seconds"], float)
    (fault,) = [line for line in said if line["level"] == "error"]
    assert "RuntimeError" in str(fault["exception"])
    assert "s3cret" not in str(said)


async def test_people_get_text_and_no_line_per_request_unless_they_ask(capsys: pytest.CaptureFixture[str]) -> None:
    engine = FaultyEngine()
    for access_log in (False, True):
        config = ServerConfig(access_log=access_log)
        with logging_of(config) as say:
            say("stopped")
            transport = httpx2.ASGITransport(create_app(engine, config))
            async with httpx2.AsyncClient(transport=transport, base_url="http://kvloom") as http:
                await http.get("/health")
        said = capsys.readouterr().err.splitlines()
        assert said[0] == "stopped"
        assert len(said) == 1 + access_log
    assert said[1].startswith("INFO kvloom.access: GET /health 200 in ")
    engine.close()
    assert logging.getLogger("kvloom").propagate
    with pytest.raises(ConfigError, match="unknown log_format `xml`"):
        ServerConfig(log_format="xml")  # type: ignore[arg-type]
