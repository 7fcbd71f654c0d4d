"""What is true of every tier."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvloom.memory.tier.base import Fault, StoredPage, Tier, TierFault
from tier_cases import TIERS, made_page, read_back

ROOM = 400_000
OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["write", "write", "read", "clear"]), st.integers(0, 40), st.integers(0, 1)), max_size=120
)


@pytest.fixture(params=TIERS)
def tier(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tier]:
    made = TIERS[request.param](tmp_path, ROOM)
    yield made
    made.close()


def fill(tier: Tier, first: int = 0) -> int:
    """Write pages until one is dropped. Returns the number of the next."""
    dropped = tier.usage().dropped_pages
    while tier.usage().dropped_pages == dropped:
        tier.write(made_page(first))
        first += 1
    return first


@pytest.mark.parametrize("group", [0, 1])
def test_what_is_written_is_read(tier: Tier, group: int) -> None:
    page = made_page(3, group)
    assert not tier.holds(page.place)
    tier.write(page)
    assert tier.holds(page.place)
    assert read_back(tier, page) == bytes(page.data)
    assert tier.usage().pages == 1


def test_groups_are_kept_apart(tier: Tier) -> None:
    tier.write(made_page(3, 0))
    assert not tier.holds(made_page(3, 1).place)
    with pytest.raises(TierFault) as caught:
        read_back(tier, made_page(3, 1))
    assert caught.value.fault is Fault.GONE


def test_other_tokens_are_no_hit(tier: Tier) -> None:
    page = made_page(1)
    tier.write(page)
    with pytest.raises(TierFault) as caught:
        read_back(tier, replace(page, tokens=(*page.tokens[:-1], 7)))
    assert caught.value.fault is Fault.DIFFERS
    assert read_back(tier, page) == bytes(page.data)


def test_another_size_is_no_hit(tier: Tier) -> None:
    page = made_page(1)
    tier.write(page)
    with pytest.raises(TierFault) as caught:
        read_back(tier, replace(page, data=page.data[:-64]))
    assert caught.value.fault is Fault.DIFFERS
    assert read_back(tier, page) == bytes(page.data)


def test_a_page_is_kept_once(tier: Tier) -> None:
    tier.write(made_page(1))
    used = tier.usage().used_bytes
    tier.write(made_page(1))
    assert (tier.usage().used_bytes, tier.usage().pages) == (used, 1)


def test_the_least_recently_used_go_first(tier: Tier) -> None:
    """Reading is a use, and so is writing what is there."""
    after = fill(tier)
    kept = [number for number in range(after) if tier.holds(made_page(number).place)]
    assert kept == list(range(after - len(kept), after))
    read, written = kept[0], kept[1]
    read_back(tier, made_page(read))
    tier.write(made_page(written))
    dropped = tier.usage().dropped_pages
    while tier.usage().dropped_pages - dropped < len(kept) - 3:
        tier.write(made_page(after))
        after += 1
    assert tier.holds(made_page(read).place)
    assert tier.holds(made_page(written).place)
    assert not tier.holds(made_page(kept[2]).place)


def test_clear_forgets_everything(tier: Tier) -> None:
    empty = tier.usage().used_bytes
    after = fill(tier)
    tier.clear()
    assert not any(tier.holds(made_page(number).place) for number in range(after))
    assert (tier.usage().used_bytes, tier.usage().pages) == (empty, 0)
    tier.write(made_page(0))
    assert read_back(tier, made_page(0)) == bytes(made_page(0).data)


def test_closing_twice_is_closing(tier: Tier) -> None:
    tier.write(made_page(0))
    tier.close()
    tier.close()
    with pytest.raises(TierFault):
        tier.write(made_page(1))


@pytest.mark.parametrize("name", TIERS)
@given(operations=OPERATIONS, room=st.integers(60_000, ROOM))
@settings(deadline=None, max_examples=40)
def test_the_budget_holds_and_bytes_are_right(name: str, operations: list[tuple[str, int, int]], room: int) -> None:
    with TemporaryDirectory() as directory:
        tier = TIERS[name](Path(directory), room)
        held: set[tuple[int, int]] = set()
        for operation, number, group in operations:
            page = made_page(number, group)
            if operation == "clear":
                tier.clear()
                held.clear()
            elif operation == "write":
                tier.write(page)
                held.add((number, group))
            elif tier.holds(page.place):
                assert read_back(tier, page) == bytes(page.data)
            usage = tier.usage()
            assert usage.used_bytes <= usage.budget_bytes
            held = {each for each in held if tier.holds(made_page(*each).place)}
            assert usage.pages == len(held), "nothing is there that was not written"
        tier.close()


def one_more(tier: Tier, rng: random.Random, page: StoredPage) -> None:
    """Something that threads do to a tier. What has just been dropped, or has no room just now, is no error."""
    with suppress_faults(Fault.GONE, Fault.FULL):
        if rng.random() < 0.01:
            tier.clear()
        elif rng.random() < 0.5:
            tier.write(page)
        elif tier.holds(page.place):
            assert read_back(tier, page) == bytes(page.data)
    usage = tier.usage()
    assert usage.used_bytes <= usage.budget_bytes


@contextmanager
def suppress_faults(*kinds: Fault) -> Iterator[None]:
    try:
        yield
    except TierFault as fault:
        if fault.fault not in kinds:
            raise


def test_readers_and_writers_at_once_never_see_wrong_bytes(tier: Tier) -> None:
    """Pages are dropped, cleared and written anew while others read them."""
    pages = [made_page(number, number % 2) for number in range(60)]
    wrong: list[str] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(150):
            try:
                one_more(tier, rng, rng.choice(pages))
            except BaseException as error:
                wrong.append(repr(error))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    tier.clear()
    assert tier.usage().pages == 0
