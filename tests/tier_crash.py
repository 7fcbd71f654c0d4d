"""A program that uses a tier on disk until it is killed.

tier_crash.py loop DIRECTORY SEED     write, read and drop until somebody kills it; says what has been written
tier_crash.py steps DIRECTORY         fork again and again: each child dies one system call later than the last;
                                      what each has left is examined
"""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kvloom.memory.tier import disk_index
from kvloom.memory.tier.base import TierFault
from kvloom.memory.tier.disk import DiskTier
from kvloom.memory.tier.disk_index import INDEX_BYTES
from kvloom.memory.tier.page_file import place_of, read_header
from tier_cases import DIRECTORY_BYTES, made_page, read_back

ROOM = 5
"""Pages of layer group 0 that there is room for."""

BUDGET_BYTES = INDEX_BYTES + DIRECTORY_BYTES + ROOM * (20 * 1024 + 1024)


def loop(directory: Path, seed: int) -> None:
    tier, rng, number = DiskTier(directory, BUDGET_BYTES), random.Random(seed), 1000 * seed
    while True:
        tier.write(made_page(number))
        print(number, flush=True)
        number += 1
        if rng.random() < 0.3:
            recent = made_page(number - rng.randrange(1, 5))
            if tier.holds(recent.place):
                read_back(tier, recent)
        if rng.random() < 0.05:
            tier.flush()


def examine(directory: Path) -> set[int]:
    """Open what a dead process has left, and read all of it. Returns the numbers of the pages that are there."""
    tier = DiskTier(directory, BUDGET_BYTES)
    assert not list(directory.rglob("*.tmp")), "temporary files are removed"
    assert tier.repairs.damaged == 0, "a file has its name only when it is whole"
    assert tier.usage().used_bytes <= BUDGET_BYTES
    files = list(directory.rglob("*.kv"))
    places = {row.place for row in tier.rows()}
    assert {place_of(path.name) for path in files} == places
    numbers = set()
    for path in files:
        number = read_header(path, place_of(path.name) or made_page(0).place).position // 16
        assert read_back(tier, made_page(number)) == bytes(made_page(number).data)
        numbers.add(number)
    tier.close()
    return numbers


def steps(directory: Path) -> None:
    """Prints how many system calls there were to die at. Nothing is synced: only a power failure asks for that."""
    disk_index._SETTINGS = disk_index._SETTINGS.replace("synchronous = NORMAL", "synchronous = OFF")
    os.fsync = lambda file: None
    for fatal in range(1, 10_000):
        shutil.rmtree(directory, ignore_errors=True)
        child = os.fork()
        if child == 0:
            short_life(directory, fatal)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if directory.exists():
            examine(directory)
        if status == 0:
            print(fatal - 1)
            return
    raise AssertionError("it never ends")


def short_life(directory: Path, fatal: int) -> None:
    """Some work in which everything happens, until the system call number ``fatal``."""
    calls = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == fatal:
                os._exit(9)
            return call(*arguments, **options)

        return counting

    for name in ("open", "close", "writev", "replace", "unlink", "mkdir", "fsync", "ftruncate"):
        setattr(os, name, counted(getattr(os, name)))
    tier = DiskTier(directory, BUDGET_BYTES)
    tier._index._database.set_trace_callback(counted(lambda statement: None))
    for number in range(ROOM + 2):
        tier.write(made_page(number))
    read_back(tier, made_page(ROOM))
    try:
        read_back(tier, made_page(0))
    except TierFault:
        tier.flush()
    tier.clear()
    tier.write(made_page(0))
    tier.close()


if __name__ == "__main__":
    if sys.argv[1] == "loop":
        loop(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        steps(Path(sys.argv[2]))
