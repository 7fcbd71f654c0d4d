"""Made sessions of agents: tool calls with pauses, people who read answers, branches, and sub-agents.

A task begins with the tools and the system prompt that all tasks share. The agent calls tools, whose results are added
after a pause, and answers; a person reads that, and asks on. Now and then it tries two ways from the same context at
once, one of which is given up later, or waits for a sub-agent, which begins with the same tools and another system
prompt, and knows nothing else. The numbers are ours, of the order of what is recorded (``recorded_agents``).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np

from kvloom.simulate.traces.numbers import Numbers, Once
from kvloom.simulate.traces.trace import Ends, Request, Trace, ordered


@dataclass(frozen=True, slots=True)
class MadeAgents:
    """Lengths in tokens and counts are uniform between the two numbers, the second one not included. Times are means;
    tools take Gamma times with a coefficient of variation of ``tool_cv``, people with one of 1. ``branches``,
    ``subagents``: the chances of one at a tool call.
    """

    tasks: int = 24
    tools_tokens: int = 512
    system_tokens: int = 256
    task_tokens: tuple[int, int] = (200, 1200)
    result_tokens: tuple[int, int] = (20, 500)
    answer_tokens: int = 48
    calls: tuple[int, int] = (3, 12)
    questions: tuple[int, int] = (1, 4)
    arrival_s: float = 45.0
    tool_s: float = 8.0
    tool_cv: float = 1.5
    read_s: float = 120.0
    branches: float = 0.06
    subagents: float = 0.06

    def trace(self, seed: int, block_tokens: int = 16) -> Trace:
        """The same seed gives the same trace."""
        world = _World(self, np.random.default_rng(seed), block_tokens)
        now = 0.0
        for _ in range(self.tasks):
            now += float(world.rng.exponential(self.arrival_s))
            world.task(now)
        return ordered(f"made agents seed {seed}", block_tokens, world.requests)


@dataclass(slots=True)
class _Context:
    """``pieces``: contents and their tokens; ``asked``: when, the pause before, how the output ends, input tokens."""

    pieces: list[tuple[Hashable, int]]
    asked: list[tuple[float, float | None, Ends, int]] = field(default_factory=list)
    ended_s: float | None = None

    @property
    def tokens(self) -> int:
        return sum(tokens for _, tokens in self.pieces)

    def ask(self, now: float, ends: Ends, answer: tuple[Hashable, int]) -> None:
        pause_s = None if self.ended_s is None else now - self.ended_s
        self.asked.append((now, pause_s, ends, self.tokens))
        self.pieces.append(answer)
        self.ended_s = now


@dataclass(slots=True)
class _World:
    """What happens in all tasks."""

    of: MadeAgents
    rng: np.random.Generator
    block_tokens: int
    requests: list[Request] = field(default_factory=list)
    numbers: Numbers = field(default_factory=Numbers)
    once: Once = field(default_factory=Once)
    sessions: int = 0

    def task(self, now: float) -> None:
        context = _Context([*self.beginning("agent"), self.new(self.of.task_tokens)])
        for _ in range(self.count(self.of.questions)):
            now = self.calls(context, now)
            self.ask(context, now, "answer")
            now += float(self.rng.exponential(self.of.read_s))
            context.pieces.append(self.new(self.of.result_tokens))
        self.end(context)

    def calls(self, context: _Context, now: float) -> float:
        """Tools are called until there is something to answer: the time of that."""
        for _ in range(self.count(self.of.calls)):
            self.ask(context, now, "tool_call")
            chance = self.rng.random()
            if chance < self.of.branches:
                self.branch(context, now)
            delegates = self.of.branches <= chance < self.of.branches + self.of.subagents
            now = self.subagent(now) if delegates else now + self.tool_s()
            context.pieces.append(self.new(self.of.result_tokens))
        return now

    def branch(self, context: _Context, now: float) -> None:
        """Another way from here, given up after a few calls."""
        other = _Context([*context.pieces, self.new(self.of.result_tokens)])
        for _ in range(self.count(self.of.calls) // 2 + 1):
            now += self.tool_s()
            self.ask(other, now, "tool_call")
            other.pieces.append(self.new(self.of.result_tokens))
        self.end(other)

    def subagent(self, now: float) -> float:
        """The time at which it has answered."""
        context = _Context([*self.beginning("sub-agent"), self.new(self.of.task_tokens)])
        for _ in range(self.count(self.of.calls)):
            self.ask(context, now, "tool_call")
            now += self.tool_s()
            context.pieces.append(self.new(self.of.result_tokens))
        self.ask(context, now, "answer")
        self.end(context)
        return now

    def end(self, context: _Context) -> None:
        """Nothing will be asked in it again: what it asked becomes requests."""
        ends = np.cumsum([tokens for _, tokens in context.pieces])
        starts = ends - [tokens for _, tokens in context.pieces]
        contents = []
        for start in range(0, context.tokens, self.block_tokens):
            touched = np.flatnonzero((starts < start + self.block_tokens) & (ends > start))
            contents.append(tuple(context.pieces[index][0] for index in touched))
        blocks = self.numbers.chain(contents)
        answer = self.of.answer_tokens
        for now, pause_s, how, tokens in context.asked:
            mine = blocks[: -(-(tokens + answer) // self.block_tokens)]
            self.requests.append(Request(now, self.sessions, how, tokens, answer, mine, pause_s))
        self.sessions += 1

    def beginning(self, of: str) -> list[tuple[Hashable, int]]:
        return [("tools", self.of.tools_tokens), (of, self.of.system_tokens)]

    def new(self, lengths: tuple[int, int]) -> tuple[Hashable, int]:
        return self.once(), self.count(lengths)

    def ask(self, context: _Context, now: float, ends: Ends) -> None:
        context.ask(now, ends, (self.once(), self.of.answer_tokens))

    def count(self, between: tuple[int, int]) -> int:
        return int(self.rng.integers(*between))

    def tool_s(self) -> float:
        return float(self.rng.gamma(self.of.tool_cv**-2, self.of.tool_s * self.of.tool_cv**2))
