"""Work there is, but nothing to do: the engine sleeps until somebody brings news."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

import tiny
from kvloom import LLM
from kvloom.engine.async_engine import AsyncEngine
from kvloom.engine.defaults import SamplingDefaults
from kvloom.engine.engine import Engine
from kvloom.engine.params import SamplingParams
from kvloom.engine.scheduler.state import Queues, StepPlan
from kvloom.engine.stall import Stall

GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
PROMPT = tiny.random_prompt(40, 1)


class Gate:
    """A stage that takes everything out of the plan while it is shut, as if all requests waited for their KV."""

    def __init__(self, engine: Engine) -> None:
        self.inside, self.shut = engine.scheduler.stages, True
        engine.scheduler.stages = (self,)

    def run(self, queues: Queues, plan: StepPlan) -> None:
        for stage in () if self.shut else self.inside:
            stage.run(queues, plan)

    def open(self) -> None:
        self.shut = False


def steps_until_stalled(engine: Engine) -> int:
    steps = 0
    while engine.runnable:
        engine.step()
        steps += 1
        assert steps < 20
    return steps


def test_an_idle_engine_has_nothing_to_do() -> None:
    engine = tiny.make_engine()
    assert not engine.has_work
    assert not engine.runnable
    tiny.run(engine, {"a": PROMPT}, GREEDY)
    assert not engine.runnable


def test_it_stops_when_nothing_moves_and_goes_on_with_news() -> None:
    engine = tiny.make_engine()
    gate = Gate(engine)
    engine.submit("a", PROMPT, GREEDY)
    assert steps_until_stalled(engine) == 2, "the second one shows that the first one changed nothing"
    assert engine.has_work
    engine.wake()
    assert steps_until_stalled(engine) == 1
    gate.open()
    assert not engine.runnable, "nobody has told"
    engine.wake()
    assert engine.runnable
    assert tiny.drain(engine, ["a"])["a"].tokens[0] == tiny.oracle((None, None), PROMPT, 6)


@pytest.mark.parametrize(
    "news",
    [
        lambda engine: engine.submit("b", PROMPT, GREEDY),
        lambda engine: engine.abort("gone"),
        lambda engine: engine.reset_cache(),
    ],
    ids=["submit", "abort", "reset"],
)
def test_what_counts_as_news(news: Callable[[Engine], None]) -> None:
    engine = tiny.make_engine()
    Gate(engine)
    for name in ("a", "gone"):
        engine.submit(name, PROMPT, GREEDY)
    steps_until_stalled(engine)
    news(engine)
    assert engine.runnable
    steps_until_stalled(engine)


def test_it_is_runnable_as_long_as_it_runs() -> None:
    """Also where memory is so tight that steps preempt, start over and plan nothing in between."""
    for windows, kv_bytes in (((None, None), 300_000), ((24, None, 24), 290_000), ((20, 20), 240_000)):
        engine = tiny.make_engine(windows, kv_bytes=kv_bytes, step_tokens=16)
        params = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True)
        for n in range(6):
            engine.submit(f"r{n}", tiny.random_prompt(60, n), params)
        while engine.has_work:
            assert engine.runnable
            engine.step()


def test_news_in_the_middle_of_a_step_is_not_lost() -> None:
    stall = Stall()
    for _ in range(2):
        stall.step_begins()
        stall.step_idled("same")
    assert not stall.over
    stall.wake()
    stall.step_begins()
    stall.wake()  # comes after this step has looked
    stall.step_idled("same")
    assert stall.over
    stall.step_begins()
    stall.step_idled("same")
    assert not stall.over
    stall.wake()
    stall.step_begins()
    stall.step_worked()
    assert stall.over


async def settled(core: Engine) -> int:
    """Steps so far, once no more are made."""
    while core.runnable or not core.steps:
        await asyncio.sleep(0.005)
    return core.steps


async def test_the_thread_sleeps_until_a_command_arrives() -> None:
    core = tiny.make_engine()
    gate = Gate(core)
    engine = AsyncEngine.over(core, tiny.CharTokenizer(), "tiny")
    try:

        async def ask() -> list[int]:
            outputs = [output async for output in engine.generate(PROMPT, GREEDY)]
            return outputs[-1].outputs[0].token_ids

        asking = asyncio.ensure_future(ask())
        steps = await asyncio.wait_for(settled(core), 20)
        await asyncio.sleep(0.1)
        assert core.steps == steps, "it spins"
        await engine.check()
        assert await asyncio.wait_for(settled(core), 20) <= steps + 1, "a command is worth one step"
        assert not asking.done()
        started = time.monotonic()
        await engine._call(gate.open)
        assert await asyncio.wait_for(asking, 20) == tiny.oracle((None, None), PROMPT, 6)
        assert time.monotonic() - started < 10
    finally:
        engine.close()


async def test_a_stalled_request_can_be_aborted() -> None:
    core = tiny.make_engine()
    Gate(core)
    engine = AsyncEngine.over(core, tiny.CharTokenizer(), "tiny")
    try:

        async def ask() -> str | None:
            return [output async for output in engine.generate(PROMPT, GREEDY, "me")][-1].outputs[0].finish_reason

        asking = asyncio.ensure_future(ask())
        await asyncio.wait_for(settled(core), 20)
        await engine.abort("me")
        assert await asyncio.wait_for(asking, 20) == "abort"
        await engine.check()
        assert engine.stats().cache.held_pages == 0
    finally:
        engine.close()


def test_the_library_sleeps_too(monkeypatch: pytest.MonkeyPatch) -> None:
    core = tiny.make_engine()
    gate = Gate(core)
    loaded = SimpleNamespace(engine=core, tokenizer=tiny.CharTokenizer(), defaults=SamplingDefaults())
    monkeypatch.setattr("kvloom.engine.llm.build", lambda config: loaded)
    stalled_at: list[int] = []

    def bring() -> None:
        while core.runnable or not core.steps:
            time.sleep(0.005)
        time.sleep(0.1)
        stalled_at.append(core.steps)
        gate.open()
        core.wake()

    loader = threading.Thread(target=bring)
    loader.start()
    (output,) = LLM("tiny").generate(PROMPT, GREEDY)
    loader.join()
    assert output.outputs[0].token_ids == tiny.oracle((None, None), PROMPT, 6)
    assert stalled_at == [2]
