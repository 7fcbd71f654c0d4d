"""Measure what moving bytes takes: from RAM to RAM, to a disk and from it."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from kvloom.errors import DataFileError
from kvloom.learn.timing import Clock, seconds_of
from kvloom.policy.tier_cost import TierCost, TierCosts

_PAGE = 4096
"""Bytes of a small transfer."""

_LEAST_S = 1e-9
"""More time than this is taken by all but a page: where a clock says otherwise, it is too coarse."""


def measure_tiers(directory: Path, clock: Clock, num_bytes: int, repeats: int) -> TierCosts:
    """Medians over ``repeats``, of transfers of ``num_bytes`` and of a page. ``clock``: seconds.

    What is read from the disk was written just before, and the system is asked to forget it first: where it does not
    listen, as in a file system in memory, reading is as fast as its memory. Raises DataFileError when ``directory``
    cannot be written to.
    """
    copy = measure_copy(clock, num_bytes, repeats)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
            write, read = _measure_file(file.fileno(), clock, num_bytes, repeats)
    except OSError as error:
        raise DataFileError(
            f"no disk to measure: {error.strerror or error}", path=directory, hint="--disk names a directory on another"
        ) from error
    return TierCosts(copy, write, read)


def measure_copy(clock: Clock, num_bytes: int, repeats: int) -> TierCost:
    """From RAM to RAM, by one thread."""
    source, target = np.ones(num_bytes, np.uint8), np.zeros(num_bytes, np.uint8)
    small, large = [], []
    for _ in range(repeats):
        small.append(seconds_of(lambda: np.copyto(target[:_PAGE], source[:_PAGE]), clock))
        large.append(seconds_of(lambda: np.copyto(target, source), clock))
    return tier_cost(small, large, num_bytes)


def tier_cost(small: list[float], large: list[float], num_bytes: int) -> TierCost:
    """From what transfers of a page and of ``num_bytes`` took."""
    latency_s = median(small)
    return TierCost((num_bytes - _PAGE) / max(median(large) - latency_s, _LEAST_S), latency_s)


def _measure_file(file: int, clock: Clock, num_bytes: int, repeats: int) -> tuple[TierCost, TierCost]:
    content = memoryview(np.random.default_rng(0).bytes(num_bytes))  # a disk may store zeros without writing them
    writes: tuple[list[float], list[float]] = [], []
    reads: tuple[list[float], list[float]] = [], []
    for _ in range(repeats):
        for size, wrote, took in zip((_PAGE, num_bytes), writes, reads, strict=True):
            wrote.append(seconds_of(partial(_write, file, content[:size]), clock))
            _forget(file)
            took.append(seconds_of(partial(_read, file, size), clock))
    return tier_cost(*writes, num_bytes), tier_cost(*reads, num_bytes)


def _write(file: int, content: memoryview) -> None:
    done = 0
    while done < len(content):
        done += os.pwrite(file, content[done:], done)
    os.fsync(file)


def _read(file: int, size: int) -> None:
    into, done = memoryview(bytearray(size)), 0
    while done < size and (read := os.preadv(file, [into[done:]], done)):
        done += read


def _forget(file: int) -> None:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
