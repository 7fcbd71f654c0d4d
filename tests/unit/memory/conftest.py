"""Fixtures of the remote tier's tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from kvloom.memory.tier.remote import RemoteTier
from remote_cases import PAGE_COST, PAUSE_MS, make

if TYPE_CHECKING:
    from valkey_server import RunningValkey


@pytest.fixture
def impatient(valkey: RunningValkey) -> Iterator[RemoteTier]:
    """A tier for two pages that waits for a fraction of ``PAUSE_MS``."""
    with closing(make(valkey, 2 * PAGE_COST, timeout_seconds=PAUSE_MS / 5000)) as made:
        yield made
