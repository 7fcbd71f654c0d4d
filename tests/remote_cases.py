"""Pages for a remote tier, and tiers at a real server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kvloom.config import RemoteConfig
from kvloom.memory.keys import extend_keys, root_key
from kvloom.memory.tier.base import Fault, Place, StoredPage, TierFault
from kvloom.memory.tier.page_header import HEADER_BYTES
from kvloom.memory.tier.remote import ENTRY_BYTES, RemoteTier
from kvloom.memory.tier.remote_server import RemoteServer
from kvloom.segment import PageKey

if TYPE_CHECKING:
    from valkey_server import RunningValkey

DATA_BYTES = 4096
PAUSE_MS = 1000
NAME_BYTES = len("kvloom:0:") + 64
PAGE_COST = HEADER_BYTES + DATA_BYTES + NAME_BYTES + ENTRY_BYTES


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def page(number: int, salt: str | None = None) -> StoredPage:
    tokens = tuple(range(16 * number, 16 * number + 16))
    keys: list[PageKey] = []
    root = root_key(weights="w", formats="f", salt=salt)
    extend_keys(keys, root, tokens)
    data = np.random.default_rng([number, *(salt or "").encode()]).integers(0, 256, DATA_BYTES, np.uint8)
    return StoredPage(Place(keys[0], 0), root, 0, tokens, memoryview(data))


def read(tier: RemoteTier, of: StoredPage) -> bytes:
    into = bytearray(DATA_BYTES)
    tier.read(of.place, of.tokens, memoryview(into))
    return bytes(into)


def fault_of(act: Callable[[], object]) -> Fault:
    with pytest.raises(TierFault) as caught:
        act()
    return caught.value.fault


def config(valkey: RunningValkey, **settings: Any) -> RemoteConfig:
    return RemoteConfig(url=valkey.url, **{"timeout_seconds": 10.0} | settings)


def make(valkey: RunningValkey, budget_bytes: int = 100 * PAGE_COST, **settings: Any) -> RemoteTier:
    """Without a thread: refreshed by the test alone."""
    return RemoteTier(RemoteServer(config(valkey, **settings)), budget_bytes)


def name_of(of: StoredPage) -> str:
    return f"kvloom:{of.place.group}:{of.place.key.hex()}"


def answers(valkey: RunningValkey) -> None:
    """Wait for the end of a pause."""
    valkey.raw.ping()
