"""Faults that are injected, and that every tier finds by itself what is done to its bytes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvloom.config import TierFaults, parse_faults
from kvloom.memory.tier.base import Fault, StoredPage, Tier, TierFault
from kvloom.memory.tier.faulty import Damageable, FaultyTier, with_bit_flipped
from tier_cases import DAMAGEABLE, made_page, read_back

ROOM = 400_000


@pytest.fixture(params=DAMAGEABLE)
def tier(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Damageable]:
    made = DAMAGEABLE[request.param](tmp_path, ROOM)
    yield made
    made.close()


def outcome(tier: Tier, page: StoredPage) -> Fault | bytes:
    try:
        return read_back(tier, page)
    except TierFault as error:
        return error.fault


@pytest.mark.parametrize("where", [0.0, 0.004, 0.02, 0.5, 0.999999])
def test_a_flipped_bit_is_found_by_the_tier(tier: Damageable, where: float) -> None:
    """In the header, where there is one, and in the page."""
    page = made_page(1)
    tier.write(page)
    tier.damage(page.place, lambda data: with_bit_flipped(data, int(where * 8 * len(data))))
    assert outcome(tier, page) is Fault.CORRUPT
    assert not tier.holds(page.place)
    tier.write(page)
    assert outcome(tier, page) == bytes(page.data)


@pytest.mark.parametrize("where", [0.0, 0.004, 0.5, 0.999999])
def test_missing_bytes_are_found_by_the_tier(tier: Damageable, where: float) -> None:
    page = made_page(1)
    tier.write(page)
    tier.damage(page.place, lambda data: data[: int(where * len(data))])
    assert outcome(tier, page) is (Fault.CORRUPT if tier.name == "warm" else Fault.SHORT)
    assert not tier.holds(page.place)
    tier.write(page)
    assert outcome(tier, page) == bytes(page.data)


def test_damage_to_what_is_not_there(tier: Damageable) -> None:
    tier.damage(made_page(1).place, lambda data: b"")
    assert tier.usage().pages == 0
    assert outcome(tier, made_page(1)) is Fault.GONE


@pytest.mark.parametrize(
    ("fault", "written", "read"),
    [
        ("fail", Fault.FAILED, Fault.FAILED),
        ("full", Fault.FULL, None),
        ("corrupt", None, Fault.CORRUPT),
        ("short", None, Fault.SHORT),
    ],
)
def test_each_fault(tier: Damageable, fault: str, written: Fault | None, read: Fault | None) -> None:
    if (tier.name, fault) == ("warm", "short"):
        read = Fault.CORRUPT
    page = made_page(1)
    faulty = FaultyTier(tier, parse_faults(f"{tier.name}:{fault}=1"))
    assert faulty.name == tier.name
    if written is not None:
        with pytest.raises(TierFault, match="injected") as caught:
            faulty.write(page)
        assert caught.value.fault is written
        assert not tier.holds(page.place)
        tier.write(page)
    else:
        faulty.write(page)
    assert outcome(faulty, page) == (read or bytes(page.data))
    assert faulty.usage() == tier.usage()


def test_slow_is_slept_before_reads_and_writes(tier: Damageable) -> None:
    slept: list[float] = []
    faulty = FaultyTier(tier, parse_faults(f"{tier.name}:slow=1@0.25s"), sleep=slept.append)
    faulty.write(made_page(1))
    assert outcome(faulty, made_page(1)) == bytes(made_page(1).data)
    assert slept == [0.25, 0.25]


def drawn(tier: Damageable, faults: TierFaults) -> list[Fault | bytes]:
    faulty = FaultyTier(tier, faults)
    tier.write(made_page(1))
    return [outcome(faulty, made_page(1)) for _ in range(400)]


def test_a_seed_says_which_calls_go_wrong(tier: Damageable) -> None:
    faults = TierFaults(tier="warm", fail=0.25)
    first, again = drawn(tier, faults), drawn(tier, faults)
    assert first == again
    assert first != drawn(tier, TierFaults(tier="warm", fail=0.25, seed=1))
    assert 60 < first.count(Fault.FAILED) < 140


def test_whatever_goes_wrong_no_wrong_bytes_and_no_more_than_the_budget(tier: Damageable) -> None:
    faulty = FaultyTier(
        tier, parse_faults(f"{tier.name}:fail=0.1,short=0.1,corrupt=0.2,full=0.1,slow=0.1@0s"), sleep=lambda _: None
    )
    rng = random.Random(5)
    seen: set[Fault] = set()
    right = 0
    for _ in range(600):
        page = made_page(rng.randrange(60), rng.randrange(2))
        if faulty.holds(page.place):
            got = outcome(faulty, page)
            assert isinstance(got, Fault) or got == page.data
            right += got == page.data
            seen |= {got} if isinstance(got, Fault) else set()
        else:
            try:
                faulty.write(page)
            except TierFault as error:
                seen.add(error.fault)
        assert faulty.usage().used_bytes <= faulty.usage().budget_bytes
    assert right > 50
    assert seen == {Fault.FAILED, Fault.CORRUPT, Fault.FULL} | (set() if tier.name == "warm" else {Fault.SHORT})
