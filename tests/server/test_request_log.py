from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from kvloom.bench.trace import read_trace
from kvloom.config import ServerConfig
from kvloom.engine.outputs import RequestMetrics, RequestUpdate
from kvloom.errors import ConfigError
from kvloom.server.admin.request_log import Fingerprints, RequestLog
from kvloom.server.app import create_app
from kvloom.simulate.traces.mooncake import mooncake

from .echo_engine import EchoEngine

ROOM = 10**6


def _update(ids: list[int], tokens: int = 2) -> RequestUpdate:
    metrics = RequestMetrics(token_times_s=[0.1] * tokens, total_s=1.5)
    return RequestUpdate("r", ids, (), metrics, finished=True)


def _logged(path: Path, *updates: tuple[RequestUpdate, str | None], room: int = ROOM) -> list[str]:
    said: list[str] = []
    with closing(RequestLog(path, room, said.append, lambda: 100.0)) as log:
        for update, salt in updates:
            log.answered(update, salt)
    return said


def test_numbers_are_equal_where_the_tokens_and_the_salt_are() -> None:
    names, ids = Fingerprints(), list(range(1500))
    whole = names.of(ids, None)
    assert len(whole) == 3
    assert names.of(ids[:1024], None) == whole[:2]
    assert names.of([*ids[:1024], 7], None)[:2] == whole[:2]
    assert not set(names.of([*ids[:600], 0, *ids[601:]], None)[1:]) & set(whole)
    assert not set(names.of(ids, "s")) & set(whole)
    assert names.of(ids, "s") == names.of(ids, "s")
    assert all(0 <= number < 2**53 for number in whole)


def test_nobody_without_the_secret_can_compute_them() -> None:
    ids = list(range(512))
    assert Fingerprints().of(ids, None) != Fingerprints().of(ids, None)
    assert "secret" not in repr(Fingerprints())


def test_a_log_is_a_trace_that_the_planner_reads(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    shared = list(range(1024))
    _logged(path, (_update([*shared, 1], 3), None), (_update([*shared, 2]), None), (_update(shared), "other"))
    first, second, third = read_trace(path)
    assert (first.input_length, first.output_length) == (1025, 3)
    assert first.hash_ids[:2] == second.hash_ids[:2]
    assert not set(first.hash_ids) & set(third.hash_ids)
    assert len(set(mooncake(path).requests[0].blocks) & set(mooncake(path).requests[1].blocks)) == 64
    assert json.loads(path.read_text().splitlines()[0])["timestamp"] == 98_500
    assert path.stat().st_mode & 0o077 == 0


def test_times_count_from_the_earliest_whatever_ended_first(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    late = {"timestamp": 5000, "input_length": 1, "output_length": 1, "hash_ids": [1]}
    path.write_text("".join(json.dumps(line) + "\n" for line in (late, late | {"timestamp": 2000})))
    assert [request.arrival_s for request in read_trace(path)] == [0.0, 3.0]


def test_a_log_goes_on_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    _logged(path, (_update([1]), None))
    _logged(path, (_update([1]), None))
    assert len(read_trace(path)) == 2


def test_it_never_grows_beyond_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    said = _logged(path, *[(_update([1, 2, 3]), None)] * 50, room=500)
    assert 0 < path.stat().st_size <= 500
    assert len(said) == 1
    assert "as large as it may be" in said[0]
    assert read_trace(path)


def test_a_full_disk_ends_the_log_and_nothing_else() -> None:
    said = _logged(Path("/dev/full"), (_update([1]), None), (_update([1]), None))
    assert len(said) == 1
    assert "No space left" in said[0]


def test_a_file_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot log requests"):
        RequestLog(tmp_path / "nowhere" / "log", ROOM, print)


def test_what_waits_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Late(RequestLog):
        def _write(self, *line: object) -> None:
            begun.set()
            go_on.wait(20)
            super()._write(*line)  # type: ignore[arg-type]

    monkeypatch.setattr("kvloom.server.admin.request_log._WAITING", 2)
    path = tmp_path / "requests.jsonl"
    with closing(Late(path, ROOM, print)) as log:
        for _ in range(5):
            log.answered(_update([1]), None)
        go_on.set()
    assert log.dropped == 3
    assert len(read_trace(path)) == 2


async def test_what_is_answered_over_http_is_in_the_log_and_no_text_is(
    tmp_path: Path, new_engine: Callable[..., EchoEngine]
) -> None:
    path, engine = tmp_path / "requests.jsonl", new_engine()
    log = RequestLog(path, ROOM, print)
    transport = httpx2.ASGITransport(create_app(engine, ServerConfig(), log=log))
    async with httpx2.AsyncClient(transport=transport, base_url="http://kvloom") as http:
        body = {"model": engine.model_name, "prompt": "hello there", "max_tokens": 4}
        answer = (await http.post("/v1/completions", json=body)).json()
        assert (await http.post("/v1/completions", json=body | {"max_tokens": -1})).status_code == 400
    log.close()
    (request,) = read_trace(path)
    assert request.input_length == answer["usage"]["prompt_tokens"]
    assert request.output_length == answer["usage"]["completion_tokens"]
    assert set(json.loads(path.read_text())) == {"timestamp", "input_length", "output_length", "hash_ids"}
