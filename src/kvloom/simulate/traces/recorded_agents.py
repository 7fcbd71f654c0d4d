"""Recorded sessions of a coding agent, played by so many users at once.

One JSON object a line, gzipped or not; fields that are not listed are not read:

    {"block_size": 64, "tool_tokens": 13136, "system_tokens": 4275, "requests": [
        {"t": 26.0, "in": 124107, "out": 429, "stop": "tool_use", "api_time": 9.15, "hash_runs": [[1, 1939]]},
        {"t": 30.5, "type": "subagent", "tool_tokens": 8306, "system_tokens": 735, "requests": [...]}]}

``t``: seconds since the session's start, of a sub-agent's requests since its own; ``in``, ``out``: tokens;
``api_time``: seconds until the answer was complete; ``hash_runs``: the contents of full blocks as (first, count),
equal ones being equal blocks of this session. What sessions share is not in them. It is rebuilt: a prompt begins with
its tools and its system prompt, and those of equal lengths are taken to be equal.
"""

from __future__ import annotations

import gzip
import heapq
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from kvloom.errors import TraceError
from kvloom.simulate.traces.numbers import Numbers, Once, num_recorded, regrouped
from kvloom.simulate.traces.trace import Ends, Request, Trace, ordered

_Count = Annotated[int, Field(ge=0)]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Recorded(BaseModel):
    """A request, or a sub-agent's ``requests``."""

    t: _Seconds
    input_tokens: _Count = Field(0, alias="in")
    output_tokens: _Count = Field(0, alias="out")
    stop: str | None = None
    api_time: _Seconds | None = None
    hash_runs: list[tuple[int, _Count]] = []
    tool_tokens: _Count = 0
    system_tokens: _Count = 0
    requests: list[_Recorded] | None = None


class _Session(BaseModel):
    block_size: Annotated[int, Field(ge=1)]
    tool_tokens: _Count
    system_tokens: _Count
    requests: list[_Recorded]


@dataclass(frozen=True, slots=True)
class RecordedAgents:
    """``users``: how many play sessions one after the other, each the next in the file that nobody has begun; they
    start ``between_s`` apart, and rest as long between two sessions. ``scale``: what lengths are divided by, to suit a
    smaller model. ``sessions``: read so many, or all.
    """

    path: Path
    users: int = 16
    scale: float = 1.0
    sessions: int | None = None
    between_s: float = 60.0

    def trace(self, block_tokens: int = 16) -> Trace:
        """Raises TraceError with the line's number, or OSError."""
        agents, free = _Agents(self.scale, block_tokens), [user * self.between_s for user in range(self.users)]
        found: list[Request] = []
        for session in _read(self.path, self.sessions):
            start_s = heapq.heappop(free)
            made = agents.played(session, session.block_size, start_s)
            found += made
            end_s = max([start_s, *(request.arrival_s for request in made)])
            heapq.heappush(free, end_s + self.between_s)
        scaled = f" / {self.scale:g}" if self.scale != 1 else ""
        return ordered(f"agents x{self.users}{scaled}", block_tokens, found)


@dataclass(slots=True)
class _Agents:
    """Sessions become requests; all share their numbers."""

    scale: float
    block_tokens: int
    numbers: Numbers = field(default_factory=Numbers)
    once: Once = field(default_factory=Once)
    sessions: int = 0

    def played(
        self, agent: _Session | _Recorded, block_size: int, start_s: float, scope: int | None = None
    ) -> list[Request]:
        """Requests of one agent, and of those that it started. ``scope``: of the recorded ids, those of a session."""
        session, self.sessions = self.sessions, self.sessions + 1
        scope = session if scope is None else scope
        recorded = [each for each in agent.requests or () if each.requests is None and each.input_tokens]
        contents = _contents(recorded, agent, block_size, scope)
        found: list[Request] = []
        end_s: float | None = None
        for position, each in enumerate(recorded):
            now = start_s + each.t
            lengths = max(1, round(each.input_tokens / self.scale)), max(1, round(each.output_tokens / self.scale))
            blocks = self._blocks(contents, position, sum(lengths), block_size / self.scale)
            ends: Ends = "tool_call" if each.stop == "tool_use" else "answer"
            pause_s = None if end_s is None else max(0.0, now - end_s)
            found.append(Request(now, session, ends, *lengths, blocks, pause_s))
            end_s = max(end_s or 0.0, now + (each.api_time or 0.0))
        for each in agent.requests or ():
            if each.requests:
                found += self.played(each, block_size, start_s + each.t, scope)
        return found

    def _blocks(
        self, contents: list[list[Hashable]], position: int, tokens: int, recorded_tokens: float
    ) -> tuple[int, ...]:
        count = -(-tokens // self.block_tokens)
        needed = num_recorded(recorded_tokens, count, self.block_tokens)
        whole = _continued(contents, position, needed, self.once)
        return self.numbers.chain(regrouped(whole, recorded_tokens, count, self.block_tokens))


def _contents(
    recorded: Sequence[_Recorded], agent: _Session | _Recorded, block_size: int, scope: int
) -> list[list[Hashable]]:
    """Of full blocks, for every request. What the first request begins with is what sessions share."""
    runs = [
        [content for first, count in each.hash_runs for content in range(first, first + count)] for each in recorded
    ]
    shared: dict[int, Hashable] = {}
    for index, content in enumerate(runs[0] if runs else []):
        stop = (index + 1) * block_size
        if stop <= agent.tool_tokens:
            shared[content] = "tools", agent.tool_tokens, index
        elif stop <= agent.tool_tokens + agent.system_tokens:
            shared[content] = "system", agent.tool_tokens, agent.system_tokens, index
    return [[shared.get(content, (scope, content)) for content in each] for each in runs]


def _continued(contents: list[list[Hashable]], position: int, needed: int, once: Once) -> list[Hashable]:
    """So many contents of a request: its own, then of its output what the next request shows of it."""
    own = contents[position][:needed]
    following = contents[position + 1] if position + 1 < len(contents) else []
    if following[: len(own)] == own:
        own = following[:needed]
    return [*own, *(once() for _ in range(needed - len(own)))]


def _read(path: Path, limit: int | None) -> Iterator[_Session]:
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if limit is not None and number > limit:
                    return
                yield _Session.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise TraceError(f"{path}, line {number}: {where or 'the line'}: {first['msg']}") from None
    except EOFError:
        raise TraceError(f"{path}: cut off after line {number}", hint="copy the file again") from None
