"""Which policy and how much memory would serve a trace best: all are tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from kvloom.simulate.machines import Machine
from kvloom.simulate.results import Summary
from kvloom.simulate.simulation import Setting, simulate
from kvloom.simulate.traces.trace import Trace

AS_GOOD = 1.05
"""Memory that makes the mean time to the first token no more than so many times the least is enough."""

_WAITING_S = 1.0
"""More than what a machine takes for a few answers that are being given."""

SHARES = (0.25, 0.5, 1.0)
"""Of a machine's memory for KV, where no sizes are asked for."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a setting."""

    setting: Setting
    summary: Summary


def tried(
    trace: Trace,
    machine: Machine,
    settings: Sequence[Setting],
    speed: float = 1.0,
    on_end: Callable[[], None] = lambda: None,
) -> Iterator[Tried]:
    """One after the other. ``on_end``: called for every request of each. Raises ConfigError."""
    for setting in settings:
        yield Tried(setting, simulate(trace, machine, setting, speed=speed, on_end=on_end))


def recommended(results: Sequence[Tried]) -> Tried:
    """The least memory with which some policy is about as good as any with any memory, and the best policy there.

    By mean time to the first token, among those that refuse the fewest requests; of equals, the first.
    """
    fewest = min(each.summary.refused for each in results)
    able = [each for each in results if each.summary.refused == fewest]
    enough_s = AS_GOOD * min(each.summary.ttft.mean for each in able)
    least = min(each.setting.kv_bytes for each in able if each.summary.ttft.mean <= enough_s)
    return min((each for each in able if each.setting.kv_bytes == least), key=lambda each: each.summary.ttft.mean)


def overloaded(result: Tried, trace: Trace, machine: Machine) -> bool:
    """Whether most requests wait for others for longer than any would take alone: times to first tokens then say
    above all how long the machine has been behind.
    """
    longest = max(request.input_tokens for request in trace.requests)
    alone_s = machine.cost.prefill.step(longest, longest * (longest - 1) // 2)
    return result.summary.ttft.median > _WAITING_S + alone_s
