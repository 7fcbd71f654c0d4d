"""Who takes part in which round of a cell, and who is stopped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from bench.cells import DENSE, Cell
from bench.compare import Prompts, take_rounds
from bench.comparison import Comparison
from bench.pace import FarBehind, Paced
from bench.remote import PeerFailed, RemotePeer
from kvloom.bench.target import Answer
from kvloom.bench.workloads import MultiTurn, SharedPrefix, Together, Workload

PROMPTS = Prompts(vocab_size=500, text=[], probe=[])


class Fake:
    """A peer that takes so many seconds for every run."""

    def __init__(self, name: str, seconds: float, log: list[str], fails_in: int | None = None) -> None:
        self.name, self.seconds, self.log, self.fails_in = name, seconds, log, fails_in
        self.expected: list[tuple[int, int]] = []
        self.runs = 0

    def expect(self, apart: int, longest: int) -> None:
        self.expected.append((apart, longest))

    def reset(self) -> None:
        self.log.append(self.name)

    def run(self, prompts: Sequence[Sequence[int]], num_new: int) -> list[Answer]:
        if self.runs == self.fails_in:
            raise PeerFailed("gone")
        self.runs += 1
        return [Answer([1] * num_new, [self.seconds] * num_new) for _ in prompts]

    def peak_bytes(self) -> int:
        return 1

    def counters(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        self.log.append(f"{self.name} closed")


def rounds_of(workload: Workload, peers: list[Fake], rounds: int = 3, group: str = "g") -> Comparison:
    result = Comparison(threads=1, quick=True, kv_tokens=1)
    running = cast(list[RemotePeer], peers)
    take_rounds(Cell(group, DENSE, workload, rounds), 0, running, PROMPTS, result)
    return result


def test_contenders_alone_have_the_later_rounds_and_turns_rotate() -> None:
    log: list[str] = []
    seconds = {"kvloom": 1.0, "openvino": 2.0, "vllm": 2.4, "llama.cpp": 3.1}
    result = rounds_of(Together(2, 4, 3), [Fake(name, taken, log) for name, taken in seconds.items()])
    assert log == [*seconds, "openvino", "vllm", "kvloom", "vllm", "kvloom", "openvino"]
    figure = Together(2, 4, 3).name
    found = {name: len(result.values("g", figure, name)) for name in seconds}
    assert found == {"kvloom": 3, "openvino": 3, "vllm": 3, "llama.cpp": 1}
    assert result.stopped == []


def test_the_best_peer_stays_however_far_ahead_kvloom_is() -> None:
    log: list[str] = []
    rounds_of(Together(2, 4, 3), [Fake("kvloom", 1.0, log), Fake("vllm", 50.0, log)], rounds=2)
    assert log == ["kvloom", "vllm", "vllm", "kvloom"]


def test_a_peer_far_behind_is_stopped_between_turns_and_not_asked_again() -> None:
    log: list[str] = []
    workload = MultiTurn(chats=2, turns=6, question=3, num_new=2)
    seconds = {"kvloom": 0.1, "openvino": 1.0, "vllm": 1.2, "llama.cpp": 1.6}
    peers = [Fake(name, taken, log) for name, taken in seconds.items()]
    result = rounds_of(workload, peers, rounds=2)
    (stopped,) = result.stopped
    assert (stopped.peer, stopped.why) == ("llama.cpp", "1.6 times the best peer's time after 8 runs")
    assert [peer.runs for peer in peers] == [24, 24, 24, 8]
    assert result.values("g", workload.name, "llama.cpp") == {}


def test_nobody_is_stopped_in_a_workload_of_few_runs() -> None:
    log: list[str] = []
    result = rounds_of(SharedPrefix(2, 8, 2, 2), [Fake("openvino", 1.0, log), Fake("llama.cpp", 9.0, log)], rounds=1)
    assert (len(result.samples), result.stopped) == (2, [])


def test_a_peer_that_fails_has_no_later_round() -> None:
    log: list[str] = []
    peers = [Fake("kvloom", 1.0, log), Fake("vllm", 1.0, log, fails_in=1)]
    result = rounds_of(Together(2, 4, 3), peers)
    assert log == ["kvloom", "vllm", "vllm", "vllm closed", "kvloom", "kvloom"]
    assert result.absent == {"vllm": "gone"}


def test_a_lone_peer_far_behind_those_before_it_has_one_round() -> None:
    log: list[str] = []
    result = Comparison(threads=1, quick=True, kv_tokens=1)
    for name, seconds in {"kvloom": 1.0, "openvino": 1.0, "llama.cpp": 3.0}.items():
        alone = cast(list[RemotePeer], [Fake(name, seconds, log)])
        take_rounds(Cell("g", DENSE, Together(2, 4, 3), 3), 0, alone, PROMPTS, result)
    assert log == ["kvloom"] * 3 + ["openvino"] * 3 + ["llama.cpp"]


def test_peers_hear_what_comes() -> None:
    peer = Fake("kvloom", 1.0, [])
    rounds_of(MultiTurn(chats=3, turns=2, question=5, num_new=2), [peer], rounds=1)
    rounds_of(Together(4, 10, 2), [peer], rounds=1)
    rounds_of(SharedPrefix(4, 10, 3, 2), [peer], rounds=1)
    assert peer.expected == [(3, 14), (4, 12), (1, 15)]


def test_a_variant_sits_out() -> None:
    log: list[str] = []
    peers = [Fake("kvloom", 1.0, log), Fake("llama.cpp-plain", 1.0, log)]
    rounds_of(Together(2, 4, 3), peers, rounds=1, group="together")
    assert log == ["kvloom"]


def test_pace_is_of_the_same_runs() -> None:
    paced = Paced(Fake("vllm", 1.0, []), best_s=[0.1] * 7 + [7.9])
    for _ in range(20):
        paced.run([[1]], 1)
    assert paced.taken_s[-1] == 20
    slower = Paced(Fake("vllm", 1.0, []), best_s=[9.0] * 8 + [5.9])
    for _ in range(8):
        slower.run([[1]], 1)
    with pytest.raises(FarBehind, match=r"1.5 times the best peer's time after 9 runs"):
        slower.run([[1]], 1)
