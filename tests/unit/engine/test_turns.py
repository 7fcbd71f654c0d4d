"""Turns: fair between clients, in order of arrival within one, and bits never depend on them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from kvloom.engine.params import SamplingParams
from kvloom.engine.scheduler.turns import Turns

GREEDY = SamplingParams(temperature=0.0, max_tokens=5, ignore_eos=True)
COSTS = st.lists(st.integers(1, 8), min_size=1, max_size=30)


class Server:
    """Starts requests one by one, in order of (turn, arrival)."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.waiting: list[tuple[int, int, str, int]] = []
        self.arrivals = 0

    def ask(self, client: str, cost: int) -> int:
        """Returns the number of arrival."""
        self.waiting.append((self.turns.take(client, cost), self.arrivals, client, cost))
        self.arrivals += 1
        return self.arrivals - 1

    def start(self) -> tuple[int, str, int]:
        """The arrival, the client and the cost of whoever is next."""
        first = min(self.waiting)
        self.waiting.remove(first)
        self.turns.started(first[0])
        return first[1:]

    def waits(self, client: str) -> bool:
        return any(each[2] == client for each in self.waiting)


def test_clients_alternate_and_a_flood_is_passed() -> None:
    server = Server()
    for _ in range(5):
        server.ask("flood", 1)
    server.start()
    server.start()
    server.ask("single", 1)
    server.ask("pair", 1)
    server.ask("pair", 1)
    assert [server.start()[1] for _ in range(6)] == ["single", "pair", "flood", "pair", "flood", "flood"]


def test_many_sequences_count_as_many() -> None:
    server = Server()
    for _ in range(2):
        server.ask("wide", 4)
    for _ in range(5):
        server.ask("narrow", 1)
    assert [server.start()[1] for _ in range(7)] == ["wide", *["narrow"] * 4, "wide", "narrow"]


def test_rest_forgets_and_memory_stays_small() -> None:
    turns = Turns()
    for n in range(1000):
        turns.started(turns.take(f"connection {n}", 1))
        turns.started(turns.take("steady", 1))
    assert len(turns.ends) < 5
    turns.rest()
    assert (turns.now, turns.ends) == (0, {})


@given(COSTS)
def test_one_client_alone_sees_the_order_of_arrival(costs: list[int]) -> None:
    server, chance, started = Server(), random.Random(sum(costs)), []
    for cost in costs:
        server.ask("", cost)
        if chance.random() < 0.4:
            started.append(server.start()[0])
    started += [server.start()[0] for _ in range(len(server.waiting))]
    assert started == sorted(started)


@given(first=COSTS, second=COSTS, third=COSTS)
def test_nobody_gets_further_ahead_than_one_request_of_each(
    first: list[int], second: list[int], third: list[int]
) -> None:
    server, asked = Server(), {"a": first, "b": second, "c": third}
    for client, costs in asked.items():
        for cost in costs:
            server.ask(client, cost)
    got = dict.fromkeys(asked, 0)
    backlogged = set(asked)
    while server.waiting:
        _, client, cost = server.start()
        got[client] += cost
        backlogged = {each for each in backlogged if server.waits(each)}
        for one in backlogged:
            for other in backlogged:
                assert abs(got[one] - got[other]) <= max(asked[one]) + max(asked[other])
    assert got == {client: sum(costs) for client, costs in asked.items()}, "nobody starves"


@given(floods=st.lists(COSTS, min_size=1, max_size=6), before=st.integers(0, 40))
def test_who_comes_late_waits_for_one_request_of_each_at_most(floods: list[list[int]], before: int) -> None:
    server = Server()
    for n, costs in enumerate(floods):
        for cost in costs:
            server.ask(f"flood {n}", cost)
    for _ in range(min(before, len(server.waiting))):
        server.start()
    mine, passed = server.ask("late", 1), []
    while (nearest := server.start())[0] != mine:
        passed.append(nearest[1])
    assert len(passed) == len(set(passed))


def test_a_flood_delays_another_client_by_one_batch() -> None:
    engine = tiny.make_engine(max_seqs=4)
    for n in range(40):
        engine.submit(f"flood{n}", tiny.random_prompt(20, n), GREEDY, client="flood")
    engine.step()
    engine.submit("single", tiny.random_prompt(20, 99), GREEDY, client="single")
    ended: list[str] = []
    while "single" not in ended:
        ended += [update.request_id for update in engine.step() if update.finished]
        engine.check()
    assert len(ended) <= 8
    for name in list(engine.requests):
        engine.abort(name)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), windows=st.sampled_from([(None, None), (24, None, 24)]))
def test_answers_do_not_depend_on_turns(seed: int, windows: tuple[int | None, ...]) -> None:
    """Any clients, little memory: queues stay in order, and the tokens are the oracle's."""
    chance, engine = random.Random(seed), tiny.make_engine(windows, kv_bytes=320_000, step_tokens=24, max_seqs=3)
    base, names = tiny.random_prompt(60, seed), []
    got: dict[str, list[int]] = {}
    prompts = [base[: chance.randrange(1, 60)] + tiny.random_prompt(chance.randrange(1, 9), n) for n in range(10)]
    while len(names) < len(prompts) or engine.has_work:
        if len(names) < len(prompts) and chance.random() < 0.6:
            name = f"r{len(names)}"
            engine.submit(name, prompts[len(names)], GREEDY, client=chance.choice("abc"))
            names.append(name)
        for update in engine.step():
            assert update.error is None
            for delta in update.deltas:
                got.setdefault(update.request_id, []).extend(delta.token_ids)
        engine.check()
        for queue in (engine.scheduler.queues.waiting, engine.scheduler.queues.running):
            assert [each.order for each in queue] == sorted({each.order for each in queue})
    for n in chance.sample(range(len(prompts)), 3):
        assert got[f"r{n}"] == tiny.oracle(windows, prompts[n], 5)


def test_one_client_is_as_no_client() -> None:
    """The order of a library's requests is what it was."""
    orders = []
    for client in ("", "one"):
        engine = tiny.make_engine(max_seqs=2)
        for n in range(6):
            engine.submit(f"r{n}", tiny.random_prompt(20, n), GREEDY, client=client)
        ended = []
        while engine.has_work:
            ended += [update.request_id for update in engine.step() if update.finished]
        orders.append(ended)
    assert orders[0] == orders[1] == [f"r{n}" for n in range(6)]


@pytest.mark.parametrize("wide", [1, 3])
def test_continuations_count(wide: int) -> None:
    """Who asks for three continuations each time has a third of the requests."""
    engine, params = tiny.make_engine(max_seqs=1), SamplingParams(temperature=0.0, max_tokens=1, n=wide)
    for n in range(6):
        engine.submit(f"wide{n}", tiny.random_prompt(20, n), params, client="wide")
        engine.submit(f"one{n}", tiny.random_prompt(20, 50 + n), GREEDY, client="one")
    queue = [each.request.id for each in engine.scheduler.queues.waiting]
    assert queue.index("wide1") == 1 + wide
