"""The remote tier and servers that are dead, slow, or none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from kvloom.config import RemoteConfig
from kvloom.memory.tier.base import Fault, Place, TierFault
from kvloom.memory.tier.remote import RemoteTier, open_remote
from kvloom.memory.tier.remote_server import RemoteServer
from remote_cases import PAGE_COST, PAUSE_MS, Clock, answers, config, fault_of, make, page, read

if TYPE_CHECKING:
    from valkey_server import RunningValkey


@pytest.fixture
def tier(valkey: RunningValkey) -> Iterator[RemoteTier]:
    with closing(make(valkey)) as made:
        yield made


def test_a_killed_server_fails_then_is_left_alone_then_comes_back(valkey: RunningValkey) -> None:
    clock = Clock()
    with closing(RemoteTier(RemoteServer(config(valkey)), 100 * PAGE_COST, clock=clock)) as tier:
        tier.write(page(1))
        valkey.kill()
        for _ in range(3):
            assert tier.holds(page(1).place)
            assert fault_of(lambda: read(tier, page(1))) is Fault.FAILED
        assert not tier.holds(page(1).place)
        valkey.restart()
        with pytest.raises(TierFault, match="left alone"):
            tier.write(page(2))
        clock.now = 10.0
        tier.refresh()
        assert not tier.holds(page(1).place), "it was lost with the server"
        assert tier.usage().used_bytes == 0
        tier.write(page(2))
        assert read(tier, page(2)) == bytes(page(2).data)


def test_a_restart_between_two_calls_is_no_fault(tier: RemoteTier, valkey: RunningValkey) -> None:
    tier.write(page(1))
    valkey.restart()
    tier.write(page(2))
    assert read(tier, page(2)) == bytes(page(2).data)


def test_a_server_that_does_not_answer_in_time(impatient: RemoteTier, valkey: RunningValkey) -> None:
    impatient.write(page(1))
    valkey.raw.client_pause(PAUSE_MS)
    assert fault_of(lambda: read(impatient, page(1))) is Fault.SLOW
    assert fault_of(lambda: impatient.write(page(2))) is Fault.SLOW
    assert fault_of(impatient.refresh) is Fault.SLOW
    assert not impatient.holds(page(1).place)
    answers(valkey)
    assert fault_of(impatient.refresh) is Fault.FAILED, "left alone"


def test_answers_that_take_long_in_all_count_as_faults(valkey: RunningValkey) -> None:
    clock = Clock()

    class SlowServer(RemoteServer):
        def get(self, place: Place) -> bytes | None:
            clock.now += 11.0
            return super().get(place)

    with closing(RemoteTier(SlowServer(config(valkey)), 100 * PAGE_COST, clock=clock)) as tier:
        tier.write(page(1))
        assert [read(tier, page(1)) for _ in range(3)] == [bytes(page(1).data)] * 3
        assert not tier.holds(page(1).place)


@contextmanager
def impostor(answer: Callable[[bytes], Iterator[bytes]], **settings: Any) -> Iterator[RemoteTier]:
    """A tier with a server of which only ``answer`` is known: pieces of what it says to a command."""

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                while asked := self.request.recv(2**20):
                    for piece in answer(asked):
                        self.request.sendall(piece)

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"valkey://127.0.0.1:{server.server_address[1]}"
        with closing(RemoteTier(RemoteServer(RemoteConfig(url=url, **settings)), 100 * PAGE_COST)) as tier:
            yield tier
        server.shutdown()


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b":5\r\n", Fault.FAILED),
        (b"*2\r\n:7\r\n*0\r\n", Fault.FAILED),
        (b"HTTP/1.1 400 \r\n", Fault.FAILED),
        (b"+OK\r\n", Fault.SHORT),
        (b"$2\r\nhi\r\n", Fault.SHORT),
        (b"*-1\r\n", Fault.GONE),
    ],
)
def test_a_server_that_talks_nonsense(answer: bytes, fault: Fault) -> None:
    with impostor(lambda asked: iter([answer])) as tier:
        with suppress(TierFault):
            tier.write(page(1))
        tier._places._known.add(page(1).place)
        assert fault_of(lambda: read(tier, page(1))) is fault


def test_a_scan_that_comes_to_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvloom.memory.tier.remote_server._MOST_PARTS", 20)

    def more(asked: bytes) -> Iterator[bytes]:
        yield b"+OK\r\n" * asked.count(b"SETINFO") or b"*2\r\n$1\r\n7\r\n*0\r\n"

    with impostor(more) as tier, pytest.raises(TierFault, match="no end"):
        tier.refresh()


def test_an_answer_that_trickles_in_is_not_waited_for() -> None:
    """Each byte comes in time, and all of them together do not."""

    def trickle(asked: bytes) -> Iterator[bytes]:
        yield b"+OK\r\n" * asked.count(b"SETINFO")
        if b"GETEX" in asked:
            yield b"$100\r\n"
            for _ in range(100):
                time.sleep(0.02)
                yield b"x"
            yield b"\r\n"
        elif b"SET\r\n" in asked:
            yield b"+OK\r\n"

    with impostor(trickle, timeout_seconds=0.3) as tier:
        tier.write(page(1))
        assert fault_of(lambda: read(tier, page(1))) is Fault.SLOW


def test_a_server_that_was_never_there() -> None:
    tier = open_remote(RemoteConfig(url="valkey://127.0.0.1:1/0", timeout_seconds=0.05))
    with closing(tier):
        assert not tier.holds(page(1).place)
        assert fault_of(lambda: tier.write(page(1))) is Fault.FAILED


def test_nothing_is_asked_after_close(valkey: RunningValkey) -> None:
    tier = make(valkey)
    tier.write(page(1))
    tier.close()
    assert fault_of(lambda: read(tier, page(1))) is Fault.FAILED
    assert valkey.raw.dbsize() == 1
