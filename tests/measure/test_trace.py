"""Traces: every bad line is named, equal hash ids are equal tokens, and a replay keeps arrival times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvloom.bench.replay import Replay, Replayed
from kvloom.bench.trace import BLOCK_TOKENS, TraceRequest, read_trace
from kvloom.errors import TraceError
from tiny import VOCAB, make_engine

GOOD = {"timestamp": 100, "input_length": 600, "output_length": 3, "hash_ids": [4, 9]}


def written(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_reads_lines_by_arrival(tmp_path: Path) -> None:
    later, earlier = GOOD | {"timestamp": 2100}, GOOD | {"timestamp": 1100}
    found = read_trace(written(tmp_path / "t", GOOD, later, "", earlier))
    assert [request.arrival_s for request in found] == [0.0, 1.0, 2.0]
    assert found[0] == TraceRequest(0.0, 600, 3, (4, 9))
    assert len(read_trace(tmp_path / "t", limit=2)) == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: not valid JSON"),
        ("[1]", r"line 2: not a JSON object but \[1\]"),
        (GOOD | {"timestamp": -1}, "line 2: `timestamp` must be a number of at least 0, got -1"),
        (GOOD | {"timestamp": "x"}, 'line 2: `timestamp` must be a number of at least 0, got "x"'),
        ('{"timestamp": NaN, "input_length": 1}', "line 2: `timestamp`"),
        ({"timestamp": 0}, "line 2: `input_length` must be a whole number of at least 1, got null"),
        (GOOD | {"input_length": True}, "line 2: `input_length`"),
        (GOOD | {"output_length": 0}, "line 2: `output_length` must be a whole number of at least 1, got 0"),
        (GOOD | {"hash_ids": "ab"}, "line 2: `hash_ids` must be a list of whole numbers"),
        (GOOD | {"hash_ids": [1, 2.5]}, "line 2: `hash_ids` must be a list of whole numbers"),
        (GOOD | {"hash_ids": [1]}, "line 2: 600 tokens take 2 `hash_ids` of 512 tokens, there are 1"),
    ],
)
def test_bad_lines_are_named(line: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=said):
        read_trace(written(tmp_path / "t", GOOD, line))


def test_files_without_requests(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no requests"):
        read_trace(written(tmp_path / "t", "", ""))
    (tmp_path / "b").write_bytes(b"\xff\xfe")
    with pytest.raises(TraceError, match="not valid UTF-8 at byte 0"):
        read_trace(tmp_path / "b")
    with pytest.raises(FileNotFoundError):
        read_trace(tmp_path / "none")


def test_equal_hash_ids_are_equal_tokens() -> None:
    one = TraceRequest(0, 2 * BLOCK_TOKENS, 1, (5, 6)).prompt(1000)
    other = TraceRequest(0, BLOCK_TOKENS + 7, 1, (5, 8)).prompt(1000)
    assert len(other) == BLOCK_TOKENS + 7
    assert one[:BLOCK_TOKENS] == other[:BLOCK_TOKENS]
    assert one[BLOCK_TOKENS : BLOCK_TOKENS + 7] != other[BLOCK_TOKENS:]
    assert all(100 <= token < 1000 for token in one)
    assert all(0 < token < VOCAB for token in TraceRequest(0, 99, 1, (5,)).prompt(VOCAB))


class Clock:
    """Time passes only while the replay sleeps, and a little with every look."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_a_replay_waits_for_arrivals_and_reuses_what_repeats() -> None:
    engine, clock, ended = make_engine(), Clock(), []
    engine.clock = clock
    requests = [
        TraceRequest(0.0, 100, 3, (1,)),
        TraceRequest(10.0, 90, 4, (1,)),
        TraceRequest(11.0, 5000, 2, (7,) * 10),
    ]
    result = Replayed(on_end=lambda: ended.append(1))
    Replay(engine, result, 2.0, clock.sleep).run(requests)
    assert sum(clock.slept) == pytest.approx(5.5, abs=0.1)
    assert (result.output_tokens, result.refused, len(ended)) == (7, 1, 3)
    assert result.input_tokens == 190
    assert result.cached_tokens == 89  # at least one token of a prompt is always computed
    assert len(result.ttft_s) == 2
    assert len(result.gaps_s) == 2 + 3
    assert not engine.has_work
    engine.check()
