"""Warm memory: formats that share a budget, and pages that are dropped or damaged while they are read."""

from __future__ import annotations

import random
from typing import Any

import pytest

from kvloom.errors import ConfigError
from kvloom.memory.tier import warm
from kvloom.memory.tier.base import Fault, TierFault
from kvloom.memory.tier.warm import WarmTier
from tier_cases import FORMATS, made_page, read_back


def test_formats_take_room_from_each_other() -> None:
    tier = WarmTier(300_000, FORMATS)
    for number in range(300):
        tier.write(made_page(number, number // 100 % 2))
        tier.check()
    assert not any(tier.holds(made_page(number, 1).place) for number in range(100, 200))
    tier.write(made_page(300, 1))
    tier.check()
    assert tier.holds(made_page(299).place)
    assert 5 < tier.usage().pages < 20


def test_the_arena_is_whole_after_anything() -> None:
    tier, rng = WarmTier(300_000, FORMATS), random.Random(0)
    for _ in range(400):
        page = made_page(rng.randrange(60), rng.randrange(2))
        if rng.random() < 0.02:
            tier.clear()
        elif tier.holds(page.place):
            assert read_back(tier, page) == bytes(page.data)
        else:
            tier.write(page)
        tier.check()
        assert tier.usage().used_bytes <= 300_000


def test_a_budget_without_room_for_a_page_is_refused() -> None:
    with pytest.raises(ConfigError, match="10000 bytes of warm memory cannot hold a page") as caught:
        WarmTier(10_000, FORMATS)
    assert caught.value.hint is not None
    least = int(caught.value.hint.split()[3].rstrip(","))
    with pytest.raises(ConfigError):
        WarmTier(least - 1, FORMATS)
    tier = WarmTier(least, FORMATS)
    for number in (0, 1):
        for group in (0, 1):
            tier.write(made_page(number, group))
            assert tier.holds(made_page(number, group).place)


@pytest.mark.parametrize("group", [0, 2, 9])
def test_a_page_of_no_group_here_is_refused(group: int) -> None:
    tier, page = WarmTier(300_000, FORMATS), made_page(0, 1)
    with pytest.raises(TierFault) as caught:
        tier.write(warm.StoredPage(page.place._replace(group=group), page.parent, 0, page.tokens, page.data))
    assert caught.value.fault is Fault.DIFFERS
    assert tier.usage().pages == 0


def test_bytes_that_changed_in_memory_are_no_hit() -> None:
    tier, page = WarmTier(300_000, FORMATS), made_page(0)
    empty = tier.usage().used_bytes
    tier.write(page)
    tier._arena.memory[:] ^= 1
    with pytest.raises(TierFault) as caught:
        read_back(tier, page)
    assert caught.value.fault is Fault.CORRUPT
    assert not tier.holds(page.place)
    assert tier.usage().used_bytes == empty


@pytest.mark.parametrize("what", ["written over", "cleared", "closed"])
def test_a_page_that_is_being_read_is_not_written_over(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    tier, page = WarmTier(300_000, FORMATS), made_page(0)
    tier.write(page)
    copy = warm.np.copyto

    def interrupted(to: Any, source: Any) -> None:
        """All of memory is asked for by others between the pin and the copy."""
        monkeypatch.setattr(warm.np, "copyto", copy)
        if what == "cleared":
            tier.clear()
        if what == "closed":
            tier.close()
        else:
            for number in range(1, 60):
                tier.write(made_page(number))
            assert tier.usage().dropped_pages > 30
        copy(to, source)

    monkeypatch.setattr(warm.np, "copyto", interrupted)
    assert read_back(tier, page) == bytes(page.data)
    assert tier.holds(page.place) == (what == "written over")
    tier.check()
    tier.clear()
    assert tier.usage().used_bytes == 0


def test_what_was_cleared_while_it_was_written_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    tier, page = WarmTier(300_000, FORMATS), made_page(0)
    copy = warm.np.copyto

    def interrupted(to: Any, source: Any) -> None:
        tier.clear()
        copy(to, source)

    monkeypatch.setattr(warm.np, "copyto", interrupted)
    tier.write(page)
    assert not tier.holds(page.place)
    assert tier.usage().used_bytes == 0
