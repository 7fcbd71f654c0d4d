"""The remote tier and a real server."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from kvloom.config import RemoteConfig
from kvloom.errors import ConfigError
from kvloom.memory.tier.base import Fault, Place, StoredPage, TierFault
from kvloom.memory.tier.page_header import HEADER_BYTES
from kvloom.memory.tier.remote import BOOK_BYTES, RemoteTier, open_remote
from kvloom.memory.tier.remote_places import RemotePlaces
from kvloom.segment import PageKey
from remote_cases import DATA_BYTES, PAGE_COST, PAUSE_MS, answers, config, fault_of, make, name_of, page, read
from traced_memory import watched

if TYPE_CHECKING:
    from valkey_server import RunningValkey


@pytest.fixture
def tier(valkey: RunningValkey) -> Iterator[RemoteTier]:
    with closing(make(valkey)) as made:
        yield made


def test_what_is_written_is_read(tier: RemoteTier) -> None:
    pages = [page(number) for number in range(5)]
    for each in pages:
        tier.write(each)
    assert all(tier.holds(each.place) for each in pages)
    assert [read(tier, each) for each in pages] == [bytes(each.data) for each in pages]


def test_two_salts_never_share_a_value(tier: RemoteTier, valkey: RunningValkey) -> None:
    one, other = page(1, salt="one"), page(1, salt="other")
    assert one.tokens == other.tokens
    tier.write(one)
    assert not tier.holds(other.place)
    tier.write(other)
    assert valkey.raw.dbsize() == 2
    assert [read(tier, one), read(tier, other)] == [bytes(one.data), bytes(other.data)]


def test_pages_of_another_engine_are_found_by_a_refresh(tier: RemoteTier, valkey: RunningValkey) -> None:
    with closing(make(valkey)) as other:
        other.write(page(1))
        assert not tier.holds(page(1).place)
        tier.refresh()
        assert read(tier, page(1)) == bytes(page(1).data)
        assert tier.usage().used_bytes == 0, "it is charged to the engine that wrote it"
        tier.write(page(1))
        assert tier.usage().used_bytes == 0, "it was there already"


def test_namespaces_share_nothing(tier: RemoteTier, valkey: RunningValkey) -> None:
    tier.write(page(1))
    with closing(make(valkey, namespace="kv")) as other:
        other.refresh()
        assert other.usage().pages == 0
        other.clear()
        other.refresh()
    assert read(tier, page(1)) == bytes(page(1).data)


def test_a_thread_finds_what_others_write(valkey: RunningValkey) -> None:
    with closing(make(valkey)) as other, closing(open_remote(config(valkey, refresh_seconds=0.01))) as tier:
        other.write(page(1))
        wait_until(lambda: tier.holds(page(1).place))
        tier.clear()
        wait_until(lambda: valkey.raw.dbsize() == 0)
        wait_until(lambda: not tier.holds(page(1).place))


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("not within ten seconds")


# -- the budget --------------------------------------------------------------------------------------------------------


def test_the_least_recently_used_is_dropped_to_stay_within_the_budget(valkey: RunningValkey) -> None:
    with closing(make(valkey, 3 * PAGE_COST)) as tier:
        for number in range(3):
            tier.write(page(number))
        assert tier.usage().used_bytes == 3 * PAGE_COST
        read(tier, page(0))
        tier.write(page(1))
        tier.write(page(3))
        assert [tier.holds(page(number).place) for number in range(4)] == [True, True, False, True]
        assert sorted(valkey.raw.keys()) == sorted(name_of(page(number)).encode() for number in (0, 1, 3))
        assert (tier.usage().used_bytes, tier.usage().dropped_pages) == (3 * PAGE_COST, 1)


def test_a_charge_covers_what_the_server_needs(tier: RemoteTier, valkey: RunningValkey) -> None:
    tier.write(page(1))
    assert valkey.raw.memory_usage(name_of(page(1))) <= 1.25 * PAGE_COST, "allocators round up by a quarter"


def test_books_take_what_is_charged_for_them() -> None:
    places = RemotePlaces(2**30, most_others=0)
    with watched() as grown:
        for number in range(2000):
            place = Place(PageKey(number.to_bytes(32)), 0)
            assert places.begin_write(place)
            assert places.charge(place, 100) == []
            places.written(place)
    assert 0.4 * BOOK_BYTES < grown.bytes / 2000 <= BOOK_BYTES


def test_no_more_than_so_many_pages_of_others_are_remembered() -> None:
    places = RemotePlaces(1000, most_others=10)
    for number in range(15):
        own = Place(PageKey(number.to_bytes(32)), 1)
        places.begin_write(own)
        places.charge(own, 10)
        places.written(own)
    survey = places.survey()
    places.see(survey, [Place(PageKey(number.to_bytes(32)), group) for number in range(15) for group in (0, 1)])
    places.conclude(survey)
    assert len(places) == 25
    assert places.used_bytes == 150


def test_a_page_larger_than_the_budget(valkey: RunningValkey) -> None:
    with closing(make(valkey, PAGE_COST - 1)) as tier:
        assert fault_of(lambda: tier.write(page(1))) is Fault.FULL
        assert valkey.raw.dbsize() == 0


def test_what_could_not_be_dropped_stays_charged(impatient: RemoteTier, valkey: RunningValkey) -> None:
    impatient.write(page(1))
    impatient.write(page(2))
    valkey.raw.client_pause(PAUSE_MS)
    assert fault_of(lambda: impatient.write(page(3))) is Fault.SLOW
    assert impatient.usage().used_bytes == 2 * PAGE_COST
    answers(valkey)
    impatient.write(page(3))
    assert impatient.usage().used_bytes == 2 * PAGE_COST
    assert valkey.raw.dbsize() <= 2


def test_what_was_perhaps_written_is_charged_until_a_scan(impatient: RemoteTier, valkey: RunningValkey) -> None:
    impatient.write(page(0))
    valkey.raw.client_pause(PAUSE_MS)
    assert fault_of(lambda: impatient.write(page(1))) is Fault.SLOW
    assert not impatient.holds(page(1).place)
    assert impatient.usage().used_bytes == 2 * PAGE_COST
    answers(valkey)
    impatient.refresh()
    landed = valkey.raw.exists(name_of(page(1)))
    assert impatient.usage().used_bytes == (1 + landed) * PAGE_COST
    assert impatient.holds(page(1).place) == landed


def test_clear_deletes_the_namespace(tier: RemoteTier, valkey: RunningValkey) -> None:
    valkey.raw.set("other:0", "stays")
    valkey.raw.set("kvloom:what", "no page")
    with closing(make(valkey)) as other:
        other.write(page(2))
    tier.write(page(1))
    tier.clear()
    assert not tier.holds(page(1).place)
    assert tier.usage().used_bytes == 0
    assert sorted(valkey.raw.keys()) == [b"kvloom:what", b"other:0"]


def test_what_a_clear_could_not_delete_is_deleted_later(impatient: RemoteTier, valkey: RunningValkey) -> None:
    impatient.write(page(1))
    valkey.raw.client_pause(PAUSE_MS)
    impatient.clear()
    assert not impatient.holds(page(1).place)
    assert fault_of(lambda: read(impatient, page(1))) is Fault.GONE
    assert impatient.usage().used_bytes == PAGE_COST, "it is still there"
    answers(valkey)
    impatient.refresh()
    assert impatient.usage().used_bytes == valkey.raw.dbsize() == 0
    impatient.write(page(1))
    impatient.refresh()
    assert read(impatient, page(1)) == bytes(page(1).data)


# -- what a server does ------------------------------------------------------------------------------------------------


def test_each_use_extends_the_life_of_a_page(tier: RemoteTier, valkey: RunningValkey) -> None:
    for use in (lambda: tier.write(page(1)), lambda: read(tier, page(1)), lambda: tier.write(page(1))):
        use()
        assert valkey.raw.ttl(name_of(page(1))) > 3600
        valkey.raw.expire(name_of(page(1)), 100)


def expire(valkey: RunningValkey, of: StoredPage) -> None:
    valkey.raw.pexpire(name_of(of), 1)
    time.sleep(0.005)


def test_an_expired_page_is_gone(tier: RemoteTier, valkey: RunningValkey) -> None:
    tier.write(page(1))
    expire(valkey, page(1))
    assert fault_of(lambda: read(tier, page(1))) is Fault.GONE
    assert not tier.holds(page(1).place)
    assert tier.usage().used_bytes == 0
    tier.write(page(1))
    assert read(tier, page(1)) == bytes(page(1).data)


def test_an_expired_page_is_written_again(tier: RemoteTier, valkey: RunningValkey) -> None:
    tier.write(page(1))
    expire(valkey, page(1))
    tier.write(page(1))
    assert read(tier, page(1)) == bytes(page(1).data)
    assert tier.usage().used_bytes == PAGE_COST


def test_a_refresh_misses_an_expired_page(tier: RemoteTier, valkey: RunningValkey) -> None:
    tier.write(page(1))
    tier.write(page(2))
    expire(valkey, page(1))
    tier.refresh()
    assert [tier.holds(page(1).place), tier.holds(page(2).place)] == [False, True]
    assert tier.usage().used_bytes == PAGE_COST


def test_a_server_without_memory_is_full(tier: RemoteTier, valkey: RunningValkey) -> None:
    tier.write(page(1))
    valkey.raw.config_set("maxmemory", 1)
    for _ in range(5):
        assert fault_of(lambda: tier.write(page(2))) is Fault.FULL
    assert tier.usage().used_bytes == PAGE_COST
    valkey.raw.config_set("maxmemory", 0)
    assert read(tier, page(1)) == bytes(page(1).data), "being full does not open the breaker"


def test_what_the_server_drops_is_gone(tier: RemoteTier, valkey: RunningValkey) -> None:
    for number in range(50):
        tier.write(page(number))
    valkey.raw.config_set("maxmemory-policy", "allkeys-lru")
    valkey.raw.config_set("maxmemory", valkey.raw.info("memory")["used_memory"] - 20 * DATA_BYTES)
    tier.write(page(50))
    left = {name for number in range(51) if valkey.raw.exists(name := name_of(page(number)))}
    assert 0 < len(left) < 45
    for number in range(51):
        if name_of(page(number)) in left:
            assert read(tier, page(number)) == bytes(page(number).data)
        else:
            assert fault_of(lambda number=number: read(tier, page(number))) is Fault.GONE
    assert tier.usage().used_bytes == len(left) * PAGE_COST


# -- damage ------------------------------------------------------------------------------------------------------------


def flipped(value: bytes, byte: int) -> bytes:
    return value[:byte] + bytes([value[byte] ^ 0x10]) + value[byte + 1 :]


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda value: b"", Fault.SHORT),
        (lambda value: value[: HEADER_BYTES - 1], Fault.SHORT),
        (lambda value: value[:-1], Fault.SHORT),
        (lambda value: value + b"x", Fault.CORRUPT),
        (lambda value: b"no page at all" * 300, Fault.CORRUPT),
        *[
            (lambda value, byte=byte: flipped(value, byte), Fault.CORRUPT)
            for byte in (0, 9, 40, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + DATA_BYTES - 1)
        ],
    ],
)
def test_damage_is_found_and_removed(
    tier: RemoteTier, valkey: RunningValkey, damage: Callable[[bytes], bytes], fault: Fault
) -> None:
    tier.write(page(1))
    valkey.raw.set(name_of(page(1)), damage(valkey.raw.get(name_of(page(1)))))
    assert fault_of(lambda: read(tier, page(1))) is fault
    assert not tier.holds(page(1).place)
    assert valkey.raw.dbsize() == tier.usage().used_bytes == 0
    tier.write(page(1))
    assert read(tier, page(1)) == bytes(page(1).data)


def test_a_page_in_another_ones_place(tier: RemoteTier, valkey: RunningValkey) -> None:
    tier.write(page(1))
    valkey.raw.rename(name_of(page(1)), name_of(page(2)))
    tier.refresh()
    assert fault_of(lambda: read(tier, page(2))) is Fault.CORRUPT


def test_what_is_no_string_of_bytes(tier: RemoteTier, valkey: RunningValkey) -> None:
    valkey.raw.lpush(name_of(page(1)), "an item")
    tier.refresh()
    assert fault_of(lambda: read(tier, page(1))) is Fault.CORRUPT
    assert valkey.raw.dbsize() == 0


def test_a_page_of_another_version_is_replaced(
    tier: RemoteTier, valkey: RunningValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(make(valkey)) as other, monkeypatch.context() as later:
        later.setattr("kvloom.memory.tier.page_header.VERSION", 2)
        other.write(page(1))
    tier.refresh()
    assert fault_of(lambda: read(tier, page(1))) is Fault.DIFFERS
    assert not tier.holds(page(1).place)
    tier.write(page(1))
    assert read(tier, page(1)) == bytes(page(1).data)


def test_another_page_size_differs(tier: RemoteTier) -> None:
    tier.write(page(1))
    into = memoryview(bytearray(DATA_BYTES // 2))
    assert fault_of(lambda: tier.read(page(1).place, page(1).tokens, into)) is Fault.DIFFERS
    assert fault_of(lambda: tier.read(page(1).place, page(2).tokens, memoryview(bytearray(DATA_BYTES)))) is (
        Fault.DIFFERS
    )


@pytest.mark.parametrize("name", ["kvloom:0:abc", "kvloom:x:" + "0" * 64, "kvloom:", "kvloom:0:" + "A" * 64])
def test_names_that_are_none_are_passed_over(tier: RemoteTier, valkey: RunningValkey, name: str) -> None:
    valkey.raw.set(name, "x")
    tier.refresh()
    assert tier.usage().pages == 0


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://somewhere", "is not the URL of a server"),
        ("somewhere:6379", "is not the URL of a server"),
        ("valkey://somewhere:port", "is not the URL of a server"),
        ("valkey://somewhere?socket_timeout=60", "sets no `socket_timeout`"),
        ("valkey://somewhere?db=1&shoe_size=43", "sets no `shoe_size`"),
    ],
)
def test_urls_that_are_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_remote(RemoteConfig(url=url))


def test_messages_do_not_tell_passwords(valkey: RunningValkey) -> None:
    asked = RemoteConfig(url="valkey://user:secret@127.0.0.1:1/0?password=secret", timeout_seconds=0.05)
    assert "secret" not in repr(asked)
    with closing(open_remote(asked)) as tier, pytest.raises(TierFault) as caught:
        tier.write(page(1))
    assert "127.0.0.1" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_without_the_client_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkey", None)
    with pytest.raises(ConfigError, match="needs the package") as caught:
        open_remote(RemoteConfig(url="valkey://127.0.0.1:1/0"))
    assert caught.value.hint == "pip install 'kvloom[valkey]'"


@pytest.mark.parametrize("name", ["", "a:b", "a*", "a b", "x" * 65])
def test_namespaces_that_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="namespace"):
        RemoteConfig(url="valkey://127.0.0.1", namespace=name)
