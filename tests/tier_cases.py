"""Every tier there is, and pages for it: what is true of all of them is tested once, over ``TIERS``."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np

from kvloom.config import RemoteConfig, TierFaults
from kvloom.memory.format import PageFormat
from kvloom.memory.keys import page_key, root_key
from kvloom.memory.tier.base import Place, StoredPage, Tier
from kvloom.memory.tier.disk import DiskTier
from kvloom.memory.tier.disk_index import INDEX_BYTES
from kvloom.memory.tier.faulty import Damageable, FaultyTier
from kvloom.memory.tier.remote import RemoteTier
from kvloom.memory.tier.remote_server import RemoteServer
from kvloom.memory.tier.warm import WarmTier

FORMATS = (PageFormat("full", (0, 1), 2, 32, 32, "float32"), PageFormat("window", (2,), 1, 40, 40, "float16"))
"""By layer group: pages of 16 KiB, and of 2.5 KiB."""

ROOT = root_key(weights="w", formats="f")
DIRECTORY_BYTES = 261 * 4096
"""What a disk tier takes for its folders and small files, with blocks of 4 KiB."""


def _remote(directory: Path, num_bytes: int) -> RemoteTier:
    from valkey_server import shared_valkey

    namespace = sha256(bytes(directory)).hexdigest()
    config = RemoteConfig(url=shared_valkey().url, namespace=namespace, timeout_seconds=10.0)
    return RemoteTier(RemoteServer(config), num_bytes)


DAMAGEABLE: dict[str, Callable[[Path, int], Damageable]] = {
    "warm": lambda directory, num_bytes: WarmTier(num_bytes, FORMATS),
    "disk": lambda directory, num_bytes: DiskTier(directory / "cache", num_bytes + INDEX_BYTES + DIRECTORY_BYTES),
    "remote": _remote,
}
"""Made from a directory of their own, and a budget for pages and what is charged for each of them."""

TIERS: dict[str, Callable[[Path, int], Tier]] = {
    **DAMAGEABLE,
    "faulty": lambda directory, num_bytes: FaultyTier(WarmTier(num_bytes, FORMATS), TierFaults(tier="warm")),
}
"""The same, and one with faults of which none occurs."""


def made_page(number: int, group: int = 0, seed: int = 0) -> StoredPage:
    """The page number ``number`` of a long text. Its bytes follow from ``number``, ``group`` and ``seed``."""
    tokens = tuple(range(16 * number, 16 * number + 16))
    noise = np.random.default_rng([number, group, seed]).integers(0, 256, FORMATS[group].page_bytes, np.uint8)
    return StoredPage(Place(page_key(ROOT, tokens), group), ROOT, 16 * number, tokens, noise.data)


def read_back(tier: Tier, page: StoredPage) -> bytes:
    """What the tier has of a page. Raises TierFault."""
    into = bytearray(page.data.nbytes)
    tier.read(page.place, page.tokens, memoryview(into))
    return bytes(into)
