"""Traces: equal contents have equal numbers, whatever they were recorded in, and seeds say everything."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvloom.errors import TraceError
from kvloom.simulate.traces.made_agents import MadeAgents
from kvloom.simulate.traces.mooncake import mooncake
from kvloom.simulate.traces.multi_turn import MultiTurn
from kvloom.simulate.traces.numbers import num_recorded, regrouped
from kvloom.simulate.traces.recorded_agents import RecordedAgents
from kvloom.simulate.traces.trace import Request, Trace, ordered


def shared_blocks(one: Request, other: Request) -> int:
    """How many blocks two requests begin with."""
    same = 0
    for mine, others in zip(one.blocks, other.blocks, strict=False):
        if mine != others:
            break
        same += 1
    return same


def check(trace: Trace) -> None:
    """What holds for every trace."""
    place: dict[int, tuple[int, int | None]] = {}
    ended: dict[int, float] = {}
    for request in trace.requests:
        assert len(request.blocks) == -(-request.tokens // trace.block_tokens)
        assert min(request.input_tokens, request.output_tokens) >= 1
        for index, (before, number) in enumerate(zip((None, *request.blocks), request.blocks, strict=False)):
            assert place.setdefault(number, (index, before)) == (index, before), "a number says what is before it"
        assert (request.pause_s is None) == (request.session not in ended)
        assert request.pause_s is None or request.pause_s >= 0
        ended[request.session] = request.arrival_s
    assert all(one.arrival_s <= other.arrival_s for one, other in pairwise(trace.requests))
    assert trace.longest == max(len(request.blocks) for request in trace.requests)


@given(
    recorded=st.integers(1, 40),
    scale=st.sampled_from([1.0, 3.0, 16.0]),
    block=st.integers(1, 40),
    blocks=st.integers(1, 12),
    differs=st.integers(0, 600),
)
@example(recorded=14, scale=3.0, block=14, blocks=6, differs=14)
def test_regrouped_blocks_differ_where_their_tokens_do(
    recorded: int, scale: float, block: int, blocks: int, differs: int
) -> None:
    """Token by token: the oracle."""
    count = num_recorded(recorded / scale, blocks, block)
    one = list(range(count))
    other = [-1 if number == differs else number for number in one]
    mine, others = (regrouped(each, recorded / scale, blocks, block) for each in (one, other))
    for index in range(blocks):
        touched = {int(token * scale / recorded) for token in range(index * block, (index + 1) * block)}
        if differs in touched:
            assert mine[index] != others[index]
        if mine[index] != others[index]:
            assert index * block * scale / recorded < differs + 1, "nothing before it has changed"
            assert (index + 1) * block * scale / recorded > differs


def test_contents_are_equal_where_numbers_are() -> None:
    one, other = Request(0.0, 0, "answer", 7, 2, (3, 4, 5)), Request(0.0, 1, "answer", 5, 1, (3, 6))
    trace = Trace("made", 4, (one, other))
    mine, others = trace.contents(one, 1000), trace.contents(other, 1000)
    assert (len(mine), len(others)) == (9, 6)
    assert mine[:4] == others[:4]
    assert mine[4:6] != others[4:6]
    assert all(100 <= token < 1000 for token in mine)
    assert all(1 <= token < 50 for token in trace.contents(one, 50))
    with pytest.raises(TraceError, match="no requests"):
        ordered("none", 16, [])


class TestMultiTurn:
    def test_sessions_share_their_beginning_and_go_on_from_their_own_end(self) -> None:
        trace = MultiTurn(sessions=12).trace(3)
        check(trace)
        last: dict[int, Request] = {}
        for request in trace.requests:
            for session, before in last.items():
                assert shared_blocks(before, request) == (len(before.blocks) if session == request.session else 20)
            last[request.session] = request
        assert len(last) == 12
        assert all(4 <= turns <= 8 for turns in Counter(r.session for r in trace.requests).values())

    def test_times_vary_as_they_are_told(self) -> None:
        for made in (MultiTurn(800, dispersion=5.0), MultiTurn(800, dispersion=10.0, think_cv=1.0)):
            trace = made.trace(0)
            pauses_s = [request.pause_s for request in trace.requests if request.pause_s is not None]
            mean_s = sum(pauses_s) / len(pauses_s)
            cv = (sum((pause_s - mean_s) ** 2 for pause_s in pauses_s) / len(pauses_s)) ** 0.5 / mean_s
            assert mean_s == pytest.approx(20 * made.dispersion, rel=0.05)
            assert cv == pytest.approx(made.think_cv, rel=0.05)
            starts_s = [request.arrival_s for request in trace.requests if request.pause_s is None]
            assert starts_s[-1] / 800 == pytest.approx(20, rel=0.05)

    def test_a_seed_says_everything(self) -> None:
        assert MultiTurn().trace(1) == MultiTurn().trace(1) != MultiTurn().trace(2)

    def test_turns_must_have_room_for_answers(self) -> None:
        with pytest.raises(ValueError, match="may add 32 tokens only, of which 32 are its answer"):
            MultiTurn(lengths=(256, 512))


class TestMadeAgents:
    def test_is_a_trace_and_a_seed_says_everything(self) -> None:
        trace = MadeAgents(tasks=8).trace(5)
        check(trace)
        assert trace == MadeAgents(tasks=8).trace(5) != MadeAgents(tasks=8).trace(6)

    def test_who_shares_what(self) -> None:
        """All begin with the tools, agents with a system prompt too; branches share more than that with an agent."""
        trace = MadeAgents(tasks=20).trace(1)
        firsts = [request for request in trace.requests if request.pause_s is None]
        sharing = Counter(max(shared_blocks(one, each) for each in firsts if each is not one) for one in firsts)
        assert min(sharing) == 48, "512 tokens of tools, 256 of the system prompt"
        assert 20 < sharing[48] < len(firsts)
        with_anyone = [min(shared_blocks(one, each) for each in firsts) for one in firsts]
        assert set(with_anyone) == {32}, "sub-agents and agents share the tools"
        branching = [
            (one, other)
            for number, one in enumerate(trace.requests)
            for other in firsts
            if other.session != one.session and shared_blocks(one, other) > 48
        ]
        assert branching

    def test_tools_return_sooner_than_people(self) -> None:
        trace = MadeAgents(tasks=40, subagents=0.0, branches=0.0).trace(1)
        last: dict[int, Request] = {}
        pauses_s: dict[str, list[float]] = {"answer": [], "tool_call": []}
        for request in trace.requests:
            if request.pause_s is not None:
                pauses_s[last[request.session].ends].append(request.pause_s)
            last[request.session] = request
        tools, people = (sum(each) / len(each) for each in (pauses_s["tool_call"], pauses_s["answer"]))
        assert tools == pytest.approx(8.0, rel=0.2)
        assert people == pytest.approx(120.0, rel=0.4)


class TestMooncake:
    def written(self, path: Path) -> Path:
        rows = [(0, 700, 40, [1, 2]), (1000, 1024, 512, [1, 3]), (2000, 600, 4, [4, 2])]
        fields = ("timestamp", "input_length", "output_length", "hash_ids")
        path.write_text("\n".join(json.dumps(dict(zip(fields, row, strict=True))) for row in rows))
        return path

    @pytest.mark.parametrize("block_tokens", [16, 100, 512, 1024])
    def test_any_length_of_block(self, tmp_path: Path, block_tokens: int) -> None:
        trace = mooncake(self.written(tmp_path / "some.jsonl"), block_tokens)
        check(trace)
        first, second, third = trace.requests
        assert trace.name == "some"
        assert [request.arrival_s for request in trace.requests] == [0.0, 1.0, 2.0]
        assert shared_blocks(first, second) == 512 // block_tokens
        assert shared_blocks(first, third) == 0, "the second block is the same only after the same first"
        assert (second.input_tokens, second.output_tokens) == (1024, 512)

    def test_limit_and_errors(self, tmp_path: Path) -> None:
        path = self.written(tmp_path / "t")
        assert mooncake(path, limit=2).requests == mooncake(path).requests[:2]
        path.write_text('{"timestamp": 0}')
        with pytest.raises(TraceError, match="line 1"):
            mooncake(path)


def recorded(t: float, tokens: int, runs: list[list[int]], stop: str = "tool_use", **more: object) -> dict[str, Any]:
    return {"t": t, "type": "n", "in": tokens, "out": 64, "stop": stop, "api_time": 2.0, "hash_runs": runs, **more}


def session(requests: list[dict[str, Any]], tools: int = 128, system: int = 64) -> dict[str, Any]:
    return {"id": "x", "block_size": 64, "tool_tokens": tools, "system_tokens": system, "requests": requests}


def written(path: Path, *sessions: object) -> Path:
    text = "\n".join(json.dumps(each) for each in sessions)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


class TestRecordedAgents:
    TWO = session([recorded(0.0, 260, [[1, 4]]), recorded(10.0, 460, [[1, 7]], "end_turn")])

    @pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
    def test_sessions_of_equal_prompts_share_tools_and_system_prompt(self, tmp_path: Path, name: str) -> None:
        other_system, other_tools = (session(self.TWO["requests"], *lengths) for lengths in ((128, 70), (192, 0)))
        path = written(tmp_path / name, self.TWO, self.TWO, other_system, other_tools)
        trace = RecordedAgents(path, users=1).trace(64)
        check(trace)
        first, _, same, _, system, _, tools, _ = trace.requests
        assert shared_blocks(first, same) == 3
        assert shared_blocks(first, system) == 2
        assert shared_blocks(first, tools) == 0
        assert [request.session for request in trace.requests] == [0, 0, 1, 1, 2, 2, 3, 3]

    def test_an_answer_is_what_the_next_request_shows_of_it(self, tmp_path: Path) -> None:
        trace = RecordedAgents(written(tmp_path / "a", self.TWO)).trace(64)
        first, second = trace.requests
        assert (first.tokens, first.ends, first.pause_s) == (324, "tool_call", None)
        assert (second.tokens, second.ends, second.pause_s) == (524, "answer", 8.0)
        assert shared_blocks(first, second) == len(first.blocks) == 6

    def test_edited_histories_share_what_is_before_the_edit(self, tmp_path: Path) -> None:
        edited = session([recorded(0.0, 640, [[1, 10]]), recorded(9.0, 640, [[1, 5], [50, 1], [7, 4]])])
        first, second = RecordedAgents(written(tmp_path / "a", edited)).trace(64).requests
        assert shared_blocks(first, second) == 5
        assert not set(first.blocks[5:]) & set(second.blocks[5:])

    def test_scaled_down(self, tmp_path: Path) -> None:
        trace = RecordedAgents(written(tmp_path / "a", self.TWO, self.TWO), users=1, scale=4.0).trace(16)
        check(trace)
        first, second, other, _ = trace.requests
        assert (first.input_tokens, first.output_tokens, second.input_tokens) == (65, 16, 115)
        assert shared_blocks(first, second) == len(first.blocks)
        assert shared_blocks(first, other) == 3

    def test_users_take_turns_at_sessions(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a", *[self.TWO] * 4)
        starts = [r.arrival_s for r in RecordedAgents(path, users=2, between_s=5.0).trace(64).requests]
        assert starts == [0.0, 5.0, 10.0, 15.0, 15.0, 20.0, 25.0, 30.0]
        assert len(RecordedAgents(path, sessions=3).trace(64).requests) == 6

    def test_sub_agents_are_sessions_of_their_own(self, tmp_path: Path) -> None:
        inner = {"tool_tokens": 64, "system_tokens": 64, "requests": [recorded(0.0, 300, [[30, 4]])]}
        outer = session([recorded(0.0, 260, [[1, 4]]), {"t": 4.0, "type": "subagent", **inner}])
        trace = RecordedAgents(written(tmp_path / "a", outer, outer), users=2, between_s=100.0).trace(64)
        check(trace)
        _, sub, _, other = trace.requests
        assert sub.blocks[:4] != other.blocks[:4], "ids are local to a session"
        assert (sub.arrival_s, sub.session, other.arrival_s) == (4.0, 1, 104.0)
        assert shared_blocks(sub, other) == 2

    def test_ids_of_a_sub_agent_are_those_of_its_session(self, tmp_path: Path) -> None:
        inner = {"tool_tokens": 0, "system_tokens": 0, "requests": [recorded(0.0, 300, [[1, 4]])]}
        outer = session([recorded(0.0, 260, [[1, 4]]), {"t": 4.0, "type": "subagent", **inner}], 0, 0)
        first, sub = RecordedAgents(written(tmp_path / "a", outer)).trace(64).requests
        assert shared_blocks(first, sub) == 4

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("{", "line 2: the line: Invalid JSON"),
            ("{}", "line 2: block_size: Field required"),
            (json.dumps(session([{"in": 4}])), "line 2: requests.0.t: Field required"),
            (json.dumps(session([recorded(-1.0, 4, [])])), "line 2: requests.0.t: Input should be greater"),
        ],
    )
    def test_bad_lines_are_named(self, tmp_path: Path, line: str, said: str) -> None:
        path = written(tmp_path / "a", self.TWO)
        path.write_text(path.read_text() + "\n" + line)
        with pytest.raises(TraceError, match=said):
            RecordedAgents(path).trace()

    def test_files_that_end_early(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.gz", self.TWO)
        path.write_bytes(path.read_bytes()[:-12])
        with pytest.raises(TraceError, match="cut off after line"):
            RecordedAgents(path).trace()
        with pytest.raises(TraceError, match="no requests"):
            RecordedAgents(written(tmp_path / "empty", session([]))).trace()
